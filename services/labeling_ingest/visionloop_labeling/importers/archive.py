"""ZIP, TAR and TAR.GZ files, read where they lie: names are looked up, nothing is unpacked to disk.

A compressed TAR is the exception: it is unpacked once into one plain TAR beside it, because images
are read in the order in which an annotation file names them. Both kinds are judged before an image
is read: entries, bytes and the ratio of unpacked to packed bytes (a bomb), overlapping entries
(another kind of bomb). What is wrong with one entry (a link, a climbing name, an encrypted file, an
archive in the archive) refuses that entry alone.

Only `stored` and `deflated` ZIP entries are taken: an LZMA entry of a few bytes may ask for 4 GB.
"""

import errno
import gzip
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from stat import S_IFMT, S_IFREG
from typing import IO, Final

from visionloop_labeling.importers import names, tar
from visionloop_labeling.importers.entries import SourceError

_CHUNK: Final = 2**20
_SMALL: Final = 32 * 2**20  # bytes; below, a high ratio does no harm (plain black pictures)
_ENCRYPTED: Final = 0x1
_FOREIGN: Final = {
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"BZh": "compressed by bzip2",
    b"\xfd7zXZ": "compressed by xz",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
}


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """What an archive may hold. `ratio` is unpacked over packed bytes."""

    entries: int = 500_000
    unpacked_bytes: int = 64 * 2**30
    ratio: int = 100


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive; `refusal` where it is not taken."""

    name: str
    size: int  # bytes, unpacked
    refusal: SourceError | None = None


class Archive:
    """An opened archive. Its members are in its own order; threads may read at once."""

    def __init__(
        self,
        members: list[Member],
        pieces: Callable[[int], Iterator[bytes]],  # of the member of this index
        close: Callable[[], None],
    ) -> None:
        self.members = members
        self.close = close
        self._pieces = pieces
        self._places: dict[str, int] = {}
        for place, member in enumerate(members):
            self._places.setdefault(member.name, place)

    def find(self, name: str) -> Member | None:
        """The first member of this name."""
        place = self._places.get(name)
        return None if place is None else self.members[place]

    def read(self, member: Member, limit: int) -> bytes:
        """A member's bytes. Raises SourceError when it is refused, too large or broken."""
        if member.refusal is not None:
            raise member.refusal
        if member.size > limit:
            raise _too_large(member.name, limit)
        data = bytearray()
        with _reading(f"{names.shown(member.name)} in the archive"):
            for piece in self._pieces(self._places[member.name]):
                data += piece
                if len(data) > limit:
                    raise _too_large(member.name, limit)
        return bytes(data)

    def copy(self, member: Member, path: Path, limit: int) -> None:
        """Writes a member's bytes to a file, in pieces. Raises SourceError."""
        if member.refusal is not None:
            raise member.refusal
        written = 0
        with _reading(f"{names.shown(member.name)} in the archive"), path.open("wb") as target:
            for piece in self._pieces(self._places[member.name]):
                written += target.write(piece)
                if written > limit:
                    raise _too_large(member.name, limit)


def is_archive(head: bytes) -> bool:
    """Whether a file whose first 512 bytes are these may be an archive that is taken."""
    return head.startswith((b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b")) or (
        tar.is_tar(head) and any(head)
    )


def open_archive(path: Path, limits: ArchiveLimits) -> Archive:
    """Opens and judges an archive; the folder of `path` is its own, for a TAR that was packed.

    Raises SourceError for what is not an archive or is one made to do harm.
    """
    with path.open("rb") as file:
        head = file.read(512)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _open_zip(path, limits)
    if head.startswith(b"\x1f\x8b"):
        unpacked = path.with_name(f"{path.name}.unpacked")
        with _reading("the archive"):
            _unpack(path, unpacked, limits)
        path = unpacked
        with path.open("rb") as file:
            head = file.read(512)
    if not tar.is_tar(head):
        foreign = next((what for magic, what in _FOREIGN.items() if head.startswith(magic)), None)
        raise SourceError(
            f"the file is {foreign or 'no archive'}; send a ZIP, TAR or TAR.GZ", reason="no_archive"
        )
    return _open_tar(path, limits)


# --- ZIP


def _open_zip(path: Path, limits: ArchiveLimits) -> Archive:
    size = path.stat().st_size
    with _reading("the ZIP archive"):
        with path.open("rb") as file:
            _check_entries(_directory_entries(file, size), limits)
        opened = zipfile.ZipFile(path)
    try:
        files = [info for info in opened.infolist() if not info.filename.endswith("/")]
        _check_entries(len(files), limits)
        if sum(info.compress_size for info in files) > size:
            raise SourceError(
                "entries of the ZIP archive overlap; pack it anew", reason="archive_bomb"
            )
        _check_bytes(sum(info.file_size for info in files), size, limits)
        taken: set[str] = set()
        members = [_zip_member(info, taken) for info in files]
    except BaseException:
        opened.close()
        raise

    def pieces(place: int) -> Iterator[bytes]:
        with opened.open(files[place]) as member:
            while piece := member.read(_CHUNK):
                yield piece

    return Archive(members, pieces, opened.close)


def _directory_entries(file: IO[bytes], size: int) -> int:
    """How many entries the directory at the file's end can have at most, before it is parsed.

    `zipfile` makes an object of each, and a directory may claim most of the file.
    """
    tail_bytes = min(size, 22 + 65_535)
    file.seek(size - tail_bytes)
    tail = file.read(tail_bytes)
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) - end < 22:
        raise zipfile.BadZipFile("its end is missing; was it cut?")
    directory_bytes = int(struct.unpack_from("<L", tail, end + 12)[0])
    if directory_bytes == 0xFFFF_FFFF:
        at = tail.rfind(b"PK\x06\x06")
        if at < 0:
            raise zipfile.BadZipFile("its directory cannot be found")
        directory_bytes = int(struct.unpack_from("<Q", tail, at + 40)[0])
    file.seek(max(0, size - tail_bytes + end - directory_bytes - 76))
    entries, held = 0, b""
    while chunk := file.read(_CHUNK):
        held = held[-3:] + chunk  # a mark may lie across two chunks
        entries += held.count(b"PK\x01\x02")
    return entries


def _zip_member(info: zipfile.ZipInfo, taken: set[str]) -> Member:
    try:
        name = _fresh(names.checked_name(info.filename), taken)
        kind = S_IFMT(info.external_attr >> 16)
        if kind not in (0, S_IFREG):
            raise _odd(name, "is a link or a device", "link")
        if info.flag_bits & _ENCRYPTED:
            raise _odd(name, "is encrypted", "encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _odd(name, "is not compressed by deflate; pack it anew", "compression")
        _check_nesting(name)
    except SourceError as refusal:
        return Member(info.filename[: names.MAX_NAME], info.file_size, refusal)
    return Member(name, info.file_size)


# --- TAR


def _open_tar(path: Path, limits: ArchiveLimits) -> Archive:
    file = path.open("rb")
    try:
        with _reading("the TAR archive"):
            found = []
            for record in tar.records(file):
                found.append(record)
                _check_entries(len(found), limits)
        taken: set[str] = set()
        members = [_tar_member(record, taken) for record in found]
    except BaseException:
        file.close()
        raise

    def pieces(place: int) -> Iterator[bytes]:
        return tar.pieces(file, found[place], _CHUNK)

    return Archive(members, pieces, file.close)


def _tar_member(record: tar.Record, taken: set[str]) -> Member:
    try:
        name = _fresh(names.checked_name(record.name), taken)
        if not record.regular:
            raise _odd(name, "is a link, a device or a sparse file", "link")
        _check_nesting(name)
    except SourceError as refusal:
        return Member(record.name[: names.MAX_NAME], record.size, refusal)
    return Member(name, record.size)


def _unpack(packed: Path, unpacked: Path, limits: ArchiveLimits) -> None:
    """Gunzips, counting."""
    written, size = 0, packed.stat().st_size
    with gzip.open(packed) as source, unpacked.open("wb") as target:
        while plain := source.read(_CHUNK):
            written += target.write(plain)
            _check_bytes(written, size, limits)


# --- what both share


def _check_entries(entries: int, limits: ArchiveLimits) -> None:
    if entries > limits.entries:
        raise SourceError(
            f"the archive has more than {limits.entries:,} entries; send it in parts",
            reason="too_many_entries",
        )


def _check_bytes(unpacked: int, packed: int, limits: ArchiveLimits) -> None:
    if unpacked > limits.unpacked_bytes:
        raise SourceError(
            f"the archive holds {unpacked:,} bytes and more; the limit is "
            f"{limits.unpacked_bytes:,}, so send it in parts",
            reason="too_many_bytes",
        )
    if unpacked > max(_SMALL, limits.ratio * packed):
        raise SourceError(
            f"the archive's {packed:,} bytes unpack to {unpacked:,} and more, over "
            f"{limits.ratio} times as many: it is taken for a bomb",
            reason="archive_bomb",
        )


def _too_large(name: str, limit: int) -> SourceError:
    return SourceError(
        f"{names.shown(name)} has more than {limit:,} bytes, which is the limit",
        reason="too_many_bytes",
    )


def _fresh(name: str, taken: set[str]) -> str:
    if name in taken:
        raise _odd(name, "is in the archive twice; the first one counts", "name_twice")
    taken.add(name)
    return name


def _check_nesting(name: str) -> None:
    if names.is_archive(name):
        raise _odd(name, "is an archive in the archive; send it by itself", "nested_archive")


def _odd(name: str, what: str, reason: str) -> SourceError:
    return SourceError(f"{names.shown(name)} {what}", reason=reason)


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Archive libraries let through whatever their parsing raised."""
    try:
        yield
    except SourceError:
        raise
    except (
        zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, struct.error, NotImplementedError,
        ValueError, EOFError, RuntimeError, LookupError, OverflowError, TypeError,
    ) as error:  # fmt: skip
        raise SourceError(
            f"{what} is broken: {error or type(error).__name__}", reason="corrupt_archive"
        ) from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # a place before the file's beginning
            raise
        raise SourceError(f"{what} is broken", reason="corrupt_archive") from error

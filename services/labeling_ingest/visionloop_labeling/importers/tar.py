"""Reading TAR: where each file lies, in one pass over the headers.

Python's own `tarfile` reads a long name or an extended header whole into memory, however large it
claims to be, and follows sparse maps; here both are bounded. Known are v7, ustar, GNU long names
and pax `path` and `size`; everything else that is no plain file is told as not regular.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Final

_BLOCK: Final = 512
_MAX_HEADER: Final = 2**20  # bytes of a long name or an extended header
_REGULAR: Final = (b"0", b"\0", b"7")
_GNU_NAME: Final = b"L"
_GNU_LINK: Final = b"K"
_PAX: Final = b"x"
_PAX_GLOBAL: Final = b"g"
_FOLDER: Final = b"5"


@dataclass(frozen=True, slots=True)
class Record:
    """A file's name and place. `size` and `offset` in bytes."""

    name: str
    size: int
    offset: int
    regular: bool


def is_tar(head: bytes) -> bool:
    """Whether these first 512 bytes begin a TAR."""
    return len(head) == _BLOCK and (_checksum_fits(head) or not any(head))


def records(file: IO[bytes]) -> Iterator[Record]:
    """Every entry but folders. Raises ValueError for what is not a TAR."""
    total = os.fstat(file.fileno()).st_size
    offset, name, size = 0, "", None
    while header := os.pread(file.fileno(), _BLOCK, offset):
        if not any(header):
            return  # two empty blocks end an archive; one is enough for us
        if len(header) < _BLOCK or not _checksum_fits(header):
            raise ValueError(f"at byte {offset} there is no header")
        kind = header[156:157]
        own_size = _number(header[124:136])
        offset += _BLOCK
        if kind in (_GNU_NAME, _GNU_LINK, _PAX, _PAX_GLOBAL):
            data = _header_data(file, offset, own_size)
            if kind == _GNU_NAME:
                name = _text(data)
            elif kind == _PAX:
                name, size = _pax(data, name, size)
            offset += _padded(own_size)
            continue
        length = own_size if size is None else size
        regular = kind in _REGULAR
        stored = length if regular or kind not in (b"1", b"2", b"3", b"4", _FOLDER, b"6") else 0
        if offset + stored > total:
            raise ValueError("it ends too early; was it cut?")
        if kind != _FOLDER:
            yield Record(name or _own_name(header), length, offset, regular)
        offset += _padded(stored)
        name, size = "", None


def pieces(file: IO[bytes], record: Record, size: int) -> Iterator[bytes]:
    """A file's bytes, at most `size` at a time. Threads may read at once."""
    done = 0
    while done < record.size:
        data = os.pread(file.fileno(), min(size, record.size - done), record.offset + done)
        if not data:
            raise ValueError("it ends too early; was it cut?")
        done += len(data)
        yield data


def _checksum_fits(header: bytes) -> bool:
    try:
        told = _number(header[148:156])
    except ValueError:
        return False
    return told == sum(header[:148]) + 8 * 0x20 + sum(header[156:])


def _number(field: bytes) -> int:
    """Octal text, or binary where the first bit is set."""
    if field[0] & 0x80:
        value = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    else:
        text = field.split(b"\0", 1)[0].strip()
        value = int(text, 8) if text else 0
    if not 0 <= value < 2**62:
        raise ValueError(f"a header has the number {value}")
    return value


def _header_data(file: IO[bytes], offset: int, size: int) -> bytes:
    if size > _MAX_HEADER:
        raise ValueError(f"a name of {size} bytes; the limit is {_MAX_HEADER}")
    return os.pread(file.fileno(), size, offset)


def _pax(data: bytes, name: str, size: int | None) -> tuple[str, int | None]:
    """The records `length key=value\\n` that matter here."""
    place = 0
    while place < len(data):
        digits, space, _ = data[place : place + 12].partition(b" ")
        length = int(digits) if space and digits.isdigit() else 0
        if not len(digits) + 2 < length <= len(data) - place:
            raise ValueError("an extended header is broken")
        key, _, value = data[place + len(digits) + 1 : place + length - 1].partition(b"=")
        if key == b"path":
            name = _text(value)
        elif key == b"size":
            if not value.isdigit() or len(value) > 18:
                raise ValueError("an extended header has no proper size")
            size = int(value)
        place += length
    return name, size


def _own_name(header: bytes) -> str:
    name = _text(header[:100])
    prefix = (
        _text(header[345:500]) if header[257:262] == b"ustar" and header[262:263] == b"\0" else ""
    )
    return f"{prefix}/{name}" if prefix else name


def _text(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK

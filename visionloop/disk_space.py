"""A full disk in one sentence: what could not be written, how much is free there, what moves it.

A disk takes no more when it has no room left, no inode left, or when a quota or a limit on a file's
size is reached: the kernel has a number for each, and all count here. Whoever writes says the path,
the bytes it wanted where it knows them, and the setting that names another place:

    with room_for(path, wanted=len(data), setting="--cache"):
        path.write_bytes(data)

What was half-written is the writer's to remove; this only finds the words.
"""

import errno
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from visionloop.errors import DiskFullError

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def is_full(error: OSError) -> bool:
    """Whether it says that the disk takes no more."""
    return error.errno in _FULL


@contextmanager
def room_for(path: Path, *, wanted: int | None = None, setting: str = "") -> Iterator[None]:
    """Turns a full disk, met while `path` is written, into a DiskFullError; other errors pass.

    `wanted` are bytes. A DiskFullError from within gets the setting, if it names none yet.
    """
    try:
        yield
    except DiskFullError as error:
        if not setting or error.setting:
            raise
        raise DiskFullError(error.what, setting) from error
    except OSError as error:
        if not is_full(error):
            raise
        sizes = [f"{bytes_in_words(wanted)} wanted"] if wanted is not None else []
        sizes.append(_free(path))
        what = f"cannot write {path}: {error.strerror} ({', '.join(sizes)})"
        raise DiskFullError(what, setting) from error


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """An empty folder in TMPDIR, gone when the block ends.

    Raises DiskFullError where there is no room for it, or for what the block writes.
    """
    try:
        place = Path(tempfile.gettempdir())
    except FileNotFoundError as error:  # it has tried to write to each
        raise DiskFullError(f"{error.strerror}: none can be written", "TMPDIR") from error
    with (
        room_for(place, setting="TMPDIR"),
        tempfile.TemporaryDirectory(prefix=prefix, dir=place) as name,
    ):
        yield Path(name)


@contextmanager
def room_anywhere(places: Mapping[str, Path]) -> Iterator[None]:
    """The last net of a program: a full disk that nobody nearer has put into words.

    `places` are what it writes to, by setting; each, and TMPDIR, is told with what is free there.
    """
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        written = {**places, "TMPDIR": Path(os.environ.get("TMPDIR") or "/tmp")}  # noqa: S108
        where = f" {error.filename}" if error.filename else ""
        free = "; ".join(f"{setting} {path}: {_free(path)}" for setting, path in written.items())
        what = f"cannot write{where}: {error.strerror} ({free})"
        raise DiskFullError(what, " or ".join(written)) from error


def bytes_in_words(count: int) -> str:
    """Bytes in words."""
    amount, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if amount < 1000:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"


def _free(path: Path) -> str:
    """What the disk of a file that may not be there has left for this user."""
    for there in (path, *path.absolute().parents):
        try:
            found = os.statvfs(there)
        except OSError:
            continue
        if found.f_files and not found.f_favail:
            return "no room for another file's name: the inodes are used up"
        return f"{bytes_in_words(found.f_bavail * found.f_frsize)} free"
    return "what is free is not known"

"""Files on this machine that are written whole or not at all.

`written_whole` costs one fsync of the file and one of its folder: a power cut leaves the old
content or the new, never a mixture and never an empty file.
"""

import errno
import hashlib
import os
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from visionloop.disk_space import room_for
from visionloop.errors import CorruptError

CHUNK_BYTES = 1 << 20
PARTIAL_SUFFIX = ".partial"
ABANDONED_SECONDS = 24 * 3600  # a file that is unfinished for so long has lost its writer


@contextmanager
def written_whole(path: Path, size: int | None = None) -> Iterator[BinaryIO]:
    """A new file, open for reading and writing, that takes the place of `path` when the block ends.

    If the block raises, nothing changes at `path`. Missing folders are made. Raises DiskFullError,
    which tells the `size` (bytes) where that is known before.
    """
    with room_for(path, wanted=size):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{uuid.uuid4().hex}{PARTIAL_SUFFIX}")  # any name of `path`
        try:
            with partial.open("xb+") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def put_whole(path: Path, data: bytes | memoryview) -> None:
    """Puts `data` at `path`, all of it or nothing; missing folders are made. Raises OSError.

    Nothing is synced: for caches, whose readers notice what a power cut tore.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{uuid.uuid4().hex}{PARTIAL_SUFFIX}")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def remove_abandoned(files: Iterable[Path]) -> None:
    """Frees the room that killed writers took: removes those of `files` that grew old.

    Best effort: what cannot be removed (a read-only disk, somebody else's file) stays.
    """
    oldest = time.time() - ABANDONED_SECONDS
    with suppress(OSError):  # a folder that went away
        for file in files:
            with suppress(OSError):
                if file.lstat().st_mtime < oldest:
                    file.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Makes the names in `folder` durable (a rename alone may be lost in a power cut)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot do this for folders
            raise
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """The digest of a file as 64 hex digits, read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_content(
    what: str, *, size: int, sha256: str, expected_size: int | None, expected_sha256: str | None
) -> None:
    """Raises CorruptError when what arrived is not what was asked for. Sizes in bytes."""
    if expected_size is not None and size != expected_size:
        raise CorruptError(f"{what} has {size} bytes, expected {expected_size}: torn or altered")
    if expected_sha256 is not None and sha256 != expected_sha256:
        raise CorruptError(
            f"{what} has the digest {sha256}, expected {expected_sha256}: torn or altered"
        )

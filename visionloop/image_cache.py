"""Encoded images of a store on this node's disk, by digest: each is fetched once for all processes.

    <folder>/ab/<sha256>      the bytes; whoever reads them checks the digest
    <folder>/.locks/ab        held while an image of these digits is fetched
    <folder>/.usage           bytes in the folder, by the last count and what came since

Snapshots share images, so the next one costs only what is new. Any number of processes may use one
folder: a file appears whole by a rename, one process fetches while the others wait for it, and what
a crash left torn is noticed by its digest and fetched anew (nothing need be synced to disk). With
`max_bytes` the images that were not read for longest go first; a reader that has one open keeps it.
A disk that is full or read-only slows training down, it does not stop it.

The price of checking: a SHA-256 each time an image is read, 0.6 ms a megabyte.
"""

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from visionloop.errors import CorruptError, InvalidInputError, NotFoundError
from visionloop.objectstore import ObjectStore
from visionloop.objectstore.local import PARTIAL_SUFFIX, put_whole, remove_abandoned
from visionloop.snapshot import blob_key

KEPT_SHARE: Final = 0.9  # of max_bytes, after room was made
_TOUCH_SECONDS: Final = 60.0  # a file's time is written at most so often


class ImageCache:
    """The images of `store` in `folder`. Safe to use from threads and processes.

    `max_bytes` bounds the folder (None: no bound); all processes should give the same.
    """

    def __init__(self, store: ObjectStore, folder: Path, *, max_bytes: int | None = None) -> None:
        if max_bytes is not None and max_bytes <= 0:
            raise InvalidInputError(
                f"max_bytes is {max_bytes}; give the size of the cache in bytes, or none",
                field="max_bytes",
            )
        self._store = store
        self._folder = folder
        self._max_bytes = max_bytes

    def read(self, sha256: str) -> bytes:
        """The encoded bytes. Raises NotFoundError or CorruptError naming the image."""
        key = blob_key(sha256)  # refuses what is no digest, before it becomes a path
        path = self._folder / sha256[:2] / sha256
        data = self._kept(path, sha256)
        if data is None:
            with self._fetching(sha256[:2]):
                data = self._kept(path, sha256) or self._fetched(path, key, sha256)
        return data

    def _kept(self, path: Path, sha256: str) -> bytes | None:
        try:
            with path.open("rb") as file:
                data = file.read()
                age = time.time() - os.fstat(file.fileno()).st_mtime
        except OSError:
            return None
        if hashlib.sha256(data).hexdigest() != sha256:
            with suppress(OSError):
                path.unlink()
            return None
        if age > _TOUCH_SECONDS:
            with suppress(OSError):
                os.utime(path)
        return data

    def _fetched(self, path: Path, key: str, sha256: str) -> bytes:
        try:
            data = self._store.get(key).data
        except NotFoundError as error:
            raise NotFoundError(
                f"image {sha256} is in the snapshot but not in {self._store.url} ({key}); restore "
                "the blob, or make a snapshot without it"
            ) from error
        found = hashlib.sha256(data).hexdigest()
        if found != sha256:
            raise CorruptError(
                f"image {sha256} has the digest {found} in {self._store.url} ({key}): torn or "
                "altered; restore the blob"
            )
        with suppress(OSError):
            self._keep(path, data)
        return data

    def _keep(self, path: Path, data: bytes) -> None:
        if self._max_bytes is not None:
            if len(data) > self._max_bytes * KEPT_SHARE:
                return
            self._make_room(len(data), self._max_bytes)
        put_whole(path, data)

    def _make_room(self, wanted: int, limit: int) -> None:
        """Books `wanted` bytes; counts and removes when they are too many."""
        with _locked(self._folder / ".usage") as ledger:
            booked = os.pread(ledger, 32, 0).strip()
            used = int(booked) + wanted if booked.isdigit() else limit + 1
            if used > limit:
                used = self._remove_oldest(int(limit * KEPT_SHARE) - wanted) + wanted
            os.pwrite(ledger, b"%-20d" % used, 0)

    def _remove_oldest(self, limit: int) -> int:
        """Brings the folder down to `limit` bytes; returns how many it has."""
        remove_abandoned(self._folder.glob(f"*/.*{PARTIAL_SUFFIX}"))
        images = []
        for path in self._folder.glob("[0-9a-f][0-9a-f]/*"):
            with suppress(OSError):
                seen = path.stat()
                images.append((seen.st_mtime_ns, seen.st_size, path))
        used = sum(size for _, size, _ in images)
        for _, size, path in sorted(images):
            if used <= limit:
                break
            with suppress(OSError):
                path.unlink()
                used -= size
        return used

    @contextmanager
    def _fetching(self, digits: str) -> Iterator[None]:
        """One at a time, of threads and processes; where no lock can be had, some fetch twice."""
        lock = None
        try:
            with suppress(OSError):
                lock = _opened(self._folder / ".locks" / digits)
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            if lock is not None:
                _unlock(lock)


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    descriptor = _opened(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        _unlock(descriptor)


def _unlock(descriptor: int) -> None:
    """Frees the lock by name: closing alone frees nothing while a child that was forked meanwhile
    (a data loader's worker) lives, and everybody would wait for it."""
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def _opened(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)

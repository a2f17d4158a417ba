"""The interface that all stores share, and the rules for keys."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ObjectStat:
    """What a listing tells of one object. `key` is relative to the store's root."""

    key: str
    size: int  # bytes
    etag: str  # opaque; changes with the content
    modified: datetime  # UTC


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object's bytes with the etag that `compare_and_swap` wants."""

    key: str
    data: bytes
    etag: str


class ObjectStore(Protocol):
    """A flat space of immutable-by-convention objects under slash-separated keys.

    Calls are blocking and safe to make from several threads at once. All of them retry what is
    worth retrying (time-outs, 5xx, throttling) with exponential back-off, and raise
    UnavailableError when the store stays away, PermissionDeniedError or UnauthenticatedError when
    it says no, and InvalidInputError for a key that is empty, absolute or climbs (`..`).
    """

    @property
    def url(self) -> str:
        """The URL the store was opened with, without secrets."""
        ...

    def get(self, key: str) -> StoredObject:
        """The whole object. Raises NotFoundError."""
        ...

    def put(self, key: str, data: bytes) -> str:
        """Writes or replaces the object in one step; returns its etag."""
        ...

    def put_if_absent(self, key: str, data: bytes) -> str:
        """Writes the object unless one is there; returns its etag. Raises ConflictError."""
        ...

    def compare_and_swap(self, key: str, data: bytes, etag: str | None) -> str:
        """Replaces the object only if it still has `etag`; returns the new etag.

        `etag=None` means "there must be none yet". Raises ConflictError when it changed, appeared
        or went away since it was read.
        """
        ...

    def stat(self, key: str) -> ObjectStat:
        """Size, etag and time without the bytes. Raises NotFoundError."""
        ...

    def list(self, prefix: str = "") -> Iterator[ObjectStat]:
        """All objects whose key starts with `prefix`; those of one folder in the order of names.

        How folders lie between them is the server's choice: S3 compares whole keys, SeaweedFS
        walks a tree.
        """
        ...

    def list_folders(self, prefix: str) -> Iterator[str]:
        """The names one level below `prefix` (which ends in "/") that hold objects, in order.

        Some servers (SeaweedFS) show a folder for a while after its last object was deleted.
        """
        ...

    def download(self, key: str, path: Path, *, sha256: str | None, size: int | None = None) -> str:
        """Fetches the object to `path` (written whole or not at all); returns its sha256.

        Large objects are fetched in parallel ranges. Raises NotFoundError, and CorruptError when
        size or sha256 (64 hex digits; None: not known) differ; nothing is left at `path` then.
        """
        ...

    def upload(self, path: Path, key: str) -> str:
        """Writes a file of any size as one object; returns its etag."""
        ...

    def delete(self, key: str) -> None:
        """Removes the object; a missing one is fine."""
        ...

    def probe(self, folder: str = "") -> None:
        """Proves that the store is reachable and honours conditional writes.

        Writes, conditionally rewrites and removes one object under `.probe/` in `folder`, which is
        where the caller may write ("models", "datasets"; "" is the root). Raises
        ConfigurationError that names what the store lacks.
        """
        ...

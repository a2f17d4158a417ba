"""The proof that a store honours the two conditional writes that all coordination rests on.

A store that ignores the conditions would let two promotions overwrite one another without a word.
The probe makes it fail at start instead; it costs five small writes.
"""

import uuid
from collections.abc import Callable

from visionloop.errors import ConfigurationError, ConflictError
from visionloop.objectstore.base import ObjectStore


def probe_conditional_writes(store: ObjectStore, folder: str = "") -> None:
    """Writes and rewrites one object under `.probe/` in `folder` and removes it.

    Raises ConfigurationError naming the condition that was ignored.
    """
    key = f"{folder}/.probe/{uuid.uuid4().hex}".lstrip("/")
    first = store.put_if_absent(key, b"1")
    try:
        _must_refuse(store, "put-if-absent (If-None-Match: *)", store.put_if_absent, key, b"2")
        second = store.compare_and_swap(key, b"3", first)
        _must_refuse(store, "compare-and-swap (If-Match)", store.compare_and_swap, key, b"4", first)
        if store.get(key).data != b"3" or store.stat(key).etag != second:
            raise ConfigurationError(
                f"{store.url} does not give back what was written last; a store with strong "
                "read-after-write consistency is needed",
                field="store",
            )
    finally:
        store.delete(key)


def _must_refuse(
    store: ObjectStore, condition: str, write: Callable[..., str], *arguments: str | bytes
) -> None:
    try:
        write(*arguments)
    except ConflictError:
        return
    raise ConfigurationError(
        f"{store.url} ignores {condition}: two writers would overwrite one another. Use a store "
        "with conditional writes (AWS S3, MinIO, SeaweedFS 4, Ceph, R2, or file://)",
        field="store",
    )

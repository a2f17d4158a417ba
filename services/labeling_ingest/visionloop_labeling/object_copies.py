"""Objects from one store into another: small ones several at a time through memory, large ones one
by one through a file, because S3 takes 5 GiB in one piece and a pod has less memory than that."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, TypeVar

from visionloop.objectstore import ObjectStat, ObjectStore
from visionloop.objectstore.transfers import in_parallel

SMALL_BYTES: Final = 32 * 2**20
_BATCH: Final = 256
_Result = TypeVar("_Result")


@contextmanager
def fetched(
    store: ObjectStore, key: str, size: int, scratch: Path | None
) -> Iterator[tuple[bytes | Path, str]]:
    """An object's bytes, or a file of them where they are many, and their sha256.

    `size` in bytes, as it was listed; the file is in `scratch` and goes away with the block.
    """
    if size <= SMALL_BYTES:
        data = store.get(key).data
        yield data, hashlib.sha256(data).hexdigest()
        return
    with TemporaryDirectory(dir=scratch) as folder:
        file = Path(folder) / "object"
        yield file, store.download(key, file, sha256=None)


def write(store: ObjectStore, key: str, content: bytes | Path) -> None:
    """Writes what `fetched` gave."""
    if isinstance(content, Path):
        store.upload(content, key)
    else:
        store.put(key, content)


def each(found: Iterable[ObjectStat], do: Callable[[ObjectStat], _Result]) -> Iterator[_Result]:
    """What `do` gives for each: several small ones at a time, large ones one by one."""
    for batch in _batches(found):
        yield from in_parallel(do, [one for one in batch if one.size <= SMALL_BYTES])
        yield from map(do, [one for one in batch if one.size > SMALL_BYTES])


def _batches(found: Iterable[ObjectStat]) -> Iterator[list[ObjectStat]]:
    rest = iter(found)
    while batch := list(islice(rest, _BATCH)):
        yield batch

"""A snapshot's images for training, in an order that can be repeated and taken up again.

The order of an epoch is that of a keyed digest of each image's own digest: it depends on the seed,
the epoch and the images alone, not on a library's random numbers, and a new image does not shuffle
the others. Ranks take turns in that one order, and a `Position` counts what all of them have had:
so a run that stopped goes on from any of its positions, even with another number of ranks. What
lacks to an equal number of images a rank is taken once more from the start of the order.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from typing import Final

import numpy as np
from numpy.typing import NDArray

from visionloop.errors import InvalidInputError
from visionloop.image_cache import ImageCache
from visionloop.snapshot import SnapshotRow

AHEAD: Final = 32  # images fetched before they are asked for
_THREADS: Final = 8


@dataclass(frozen=True, slots=True)
class Position:
    """Where a run stands: the epoch, and the images of it that all ranks together have had."""

    epoch: int = 0
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """An image as it was stored, its row, and where to go on after it."""

    row: SnapshotRow
    image: bytes
    after: Position


class ImageStream:
    """One rank's share of `rows`, epoch by epoch."""

    def __init__(
        self,
        rows: Sequence[SnapshotRow],
        cache: ImageCache,
        *,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if not rows:
            raise InvalidInputError("there are no images to read", field="rows")
        if not 0 <= rank < world:
            raise InvalidInputError(
                f"rank is {rank} of {world}; ranks count from 0 to world - 1", field="rank"
            )
        self._rows = rows
        self._cache = cache
        self._seed = seed
        self._rank = rank
        self._world = world

    def epoch(self, start: Position = Position()) -> Iterator[Sample]:
        """The rest of an epoch; images are fetched ahead. Raises as `ImageCache.read` does."""
        wanted = self._wanted(start)
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="images") as threads:
            coming: deque[tuple[SnapshotRow, Position, Future[bytes]]] = deque()
            try:
                while True:
                    for row, after in islice(wanted, AHEAD - len(coming)):
                        coming.append((row, after, threads.submit(self._cache.read, row.sha256)))
                    if not coming:
                        return
                    row, after, image = coming.popleft()
                    yield Sample(row, image.result(), after)
            finally:
                threads.shutdown(wait=False, cancel_futures=True)

    def _wanted(self, start: Position) -> Iterator[tuple[SnapshotRow, Position]]:
        count = len(self._rows)
        if not 0 <= start.offset <= count + self._world:
            raise InvalidInputError(
                f"offset {start.offset} is not in an epoch of {count} images", field="offset"
            )
        order = epoch_order([row.sha256 for row in self._rows], self._seed, start.epoch)
        for step in range(start.offset, count, self._world):
            after = Position(start.epoch, step + self._world)
            if after.offset >= count:
                after = Position(start.epoch + 1)
            yield self._rows[order[(step + self._rank) % count]], after


def epoch_order(digests: Sequence[str], seed: int, epoch: int) -> NDArray[np.int64]:
    """The places of `digests` (n,) in the order of an epoch (n,)."""
    key = blake2b(f"{seed}/{epoch}".encode(), digest_size=16).digest()
    keyed = b"".join(
        blake2b(bytes.fromhex(one), digest_size=8, key=key).digest() for one in digests
    )
    return np.argsort(np.frombuffer(keyed, dtype="<u8"), kind="stable")

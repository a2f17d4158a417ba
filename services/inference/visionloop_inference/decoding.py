"""Encoded bytes to the rows that a graph takes, in a small pool of threads.

Pillow and hashlib let go of the GIL while they work, so the event loop keeps answering. Decoding
stands before the queue: a bad image fails here, alone, and never enters a batch. Golden images of
a bundle go the same way, which is what makes their replay a proof.
"""

import asyncio
import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from visionloop import images
from visionloop.errors import ImageError
from visionloop.images import Limits
from visionloop.preprocessing import Preprocessing
from visionloop.telemetry import inference as metrics

FIRST_GUESS = 0.005  # seconds an image takes, until one was measured
FORGETTING = 0.1


@dataclass(frozen=True, slots=True)
class Decoded:
    """One image, ready for the graph."""

    row: NDArray[np.uint8]  # (height, width, 3) of the graph's input
    width: int  # of the source, oriented
    height: int
    sha256: str  # of the encoded bytes, 64 hex digits


class Decoder:
    """The pool. Safe to use from the event loop only."""

    def __init__(self, threads: int, limits: Limits | None = None) -> None:
        self.threads = threads  # images that are decoded side by side
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._limits = limits or Limits()
        self._pending = 0
        self._seconds = FIRST_GUESS

    async def decode(self, data: bytes, preprocessing: Preprocessing) -> Decoded:
        """One image. Raises ImageError; cancelling the caller drops work that has not begun."""
        self._pending += 1
        try:
            decoded, seconds = await asyncio.get_running_loop().run_in_executor(
                self._pool, _decode, data, preprocessing, self._limits
            )
        except ImageError as error:
            metrics.IMAGE_ERRORS.labels(reason=error.reason).inc()
            raise
        finally:
            self._pending -= 1
        self._seconds += FORGETTING * (seconds - self._seconds)
        metrics.STAGE_DURATION.labels(stage="decode").observe(seconds)
        return decoded

    def seconds(self, images: int) -> float:
        """Predicted seconds until so many more images, put behind the waiting ones, are decoded."""
        if images == 0:
            return 0.0
        return (self._pending + images) * self._seconds / self.threads

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def _decode(data: bytes, preprocessing: Preprocessing, limits: Limits) -> tuple[Decoded, float]:
    start = perf_counter()
    _, picture = images.decode_picture(data, limits)
    row = preprocessing.of_picture(picture)
    decoded = Decoded(row, picture.width, picture.height, hashlib.sha256(data).hexdigest())
    return decoded, perf_counter() - start

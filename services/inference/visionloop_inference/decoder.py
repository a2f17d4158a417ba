"""Where a front end has its images decoded: in the processes it is linked to, else in its threads.

Pillow and hashlib let go of the GIL while they work, so the event loop keeps answering; but threads
of one interpreter do not scale on a machine of many cores (`decoder_pool` does). Threads also take
what no process can: an image while none is there, and one too large for an arena.

Decoding stands before the queue: a bad image fails here, alone, and never enters a batch. Golden
images of a bundle go through the same functions, which is what makes their replay a proof.
"""

import asyncio
import contextlib
import time
from concurrent.futures import ThreadPoolExecutor

from visionloop.errors import ImageError
from visionloop.images import Limits
from visionloop.preprocessing import Preprocessing
from visionloop.telemetry import inference as metrics
from visionloop_inference.bulk_decoding import BulkTurns, most_of_bulk
from visionloop_inference.datatypes import Buffer
from visionloop_inference.decoder_pool import DecoderPool, NoDecoderError
from visionloop_inference.decoding import Decoded, decode
from visionloop_inference.decoding_load import DecodingLoad
from visionloop_inference.levels import AFTERWARDS

FIRST_GUESS = 0.005  # seconds an image takes, until one was measured
FORGETTING = 0.1


class Decoder:
    """Both. Safe to use from the event loop only."""

    def __init__(
        self, threads: int, limits: Limits | None = None, load: DecodingLoad | None = None
    ) -> None:
        """Takes over `load`, which all front ends share; None where there is no other."""
        self.processes = DecoderPool(lambda: self._seconds)
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._limits = limits or Limits()
        self._load = load or DecodingLoad.create()
        self._pending = 0
        self._seconds = FIRST_GUESS
        self._bulk = BulkTurns(self._most_of_bulk)
        self._bulk_images = 0  # under way, or waiting for their turn

    async def decode(
        self, data: Buffer, preprocessing: Preprocessing, *, low: bool = False
    ) -> Decoded:
        """One image; one of low priority in its turn (`bulk_decoding`).

        Raises ImageError, and UnavailableError when its process died of something; cancelling the
        caller drops work that has not begun.
        """
        if low:
            self._count_bulk(+1)
            try:
                async with self._bulk.turn():
                    return await self._at_once(data, preprocessing)
            finally:
                self._count_bulk(-1)
        self._load.tell_asked(time.monotonic())
        return await self._at_once(data, preprocessing)

    async def _at_once(self, data: Buffer, preprocessing: Preprocessing) -> Decoded:
        self._count(+1)
        try:
            decoded, seconds = await self._decoded(data, preprocessing)
        except ImageError as error:
            metrics.IMAGE_ERRORS.labels(reason=error.reason).inc()
            raise
        finally:
            self._count(-1)
        self._seconds += FORGETTING * (seconds - self._seconds)
        metrics.STAGE_DURATION.labels(stage="decode").observe(seconds)
        return decoded

    async def _decoded(self, data: Buffer, preprocessing: Preprocessing) -> tuple[Decoded, float]:
        with contextlib.suppress(NoDecoderError):
            return await self.processes.decode(data, preprocessing)
        return await asyncio.get_running_loop().run_in_executor(
            self._pool, decode, data, preprocessing, self._limits
        )

    def _count(self, change: int) -> None:
        self._pending += change
        self._load.tell(self._pending)

    def _count_bulk(self, change: int) -> None:
        self._bulk_images += change
        self._load.tell_bulk(self._bulk_images)

    def _most_of_bulk(self) -> int:
        others = time.monotonic() < self._load.asked + AFTERWARDS
        sharing = self._load.with_bulk if self.processes.count else 1  # threads are our own
        return most_of_bulk(self.side_by_side, others=others, sharing=sharing)

    @property
    def side_by_side(self) -> int:
        """How many images are decoded at once."""
        return self.processes.count or self._threads

    def seconds(self, images: int) -> float:
        """Predicted seconds until so many more images, put behind the waiting ones, are decoded."""
        if images == 0:
            return 0.0
        waiting = self._pending + (self._load.others if self.processes.count else 0)
        return (waiting + images) * self._seconds / self.side_by_side

    def close(self) -> None:
        self.processes.close()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._load.close()

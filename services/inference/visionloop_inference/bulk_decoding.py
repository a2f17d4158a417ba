"""Decoding for work of low priority: few images at a time, so that others wait behind few.

The decoder takes images in the order they come. A bulk caller may hold a hundred; were all of them
handed over at once, the image of somebody who waits for his answer would stand behind a hundred.
"""

import asyncio

from visionloop.preprocessing import Preprocessing
from visionloop_inference.decoding import Decoded, Decoder

EACH = 2  # images for each thread: one that is decoded, and one that is there when it is done


class BulkDecoder:
    """The decoder as work of low priority sees it. Used from one event loop only."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._turns = asyncio.Semaphore(EACH * decoder.threads)

    async def decode(self, data: bytes, preprocessing: Preprocessing) -> Decoded:
        """One image, as `Decoder.decode` does it, in its turn."""
        async with self._turns:
            return await self._decoder.decode(data, preprocessing)

"""Decoding for work of low priority: few images at a time, so that others wait behind few.

The decoder takes images in the order they come. A bulk caller may hold a hundred; were all of them
handed over at once, the image of somebody who waits for his answer would stand behind a hundred.
While there are such callers (`levels`), half of what decodes is kept free of bulk work: an image
that is being decoded takes a core from all that an answer goes through. Price: bulk work is slower
then, by about a tenth on two cores.
"""

import asyncio
from collections import deque

from visionloop.preprocessing import Preprocessing
from visionloop_inference.datatypes import Buffer
from visionloop_inference.decoder import Decoder
from visionloop_inference.decoding import Decoded

EACH = 2  # images for each that is decoded at once: that one, and one that is there when it is done


class BulkDecoder:
    """The decoder as work of low priority sees it. Used from one event loop only."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._under_way = 0
        self._line: deque[asyncio.Event] = deque()  # who waits for room; the first is told of it

    async def decode(self, data: Buffer, preprocessing: Preprocessing) -> Decoded:
        """One image, as `Decoder.decode` does it, in its turn."""
        if self._line or not self._has_room():
            await self._room()
        self._under_way += 1
        try:
            return await self._decoder.decode(data, preprocessing, low=True)
        finally:
            self._under_way -= 1
            self._tell()

    async def _room(self) -> None:
        turn = asyncio.Event()
        self._line.append(turn)
        try:
            while self._line[0] is not turn or not self._has_room():
                turn.clear()
                await turn.wait()
        finally:
            self._line.remove(turn)
            self._tell()  # there may be room for more than one: decoding processes come and go

    def _has_room(self) -> bool:
        at_once = self._decoder.side_by_side
        return self._under_way < (max(1, at_once // 2) if self._decoder.others else EACH * at_once)

    def _tell(self) -> None:
        if self._line:
            self._line[0].set()

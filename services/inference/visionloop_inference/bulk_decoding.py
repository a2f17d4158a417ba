"""Turns in decoding for work of low priority: few images at a time, so others wait behind few.

The decoder takes images in the order they come. A bulk caller may hold a hundred; were all of them
handed over at once, the image of somebody who waits for his answer would stand behind a hundred.
While there are such callers (`levels`), of any front end, half of what decodes is kept free of bulk
work: an image that is being decoded takes a core from all that an answer goes through. Front ends
that share decoders share this half as well. Price: bulk work is slower then, by 3 % beside 15 calls
a second on two cores (`bench.bulk`).
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

EACH = 2  # images for each that is decoded at once: that one, and one that is there when it is done


def most_of_bulk(at_once: int, *, others: bool, sharing: int = 1) -> int:
    """Images of bulk work that one front end may have under way, where so many are decoded at once.

    `others` call, too; `sharing` front ends with bulk work have the same decoders. Each has its
    part of what there is, rounded down, and at least one.
    """
    most = at_once // 2 if others else EACH * at_once
    return max(1, most // max(1, sharing))


class BulkTurns:
    """Images of bulk work that are under way, and those that wait for their turn. Used from one
    event loop only."""

    def __init__(self, most: Callable[[], int]) -> None:
        """`most()` may be under way, at least 1."""
        self._most = most
        self._under_way = 0
        self._line: deque[asyncio.Event] = deque()  # who waits for room; the first is told of it

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """For an image: begins in its turn, and is under way for the length of the block."""
        if self._line or not self._has_room():
            await self._room()
        self._under_way += 1
        try:
            yield
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
        return self._under_way < self._most()

    def _tell(self) -> None:
        if self._line:
            self._line[0].set()

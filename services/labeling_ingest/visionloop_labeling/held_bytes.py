"""How many bytes of requests are in memory at once, however many callers there are."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class HeldBytes:
    """Room for `most` bytes. Who finds none waits in turn; what is larger than all goes alone.

    Used on one event loop.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._held = 0
        self._turn = asyncio.Lock()  # whose waiters are let in as they came
        self._freed = asyncio.Event()

    @asynccontextmanager
    async def room(self, size: int) -> AsyncIterator[None]:
        """Holds `size` bytes while the block runs."""
        async with self._turn:
            while self._held and self._held + size > self.most:
                self._freed.clear()
                await self._freed.wait()
            self._held += size
        try:
            yield
        finally:
            self._held -= size
            self._freed.set()

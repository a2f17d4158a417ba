"""Memory that a flood of images took goes back to the kernel once the flood is over.

glibc keeps what is freed, in an arena for each thread, for the next request of that thread: after
some hundred images of 2 MB, 30 to 430 MB that nobody uses and a pod's limit counts. Nothing of ours
holds it: of 72 MB that the arenas had free, `malloc_trim` gave back 53 (bench by hand). Fewer
arenas (MALLOC_ARENA_MAX=2) kept more, 240 MB, and a fixed threshold for mmap changed nothing.

The price: the next flood faults its pages in anew. So it is done only after many bytes, and when
nothing has been on its way for a moment.
"""

import asyncio
import ctypes
from collections.abc import Callable
from contextlib import suppress
from typing import Final

ENOUGH: Final = 64 * 2**20  # bytes of images since the last time
PAUSE_SECONDS: Final = 1.0  # what carried the last images is freed by then


class FreedMemory:
    """Used on one event loop. `busy` tells whether images are on their way."""

    def __init__(self, busy: Callable[[], bool]) -> None:
        self._busy = busy
        self._size = 0
        self._timer: asyncio.TimerHandle | None = None

    def note(self, size: int) -> None:
        """So many bytes of images were just done with."""
        self._size += size
        if self._size >= ENOUGH and self._timer is None and not self._busy():
            self._timer = asyncio.get_running_loop().call_later(PAUSE_SECONDS, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._busy():
            return  # whoever ends last notes it again
        self._size = 0
        asyncio.get_running_loop().run_in_executor(None, give_back)


def give_back() -> None:
    """What the C library has free; blocks for some milliseconds. Does nothing where it cannot."""
    with suppress(OSError, AttributeError):  # no glibc
        ctypes.CDLL(None).malloc_trim(0)

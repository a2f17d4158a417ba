"""How many images wait in all front ends: a page of numbers that they share.

Decoders are shared, so what one front end waits for depends on what the others hold. Each writes
its own number, 8 bytes that it alone stores, and adds up the others' when it predicts; nobody is
asked. The supervisor owns the page and clears the number of a front end that died. An estimate: the
numbers are of slightly different moments.
"""

import mmap
import os
from typing import Self

from visionloop_inference.settings import MOST_FRONT_ENDS

_BYTES = 8 * MOST_FRONT_ENDS
_SIZE = mmap.PAGESIZE


class DecodingLoad:
    """The page, mapped into this process, as the front end `index` sees it."""

    def __init__(self, fd: int, index: int) -> None:
        """Takes the descriptor over. Raises OSError."""
        self.fd = fd
        self._index = index
        self._map = mmap.mmap(fd, _SIZE)
        self._numbers = memoryview(self._map)[:_BYTES].cast("Q")

    @classmethod
    def create(cls) -> Self:
        """A new page, all zero. Raises OSError."""
        fd = os.memfd_create("decoding-load", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, _SIZE)
            return cls(fd, 0)
        except BaseException:
            os.close(fd)
            raise

    def tell(self, images: int) -> None:
        """So many images wait here, those that are being decoded included."""
        self._numbers[self._index] = images

    def clear(self, index: int) -> None:
        """Another front end is gone."""
        self._numbers[index] = 0

    @property
    def others(self) -> int:
        """Images that wait in all other front ends."""
        return sum(self._numbers) - self._numbers[self._index]

    def close(self) -> None:
        """Lets the page go. Calls may end later: what they tell goes nowhere."""
        numbers, self._numbers = self._numbers, memoryview(bytearray(_BYTES)).cast("Q")
        numbers.release()
        self._map.close()
        os.close(self.fd)

"""What all front ends know of each other's images: a page of numbers that they share.

Decoders are shared, so what one front end waits for depends on what the others hold; and bulk work
makes room for whoever calls, also where he calls another front end. Each writes its own numbers, 8
bytes that it alone stores, and adds up the others' when it predicts; nobody is asked. The
supervisor owns the page and clears the numbers of a front end that died. An estimate: the numbers
are of slightly different moments.
"""

import mmap
import os
from typing import Self

from visionloop_inference.settings import MOST_FRONT_ENDS

_BYTES = 8 * MOST_FRONT_ENDS
_SIZE = mmap.PAGESIZE  # of which three times _BYTES are used


class DecodingLoad:
    """The page, mapped into this process, as the front end `index` sees it."""

    def __init__(self, fd: int, index: int) -> None:
        """Takes the descriptor over. Raises OSError."""
        self.fd = fd
        self._index = index
        self._map = mmap.mmap(fd, _SIZE)
        self._look_at(memoryview(self._map))

    def _look_at(self, page: memoryview) -> None:
        """Each is (front ends,)."""
        images, bulk, asked = (page[_BYTES * at : _BYTES * (at + 1)] for at in range(3))
        self._images = images.cast("Q")
        self._bulk = bulk.cast("Q")
        self._asked = asked.cast("d")  # on the clock of time.monotonic, which all processes share

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
        self._images[self._index] = images

    def tell_bulk(self, images: int) -> None:
        """So many of low priority are here, those included that wait for their turn."""
        self._bulk[self._index] = images

    def tell_asked(self, now: float) -> None:
        """An image came that is not of low priority."""
        self._asked[self._index] = now

    def clear(self, index: int) -> None:
        """Another front end is gone. When it was asked last stays: its callers come back."""
        self._images[index] = self._bulk[index] = 0

    @property
    def others(self) -> int:
        """Images that wait in all other front ends."""
        return sum(self._images) - self._images[self._index]

    @property
    def with_bulk(self) -> int:
        """Front ends that have images of low priority."""
        return sum(1 for images in self._bulk if images)

    @property
    def asked(self) -> float:
        """When the last image came that is not of low priority, to any front end."""
        return max(self._asked)

    def close(self) -> None:
        """Lets the page go. Calls may end later: what they tell goes nowhere."""
        pages = self._images, self._bulk, self._asked
        self._look_at(memoryview(bytearray(_SIZE)))
        for page in pages:
            page.release()
        self._map.close()
        os.close(self.fd)

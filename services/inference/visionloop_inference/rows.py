"""Rows in shared memory: the arena that one front end and one runner (or decoder) have in common.

An arena is an anonymous memory file (memfd): it has no name in a file system, so nothing is left
behind when a process is killed, and the 64 MB that a pod has under /dev/shm do not bound it. Its
size is sealed, so that neither side can take pages away from under the other. Pages cost memory
once they are touched; space is handed out lowest address first, so that few ever are, and so that
the rows of requests that follow one another lie side by side and run without being copied.

Only the front end allocates: the runner reads where a job's frame tells it to, and space comes back
when the runner's frame says that it is done with it. The first page is a header that the runner
writes and the front end reads (`pace.Board`). Price: a front end that died takes its arena along,
and two front ends cannot lend each other space.
"""

import contextlib
import fcntl
import mmap
import os
from bisect import bisect_left

from visionloop.errors import CorruptError

ALIGNMENT = 64  # bytes: a cache line, and what vector instructions like best
HEADER = 4096  # bytes before the rows
KEPT = 32 * 2**20  # bytes that an empty arena keeps for the next rows
LARGE = 2**20  # bytes of a space whose pages a thrifty arena gives back

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def aligned(size: int) -> int:
    """`size` bytes rounded up to whole cache lines."""
    return (size + ALIGNMENT - 1) & -ALIGNMENT


class Arena:
    """One arena, mapped into this process. Safe to use from one thread at a time."""

    def __init__(self, fd: int, size: int, *, thrifty: bool = False) -> None:
        """`thrifty`: large spaces give their pages back at once, which costs faults."""
        self.fd = fd
        self.size = size  # bytes, header included
        self._map = mmap.mmap(fd, size)
        self.memory = memoryview(self._map)  # the whole arena, header first
        self.header = self.memory[:HEADER]
        self._free = [HEADER]  # where free spaces begin, ascending
        self._ends = [size]  # and where each ends
        self._sizes: dict[int, int] = {}  # of what is allocated
        self._touched = KEPT  # how far rows ever reached, once that is past KEPT
        self._thrifty = thrifty

    @classmethod
    def create(cls, size: int) -> "Arena":
        """A new arena with `size` bytes for rows, rounded up to pages."""
        size = HEADER + -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        fd = os.memfd_create("visionloop-rows", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, size)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            return cls(fd, size)
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def open(cls, fd: int, *, thrifty: bool = False) -> "Arena":
        """The arena behind a descriptor from another process, which is this arena's from now on.

        Raises CorruptError, and closes the descriptor, when it is no sealed arena: one that could
        shrink would kill its reader.
        """
        try:
            seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
            size = os.fstat(fd).st_size
            if seals & _SEALS != _SEALS or size < HEADER + mmap.PAGESIZE:
                raise CorruptError(f"a memory file of {size} bytes, seals {seals}, is no arena")
            return cls(fd, size, thrifty=thrifty)
        except OSError as error:
            os.close(fd)
            raise CorruptError(f"a descriptor that is no arena: {error}") from error
        except CorruptError:
            os.close(fd)
            raise

    @property
    def used(self) -> int:
        """Bytes allocated at present, rounding included."""
        return sum(self._sizes.values())

    def allocate(self, size: int) -> int | None:
        """The offset of `size` bytes (at least 1), a multiple of 64; None when there is no room.

        First fit, lowest address first.
        """
        size = (size + ALIGNMENT - 1) & -ALIGNMENT
        free, ends = self._free, self._ends
        for place, start in enumerate(free):
            left = ends[place] - start - size
            if left < 0:
                continue
            if left:
                free[place] = start + size
            else:
                del free[place], ends[place]
            self._sizes[start] = size
            if start + size > self._touched:
                self._touched = start + size
            return start
        return None

    def free(self, offset: int) -> None:
        """Gives back what `allocate` gave; joins it with free space on both sides.

        An empty arena gives the pages of a burst back to the kernel.
        """
        size = self._sizes.pop(offset)
        end = offset + size
        if self._thrifty and size >= LARGE:
            self._give_back(offset, end)
        free, ends = self._free, self._ends
        place = bisect_left(free, offset)
        joins_next = place < len(free) and free[place] == end
        if place and ends[place - 1] == offset:
            if joins_next:
                ends[place - 1] = ends[place]
                del free[place], ends[place]
            else:
                ends[place - 1] = end
        elif joins_next:
            free[place] = offset
        else:
            free.insert(place, offset)
            ends.insert(place, end)
        if not self._sizes and self._touched > KEPT:
            self._give_back(KEPT, -(-self._touched // mmap.PAGESIZE) * mmap.PAGESIZE)
            self._touched = KEPT

    def _give_back(self, start: int, end: int) -> None:
        """The whole pages within; nothing in them is in use."""
        start = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        end = end // mmap.PAGESIZE * mmap.PAGESIZE
        if start < end:
            with contextlib.suppress(OSError):  # a kernel that cannot: they stay
                self._map.madvise(mmap.MADV_REMOVE, start, end - start)

    def view(self, offset: int, size: int) -> memoryview:
        """The bytes at an offset, writable, without a copy."""
        return self.memory[offset : offset + size]

    def close(self) -> None:
        """Lets the memory go; views that are still held keep it until they go."""
        if self.fd < 0:
            return
        self.header.release()
        with contextlib.suppress(BufferError):  # an array over it is still in use somewhere
            self.memory.release()
            self._map.close()
        os.close(self.fd)
        self.fd = -1

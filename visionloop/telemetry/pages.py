"""Where metric values live: pages of numbers that outlive the process that counts on them.

A page is a piece of memory with one writing process: numbers in front, and behind them a directory
that says which series each number belongs to. A program of one process has one page in its own
memory. A program of several hands each child a page made of shared memory (a memfd), reads all of
them when Prometheus asks, and adds up; when a child dies, killed or not, its counts are folded into
the parent's page, so nothing that was counted is lost and no child has to be asked. Gauges of a
dead child vanish with it.

The price: 8 bytes a number in a page of fixed size (about 8,000 histograms of 16 numbers each), and
a lock of 0.1 microseconds per update, for threads that share a page.
"""

import json
import mmap
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

NUMBERS = 131_072  # per page
DIRECTORY_BYTES = 4 * 2**20
SIZE = 8 * NUMBERS + DIRECTORY_BYTES  # shared memory takes only the part that is used

Labels = tuple[str, ...]


class PageFullError(RuntimeError):
    """There is no room for one more series."""


@dataclass(frozen=True, slots=True)
class Series:
    """One labelled series of a page: `count` numbers from `first`."""

    metric: str
    labels: Labels  # values, in the order of the metric's label names
    first: int
    count: int


class Page:
    """The numbers of one process. Written by that process only; read by its parent too."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        self.numbers = memoryview(memory)[: 8 * NUMBERS].cast("d")
        # Bytes of the directory; it stands in place of the first number. Written by one store of 8
        # bytes (struct.pack_into clears them first): a reader never misses what was there before.
        self._length = memoryview(memory)[:8].cast("Q")
        self.lock = threading.Lock()
        self._known: dict[tuple[str, Labels], Series] = {}
        self._next = 1

    @classmethod
    def private(cls) -> Self:
        """A page of this process alone."""
        return cls(mmap.mmap(-1, SIZE))

    @classmethod
    def shared(cls, fd: int) -> Self:
        """The page behind a descriptor that `shared_memory` made; the descriptor may be closed."""
        return cls(mmap.mmap(fd, SIZE))

    def series(self, metric: str, labels: Labels, count: int) -> Series:
        """The numbers of a series, found or newly taken. Raises PageFullError."""
        key = (metric, labels)
        with self.lock:
            found = self._known.get(key)
            if found is None:
                found = self._known[key] = self._take(metric, labels, count)
        return found

    def _take(self, metric: str, labels: Labels, count: int) -> Series:
        entry = json.dumps([metric, labels, self._next, count]).encode() + b"\n"
        length = self._length[0]
        if self._next + count > NUMBERS or length + len(entry) > DIRECTORY_BYTES:
            raise PageFullError(f"the metric page is full; {metric} has no room for {labels}")
        begin = 8 * NUMBERS + length
        self._memory[begin : begin + len(entry)] = entry
        # The length comes last: a reader sees whole entries only.
        self._length[0] = length + len(entry)
        series = Series(metric, labels, self._next, count)
        self._next += count
        return series

    def read(self) -> Iterator[tuple[Series, list[float]]]:
        """Every series and its numbers as they are now, for whoever did not write them too."""
        directory = self._memory[8 * NUMBERS : 8 * NUMBERS + self._length[0]]
        for line in directory.splitlines():
            metric, labels, first, count = json.loads(line)
            yield (
                Series(metric, tuple(labels), first, count),
                [float(number) for number in self.numbers[first : first + count]],
            )

    def close(self) -> None:
        self.numbers.release()
        self._length.release()
        self._memory.close()


def shared_memory() -> int:
    """A descriptor of new shared memory for one page; it has no name and vanishes when closed."""
    fd = os.memfd_create("metrics", os.MFD_CLOEXEC)
    os.ftruncate(fd, SIZE)
    return fd

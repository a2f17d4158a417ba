"""How many rows ran in how many batches: two numbers in a file, which the benchmark reads.

Peers run in several processes and do not share a way to tell their mean batch; so each process
writes a file of its own, mapped into memory: no lock, no system call for a count.
"""

import mmap
import os
import struct
from pathlib import Path

_FORMAT = struct.Struct("<QQ")  # rows, runs


class Counters:
    """This process's counts, in `folder`."""

    def __init__(self, folder: Path) -> None:
        path = folder / f"{os.getpid()}.counts"
        path.write_bytes(bytes(_FORMAT.size))
        with path.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), _FORMAT.size)
        self._rows = self._runs = 0

    def ran(self, rows: int) -> None:
        """One batch of so many rows ran."""
        self._rows += rows
        self._runs += 1
        _FORMAT.pack_into(self._page, 0, self._rows, self._runs)


def total(folder: Path) -> tuple[int, int]:
    """(rows, runs) over all processes so far."""
    counts = [_FORMAT.unpack(path.read_bytes()) for path in folder.glob("*.counts")]
    return sum(rows for rows, _ in counts), sum(runs for _, runs in counts)

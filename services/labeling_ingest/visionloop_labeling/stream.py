"""Many rows at once: checked in parallel, made durable in groups, answered in order.

Threads, because decoding and hashing release the interpreter's lock. While one group is being
committed the next is being decoded. What is in flight is bounded in rows and in bytes over all
callers together, so a fast sender waits instead of filling memory. A row's budget is taken in the
order of its stream, so the oldest row of each stream can always finish.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from visionloop.telemetry import labeling as metrics
from visionloop_labeling.ingest import Ingest
from visionloop_labeling.receipts import ImageRow, Prepared, Receipt

GROUP: Final = 64  # rows that share two transactions
_ROWS_IN_FLIGHT: Final = 256
_BYTES_IN_FLIGHT: Final = 256 * 2**20
_UNANSWERED: Final = 256  # rows of one stream
_COMMITTERS: Final = 8


class _Budget:
    """Bytes and rows in flight. A row larger than the budget goes alone."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._rows = 0
        self._bytes = 0

    async def take(self, size: int) -> None:
        async with self._changed:
            await self._changed.wait_for(
                lambda: (
                    self._rows == 0
                    or (self._rows < _ROWS_IN_FLIGHT and self._bytes + size <= _BYTES_IN_FLIGHT)
                )
            )
            self._rows += 1
            self._bytes += size

    async def give_back(self, sizes: list[int]) -> None:
        async with self._changed:
            self._rows -= len(sizes)
            self._bytes -= sum(sizes)
            self._changed.notify_all()


@dataclass(frozen=True, slots=True)
class _Pending:
    size: int  # as `_size` has it
    arrived: float  # on the monotonic clock
    row: asyncio.Future[Prepared]


class _Way:
    """One stream's rows between its ends.

    The budget all streams share is given back by the committing, never by the caller's reading: one
    who does not take his receipts fills his own `room` and holds up nobody else.
    """

    def __init__(self) -> None:
        self.room = asyncio.Semaphore(_UNANSWERED)  # rows read whose receipts are not taken
        self.checked: asyncio.Queue[_Pending | None] = asyncio.Queue()  # None: the end
        self.answered: asyncio.Queue[list[Receipt]] = asyncio.Queue()  # empty: the end


class IngestStream:
    """The way of rows from an event loop through threads. Made and used on one event loop."""

    def __init__(self, ingest: Ingest, *, workers: int | None = None) -> None:
        self._ingest = ingest
        self._budget = _Budget()
        self._checkers = ThreadPoolExecutor(workers or os.cpu_count(), thread_name_prefix="check")
        self._committers = ThreadPoolExecutor(_COMMITTERS, thread_name_prefix="commit")

    def close(self) -> None:
        """Waits for rows that are being made durable; rows that only wait are given up."""
        self._checkers.shutdown(cancel_futures=True)
        self._committers.shutdown()

    async def submit_one(self, row: ImageRow) -> Receipt:
        """One row; its receipt when it is durable."""

        async def alone() -> AsyncIterator[ImageRow]:
            yield row

        receipts = [receipt async for receipt in self.submit(alone())]
        return receipts[0]

    async def submit(self, rows: AsyncIterator[ImageRow]) -> AsyncIterator[Receipt]:
        """A receipt for each row, in order, as soon as the row is durable.

        Raises what `rows` raises, after the receipts of the rows before, and UnavailableError.
        """
        way = _Way()
        reader = asyncio.create_task(self._check(rows, way))
        committer = asyncio.create_task(self._commit_groups(way))
        try:
            while receipts := await way.answered.get():
                for receipt in receipts:
                    yield receipt
                    way.room.release()
            await committer
            await reader
        finally:
            reader.cancel()
            committer.cancel()
            await asyncio.gather(reader, committer, return_exceptions=True)
            left = [way.checked.get_nowait() for _ in range(way.checked.qsize())]
            await self._budget.give_back([one.size for one in left if one is not None])

    async def _check(self, rows: AsyncIterator[ImageRow], way: _Way) -> None:
        loop = asyncio.get_running_loop()
        try:
            async for row in rows:
                arrived = time.monotonic()
                await way.room.acquire()
                size = _size(row)
                await self._budget.take(size)
                future = loop.run_in_executor(self._checkers, self._ingest.prepare, row)
                way.checked.put_nowait(_Pending(size, arrived, future))
        finally:
            # Also after an error: the rows before it still get their receipts.
            way.checked.put_nowait(None)

    async def _commit_groups(self, way: _Way) -> None:
        try:
            while group := await _next_group(way.checked):
                try:
                    receipts = await self._commit(group)
                finally:
                    await self._budget.give_back([pending.size for pending in group])
                way.answered.put_nowait(receipts)
        finally:
            way.answered.put_nowait([])

    async def _commit(self, group: list[_Pending]) -> list[Receipt]:
        prepared = await asyncio.gather(*(pending.row for pending in group))
        loop = asyncio.get_running_loop()
        receipts = await loop.run_in_executor(self._committers, self._ingest.commit, prepared)
        durable = time.monotonic()
        for pending in group:
            metrics.INGEST_SECONDS.observe(durable - pending.arrived)
            metrics.INGEST_BYTES.inc(pending.size)
        return receipts


def _size(row: ImageRow) -> int:
    """What a row takes: bytes of its image, characters of its texts (nothing is checked yet)."""
    texts = (row.dataset, row.batch, row.label or "", row.group, row.author, row.source)
    named = sum(len(name) + len(value) for name, value in row.attributes.items())
    return len(row.image) + sum(map(len, texts)) + named


async def _next_group(checked: asyncio.Queue[_Pending | None]) -> list[_Pending]:
    """The rows that wait, at least one, at most GROUP; empty at the end."""
    first = await checked.get()
    if first is None:
        return []
    group = [first]
    while len(group) < GROUP and not checked.empty():
        entry = checked.get_nowait()
        if entry is None:
            checked.put_nowait(None)
            break
        group.append(entry)
    return group

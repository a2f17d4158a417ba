"""Many rows at once: checked in parallel, made durable in groups, answered in order.

Threads, because they wait for the processes that decode (`inspectors`), the store and the database.
While one group is written to the database, the images of the next go to the store, and those behind
are being decoded. A row that comes while a thread is free is checked at once; what comes while all
are busy is handed over several rows at a time, because the handing over costs as much as the
checking of a small image's row. What is in flight is bounded in rows and in bytes over all callers
together, so a fast sender waits instead of filling memory. A row's budget is taken in the order of
its stream, so the oldest row of each stream can always finish.
"""

import asyncio
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from visionloop.telemetry import labeling as metrics
from visionloop_labeling.freed_memory import FreedMemory
from visionloop_labeling.ingest import Ingest, Stored
from visionloop_labeling.inspectors import HAND, HAND_BYTES
from visionloop_labeling.receipts import ImageRow, Prepared, Receipt

# Rows that share two transactions, of two dozen statements. At 128 the service computes a tenth
# less for an image of 20 kB than at 64; 192 gives no more. The price: whoever else writes may wait
# 0.1 s for a group, instead of 0.06 s.
GROUP: Final = 128
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
        self._freed = FreedMemory(lambda: self._rows > 0)

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
        self._freed.note(sum(sizes))


@dataclass(frozen=True, slots=True)
class _Pending:
    row: ImageRow
    size: int  # as `_size` has it
    arrived: float  # on the monotonic clock
    checked: asyncio.Future[Prepared]


class _Checkers:
    """Threads that check rows in the order they came, over all streams."""

    def __init__(self, ingest: Ingest, workers: int) -> None:
        self._ingest = ingest
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="check")
        self._free = workers
        self._waiting: deque[_Pending] = deque()
        self._running: set[asyncio.Task[None]] = set()  # or nobody would hold them

    def close(self) -> None:
        """Waits for rows that are being checked; those that wait are given up."""
        self._waiting.clear()
        self._threads.shutdown(cancel_futures=True)

    def check(self, pending: _Pending) -> None:
        """Its future gets what comes of it."""
        self._waiting.append(pending)
        if self._free:
            self._free -= 1
            running = asyncio.create_task(self._work())
            self._running.add(running)
            running.add_done_callback(self._running.discard)

    async def _work(self) -> None:
        """One thread's work, as long as there is some."""
        loop = asyncio.get_running_loop()
        try:
            while hand := self._next_hand():
                rows = [pending.row for pending in hand]
                try:
                    found = await loop.run_in_executor(
                        self._threads, self._ingest.prepare_all, rows
                    )
                except Exception as error:  # noqa: BLE001 - told to whoever sent the rows
                    _settle(hand, error)
                else:
                    _settle(hand, found)
        finally:
            self._free += 1

    def _next_hand(self) -> list[_Pending]:
        """The next rows, at most HAND that are small together; empty when none wait."""
        hand: list[_Pending] = []
        size = 0
        while self._waiting and len(hand) < HAND:
            size += self._waiting[0].size
            if hand and size > HAND_BYTES:
                break
            pending = self._waiting.popleft()
            if not pending.checked.done():  # whoever sent it may have gone
                hand.append(pending)
        return hand


def _settle(hand: Sequence[_Pending], found: Sequence[Prepared] | Exception) -> None:
    for number, pending in enumerate(hand):
        if pending.checked.done():
            continue
        if isinstance(found, Exception):
            pending.checked.set_exception(found)
        else:
            pending.checked.set_result(found[number])


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
        self._checkers = _Checkers(ingest, workers or os.cpu_count() or 1)
        self._committers = ThreadPoolExecutor(_COMMITTERS, thread_name_prefix="commit")

    def close(self) -> None:
        """Waits for rows that are being made durable; rows that only wait are given up."""
        self._checkers.close()
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
            entries = [way.checked.get_nowait() for _ in range(way.checked.qsize())]
            left = [one for one in entries if one is not None]
            for pending in left:
                pending.checked.cancel()
            await self._budget.give_back([pending.size for pending in left])

    async def _check(self, rows: AsyncIterator[ImageRow], way: _Way) -> None:
        loop = asyncio.get_running_loop()
        try:
            async for row in rows:
                arrived = time.monotonic()
                await way.room.acquire()
                size = _size(row)
                await self._budget.take(size)
                pending = _Pending(row, size, arrived, loop.create_future())
                self._checkers.check(pending)
                way.checked.put_nowait(pending)
        finally:
            # Also after an error: the rows before it still get their receipts.
            way.checked.put_nowait(None)

    async def _commit_groups(self, way: _Way) -> None:
        writing: asyncio.Task[None] | None = None
        try:
            while True:
                if writing is not None and way.checked.empty():
                    await writing  # its failure is told now, not when the next row comes
                    writing = None
                group = await _next_group(way.checked)
                if not group:
                    break
                stored = await self._store(group)
                writing = asyncio.create_task(self._write(group, stored, writing, way))
        finally:
            if writing is not None:  # also after an error: what is stored gets its receipts
                await asyncio.gather(writing, return_exceptions=True)
            way.answered.put_nowait([])
        if writing is not None:
            await writing

    async def _store(self, group: list[_Pending]) -> list[Stored]:
        """Puts the images of a group into the store, once its rows are checked."""
        try:
            prepared = await asyncio.gather(*(pending.checked for pending in group))
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._committers, self._ingest.store, prepared)
        except BaseException:
            await self._budget.give_back([pending.size for pending in group])
            raise

    async def _write(
        self,
        group: list[_Pending],
        stored: list[Stored],
        before: asyncio.Task[None] | None,
        way: _Way,
    ) -> None:
        """Makes a group durable after the one before it, and answers its rows."""
        try:
            if before is not None:
                await before
            loop = asyncio.get_running_loop()
            receipts = await loop.run_in_executor(self._committers, self._ingest.write, stored)
        finally:
            await self._budget.give_back([pending.size for pending in group])
        durable = time.monotonic()
        for pending in group:
            metrics.INGEST_SECONDS.observe(durable - pending.arrived)
            metrics.INGEST_BYTES.inc(pending.size)
        way.answered.put_nowait(receipts)


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

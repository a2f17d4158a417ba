"""Work that nobody waits for: loops that drain, suggest, reconcile, import.

    Loop("feedback", every_seconds=2.0, work=inbox.drain)

`work` does a bounded piece and says whether more waits; then it is called again at once, else after
a pause. What it raises is logged and counted, and the pause grows (with jitter, so that replicas do
not come back together): that is also how a service that is away is left alone. Labelling never
waits for any of it.

With several replicas a loop runs on the one that holds its `WorkLease`, by the database's clock,
and moves to another within a minute of that one's death. A lease saves work, it is no lock: a
replica that froze may wake up beside its successor. So all work must be harmless when done twice.
"""

import asyncio
import logging
import os
import random
import socket
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from visionloop.errors import VisionloopError
from visionloop.telemetry import labeling as metrics
from visionloop_labeling.database import Database, insert_missing
from visionloop_labeling.schema import WorkLease

LEASE: Final = timedelta(seconds=60)
LONGEST_PAUSE: Final = 60.0  # seconds, after errors
OUTCOMES: Final = ("done", "more", "failed", "elsewhere")  # of a turn
_FREE: Final = datetime(1970, 1, 1, tzinfo=UTC)
_Result = TypeVar("_Result")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loop:
    """`work` blocks, in a thread of its own; True says that more waits."""

    name: str
    every_seconds: float
    work: Callable[[], bool]
    # False: every replica does it, because the work itself shares out who does what.
    one_replica: bool = True


class Lease:
    """The right to do a named task, for a minute at a time."""

    def __init__(self, database: Database, name: str, holder: str) -> None:
        self._database = database
        self._name = name
        self._holder = holder

    def take(self) -> bool:
        """Takes or prolongs it; False while another replica has it."""
        if self._database.single_process:
            return True
        with self._database.write() as session:
            row = self._row(session)
            if row is None:
                free = {"name": self._name, "holder": "", "until": _FREE}
                insert_missing(session, WorkLease, [free])
                row = self._row(session)
            now = session.scalar(select(func.now()))
            if row is None or now is None or (row.holder != self._holder and row.until > now):
                return False
            row.holder, row.until = self._holder, now + LEASE
            return True

    def give_back(self) -> None:
        """Lets another replica have it at once."""
        if self._database.single_process:
            return
        with self._database.write() as session:
            row = self._row(session)
            if row is not None and row.holder == self._holder:
                row.until = _FREE

    def _row(self, session: Session) -> WorkLease | None:
        return session.scalar(
            select(WorkLease).where(WorkLease.name == self._name).with_for_update()
        )


class Background:
    """The loops of one program. Made, started and stopped on one event loop."""

    def __init__(self, database: Database, loops: Sequence[Loop]) -> None:
        holder = f"{socket.gethostname()[:40]}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        # Two for each: its work, and its lease while it works.
        self._pool = ThreadPoolExecutor(2 * len(loops) or 1, thread_name_prefix="background")
        self._stopping = asyncio.Event()
        self._runs = [_Run(loop, Lease(database, loop.name, holder), self) for loop in loops]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Starts all loops."""
        self._tasks = [asyncio.create_task(run.forever()) for run in self._runs]

    async def stop(self, seconds: float) -> None:
        """Ends them; work in progress is waited for, but not longer than this."""
        self._stopping.set()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=seconds)
            for task in late:
                _log.warning("work in the background did not end in time; it is left unfinished")
                task.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    async def pause(self, seconds: float) -> None:
        """Waits, unless it is time to stop."""
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            pass

    def in_thread(self, work: Callable[[], _Result]) -> Awaitable[_Result]:
        """Does blocking work in a thread."""
        return asyncio.get_running_loop().run_in_executor(self._pool, work)


class _Run:
    """One loop at work."""

    def __init__(self, loop: Loop, lease: Lease, background: Background) -> None:
        self._loop = loop
        self._lease = lease if loop.one_replica else None
        self._background = background
        self._failures = 0
        for outcome in OUTCOMES:  # so that the first failure is an increase
            metrics.BACKGROUND_RUNS.labels(loop.name, outcome)

    async def forever(self) -> None:
        """Until the background stops."""
        while not self._background.stopping:
            await self._background.pause(await self._turn())
        await self._give_back()

    async def _turn(self) -> float:
        """Works once; the seconds until the next time."""
        began = time.monotonic()
        try:
            if self._lease is not None and not await self._background.in_thread(self._lease.take):
                self._count("elsewhere")
                return self._jittered(self._loop.every_seconds)
            more = await self._work()
        except Exception as error:  # noqa: BLE001 - a loop never ends by an error
            self._count("failed")
            return self._after(error)
        if self._failures:
            _log.info("background work succeeds again", extra={"loop": self._loop.name})
        self._failures = 0
        self._count("more" if more else "done")
        metrics.BACKGROUND_SECONDS.labels(self._loop.name).observe(time.monotonic() - began)
        metrics.BACKGROUND_LAST_SUCCESS.labels(self._loop.name).set(time.time())
        return 0.0 if more else self._jittered(self._loop.every_seconds)

    async def _work(self) -> bool:
        working = asyncio.ensure_future(self._background.in_thread(self._loop.work))
        while True:
            done, _ = await asyncio.wait({working}, timeout=LEASE.total_seconds() / 3)
            if done:
                return await working
            await self._leased(Lease.take)

    async def _give_back(self) -> None:
        await self._leased(Lease.give_back)

    async def _leased(self, change: Callable[[Lease], object]) -> None:
        """Whether it succeeds or not: the lease is a courtesy, and runs out by itself."""
        lease = self._lease
        if lease is None:
            return
        try:
            await self._background.in_thread(lambda: change(lease))
        except VisionloopError as error:
            _log.info("a lease was not changed", extra={"error": str(error)})

    def _after(self, error: Exception) -> float:
        self._failures += 1
        extra = {"loop": self._loop.name, "failures": self._failures}
        if not isinstance(error, VisionloopError):
            _log.error("background work stumbled", exc_info=error, extra=extra)
        elif self._failures == 1:
            _log.warning("background work waits: %s", error, extra=extra)
        pause = self._loop.every_seconds * 2.0 ** min(self._failures, 10)
        return self._jittered(min(pause, LONGEST_PAUSE))

    def _count(self, outcome: str) -> None:
        metrics.BACKGROUND_RUNS.labels(self._loop.name, outcome).inc()

    @staticmethod
    def _jittered(seconds: float) -> float:
        return seconds * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing

"""The queue of one runner, and which rows of it run together.

Batching is eager: `take` gives what is there, so a lone request pays no delay, and while the graph
runs the queue grows into the next, larger batch. Requests are split over batches where they do not
fit; rows whose free dimensions differ never share a batch. Lower levels of priority run first,
first come first served within a level; price: a full queue of one level starves the levels behind
it, which is what was asked for. A model without a batch dimension runs one job at a time.

A run is not interrupted, and nobody who asks for one answer should wait for a batch of a hundred
others. So while there are such callers (`levels`), rows of low priority make a batch only `few`
rows large, and join rows of others only in places that would be padding, or where they have waited
for `LONG`: then others are never gone, and rows of low priority would wait for ever. Price: what
larger batches save a row. Alone they fill it.

The runner has one thread, so nothing here locks.
"""

import math
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from time import monotonic
from typing import Protocol

from visionloop_inference.datatypes import Arrays
from visionloop_inference.levels import AFTERWARDS, is_low, level_of
from visionloop_inference.rows import Arena
from visionloop_inference.wire import JobFrame, Reason

CANCELLED = "cancelled by its caller"
LONG = 1.0  # seconds that a row of low priority waits for a batch without rows of others


class Source(Protocol):
    """Where jobs come from and answers go to."""

    arena: Arena

    def answer(self, job: "Job", outputs: Arrays) -> None:
        """The job is done: its outputs, (rows, *dimensions) each, and `job.failures`."""

    def refuse(self, job: "Job", reason: Reason, text: str, retry_after: float = math.nan) -> None:
        """The job gets no answer."""


@dataclass(slots=True, eq=False)
class Job:
    """The rows of one request on their way through the runner."""

    source: Source
    frame: JobFrame
    strings: dict[int, list[str]]  # the elements of inputs of BYTES, by the input's index
    queued: float = field(default_factory=monotonic)
    taken: int = 0  # rows already handed out
    done: int = 0  # rows with a result
    gone: bool = False  # cancelled, or its link was lost: it must not run any more
    parts: list[Arrays] = field(default_factory=list)  # outputs of the batches before the last
    failures: dict[int, str] = field(default_factory=dict)  # row -> what the graph said

    @property
    def rows(self) -> int:
        return self.frame.rows

    @property
    def under_way(self) -> bool:
        """Whether rows of it are in a batch that is not answered yet."""
        return self.taken > self.done

    @property
    def level(self) -> int:
        return level_of(self.frame.priority)


@dataclass(slots=True)
class Held:
    """Rows of jobs that came and are not answered yet; `low` of them are of low priority."""

    rows: int = 0
    low: int = 0

    def add(self, job: Job) -> None:
        self.rows += job.rows
        if is_low(job.level):
            self.low += job.rows

    def remove(self, job: Job) -> None:
        self.rows -= job.rows
        if is_low(job.level):
            self.low -= job.rows


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows start..stop of a job, as they stand in a batch."""

    job: Job
    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start


@dataclass(slots=True)
class _Lane:
    """Jobs of one level whose rows may share a batch, in the order they came."""

    level: int
    shapes: Hashable
    jobs: deque[Job] = field(default_factory=deque)

    @property
    def turn(self) -> tuple[int, float]:
        return self.level, self.jobs[0].queued


class BatchQueue:
    """Jobs that wait for the graph."""

    def __init__(
        self,
        most: int,
        few: Callable[[], int] | None = None,
        padded_to: Callable[[int], int] = int,
    ) -> None:
        """`few()` rows make a batch that is over soon; as many as ever, if not given. A batch of n
        rows runs with `padded_to(n)`."""
        self.most = most  # rows in one batch
        self._few = few or (lambda: most)
        self._padded_to = padded_to
        self._others = -math.inf  # when the last request came that is not of low priority
        self.rows = 0  # that wait
        self.unanswered = Held()  # of all front ends
        self._lanes: dict[Hashable, _Lane] = {}

    def __bool__(self) -> bool:
        return self.rows > 0

    @property
    def jobs(self) -> int:
        """Requests of which a row waits, cancelled ones included until their turn."""
        return sum([len(lane.jobs) for lane in self._lanes.values()])

    def put(self, job: Job) -> None:
        shapes = tuple([dimensions for _, _, dimensions in job.frame.inputs])
        key = (job.level, shapes)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane(job.level, shapes)
        lane.jobs.append(job)
        self.rows += job.rows
        if not is_low(job.level):
            self._others = job.queued

    def drop(self, job: Job) -> None:
        """The job's rows that were not handed out yet never will be."""
        if not job.gone:
            job.gone = True
            self.rows -= job.rows - job.taken

    def take(self, now: float) -> tuple[list[Piece], list[Job]]:
        """Up to `most` rows that may run together, and the jobs whose deadline passed.

        Those leave the queue here, before they cost a run; the caller answers them. No rows:
        nothing waits.
        """
        pieces: list[Piece] = []
        expired: list[Job] = []
        room, shapes, low = self.most, None, False  # low: from here on there is less room
        for lane in self._in_turn():
            if pieces and lane.shapes != shapes:
                continue
            if not low and is_low(lane.level) and now < self._others + AFTERWARDS:
                beside = self._room_for_low(self.most - room, now - lane.jobs[0].queued)
                room, low = min(room, beside), True
                if room <= 0:
                    break
            room = self._fill(lane.jobs, room, now, pieces, expired)
            shapes = lane.shapes
            if not lane.jobs:
                del self._lanes[lane.level, lane.shapes]
            if not room:
                break
        return pieces, expired

    def _room_for_low(self, taken: int, waited: float) -> int:
        """Rows of low priority that a batch may have beside `taken` of others, while others call;
        the first of them has waited for so many seconds.

        Beside none it may be one of low priority altogether, which is over soon.
        """
        if not taken:
            return self._few()
        return max(self._padded_to(taken) - taken, 1 if waited >= LONG else 0)

    def _in_turn(self) -> Iterable[_Lane]:
        lanes = list(self._lanes.values())
        if len(lanes) > 1:
            lanes.sort(key=lambda lane: lane.turn)
        return lanes

    def _fill(
        self, jobs: deque[Job], room: int, now: float, pieces: list[Piece], expired: list[Job]
    ) -> int:
        """Moves rows from a lane to `pieces`; the room that is left."""
        while jobs and room:
            job = jobs[0]
            if job.gone:
                jobs.popleft()
                continue
            if now >= job.frame.deadline:
                self.drop(jobs.popleft())
                expired.append(job)
                continue
            stop = min(job.rows, job.taken + room)
            pieces.append(Piece(job, job.taken, stop))
            size = stop - job.taken
            job.taken = stop
            room -= size
            self.rows -= size
            if stop == job.rows:
                jobs.popleft()
        return room

"""The queue between requests and one runner: jobs in, batches out.

Batching is eager: `take` never waits for more rows than are there, so a lone request pays no
delay, and while the runner is busy the queue grows into the next, larger batch. Requests are
split over batches where they do not fit, first come first served. Batches are not padded to fixed
sizes: on a CPU a padding row costs as much as a real one. Price: under light load batches stay
small even where waiting a little would have filled them.

One lock guards the queue. The front end's event loop puts; the runner's thread takes. A job's
future belongs to the event loop: the runner only asks whether it is done, and answers through the
loop.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from visionloop.errors import DeadlineExceededError, VisionloopError

Rows = Sequence[NDArray[np.uint8]] | NDArray[np.uint8]  # n x (height, width, 3)
Outputs = dict[str, NDArray[np.float32]]  # output name -> (n, *shape)


@dataclass(slots=True)
class Answer:
    """The outputs of one job, and what went wrong with single rows (whose outputs are NaN)."""

    outputs: Outputs
    failures: dict[int, VisionloopError] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Job:
    """The rows of one request on their way through a runner."""

    rows: Rows
    future: asyncio.Future[Answer]
    deadline: float | None  # time.monotonic()
    answer: Answer
    queued: float = field(default_factory=time.monotonic)
    taken: int = 0  # rows already handed to the runner
    done: int = 0  # rows with a result

    @property
    def cancelled(self) -> bool:
        return self.future.done()

    def expired(self, now: float) -> bool:
        return self.deadline is not None and now >= self.deadline


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows start..stop of a job, as they stand in a batch."""

    job: Job
    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start


class BatchQueue:
    """Jobs waiting for one runner."""

    def __init__(self, max_batch: int) -> None:
        self.max_batch = max_batch
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, job: Job) -> None:
        with self._changed:
            if self._closed:
                raise RuntimeError("a job came to a closed queue")
            self._jobs.append(job)
            self._changed.notify()

    def close(self) -> None:
        """What is queued is still handed out; then `take` gives None."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def take(self) -> tuple[list[Piece], list[Job]] | None:
        """Blocks until there are rows; gives up to `max_batch` of them, and the jobs that died.

        Dead jobs (cancelled or past their deadline) leave the queue here, before they cost a run;
        the caller answers them. None: closed and empty.
        """
        with self._changed:
            while not self._jobs:
                if self._closed:
                    return None
                self._changed.wait()
            pieces: list[Piece] = []
            dead: list[Job] = []
            room = self.max_batch
            now = time.monotonic()
            while self._jobs and room:
                job = self._jobs[0]
                if job.cancelled or job.expired(now):
                    dead.append(self._jobs.popleft())
                    continue
                piece = Piece(job, job.taken, min(len(job.rows), job.taken + room))
                pieces.append(piece)
                room -= piece.size
                job.taken = piece.stop
                if job.taken == len(job.rows):
                    self._jobs.popleft()
            return pieces, dead


def gather(pieces: Sequence[Piece], buffer: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Copies the pieces' rows into the batch buffer (max_batch, height, width, 3); its filled part.

    One copy, straight from the request's bytes: nothing is concatenated or allocated.
    """
    place = 0
    for piece in pieces:
        for row in range(piece.start, piece.stop):
            buffer[place] = piece.job.rows[row]
            place += 1
    return buffer[:place]


def scatter(
    pieces: Sequence[Piece], outputs: Outputs, failures: dict[int, VisionloopError]
) -> None:
    """Writes a batch's outputs into the answers of its jobs. `failures` maps batch rows."""
    place = 0
    for piece in pieces:
        for name, values in outputs.items():
            piece.job.answer.outputs[name][piece.start : piece.stop] = values[
                place : place + piece.size
            ]
        for row in range(piece.size):
            if (failure := failures.get(place + row)) is not None:
                piece.job.answer.failures[piece.start + row] = failure
        piece.job.done += piece.size
        place += piece.size


def resolve(jobs: Sequence[Job], now: float) -> None:
    """Answers jobs that are complete or dead. Runs in the event loop, which owns the futures."""
    for job in jobs:
        if job.future.done():
            continue
        if job.done == len(job.rows):
            job.future.set_result(job.answer)
        else:
            job.future.set_exception(
                DeadlineExceededError(
                    f"the deadline passed after {now - job.queued:.3f} s in the queue, before "
                    f"{len(job.rows) - job.done} of {len(job.rows)} rows had run"
                )
            )


def fail(jobs: Sequence[Job], error: Exception) -> None:
    """Answers jobs with an error, unless they were answered. Runs in the event loop."""
    for job in jobs:
        if not job.future.done():
            job.future.set_exception(error)

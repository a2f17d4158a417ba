"""One batch after another: rows from the queue through the graph and back to their jobs.

Where the graph fails on a batch (`batch_run`), only guilty rows go without an answer. After one
that found no memory no batch is that large again; a single row for which there is none refuses its
job, because the next try may well succeed.

On a GPU a full batch is put together, and carried to the card's memory, while the one before it
runs, and answers are handed out while the next one runs: the card waits for none of it. With fewer
rows than a batch holds nothing is put together ahead, because the batch would miss those that are
about to come.

A fault on a GPU (an access to memory that is not there, a card that fell off the bus) leaves a
process without a card: every run fails from then on. So where all rows of a batch fail, what ran
when the graph was loaded is run once more, and where that fails, too, the runner ends; the next one
may well find the card in order.
"""

import contextlib
import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic, perf_counter

import numpy as np

from visionloop.bundle import Bundle
from visionloop_inference.batch_metrics import BatchMetrics
from visionloop_inference.batch_run import BatchRun
from visionloop_inference.batching import CANCELLED, BatchQueue, Job, Piece
from visionloop_inference.datatypes import Arrays
from visionloop_inference.gathering import BatchBuffer
from visionloop_inference.pace import Pace
from visionloop_inference.session import (
    Carried,
    DeviceLostError,
    GraphRunFailedError,
    OutOfMemoryError,
    Session,
)
from visionloop_inference.wire import Layout, Reason

log = logging.getLogger(__name__)


class Execution:
    """The graph of one version, and what runs on it."""

    def __init__(
        self,
        session: Session,
        layout: Layout,
        queue: BatchQueue,
        pace: Pace,
        bundle: Bundle,
        example: Callable[[int], Arrays] | None = None,
    ) -> None:
        """`example(rows)` are inputs on which the graph ran; None: nobody knows any."""
        self.pace = pace
        self._session = session
        self._layout = layout
        self._queue = queue
        self._model = bundle.model
        self._buffers = deque([BatchBuffer(layout), BatchBuffer(layout)])  # taken in turns
        self._example = example
        self._metrics = BatchMetrics(bundle)
        self._under_way: _Batch | None = None  # begun, on a GPU

    @property
    def busy(self) -> bool:
        """Whether a batch was begun and is not answered yet."""
        return self._under_way is not None

    def step(self) -> None:
        """Runs one batch, if rows wait, and hands its jobs their answers.

        On a GPU it begins the next batch, or answers the last one, or both. Raises DeviceLostError.
        """
        last = self._under_way
        ahead = last is None or self._queue.rows >= self._queue.most
        batch = self._take() if ahead else None
        if batch is not None and self._session.overlaps:
            self._carry(batch)
        outputs = self._ended(last) if last is not None else None
        self._under_way = None
        if batch is not None and self._begin(batch):
            self._under_way = batch
            batch = None
        if last is not None and outputs is not None:
            self._hand_out(last, outputs)
        if batch is not None and (outputs := self._ended(batch)) is not None:
            self._hand_out(batch, outputs)

    def _take(self) -> "_Batch | None":
        """The rows of the next batch, put together."""
        now = monotonic()
        pieces, expired = self._queue.take(now)
        for job in expired:
            self._metrics.expired()
            job.source.refuse(
                job,
                Reason.EXPIRED,
                f"the deadline passed after {now - job.queued:.3f} s in the queue, before "
                f"{job.rows - job.done} of {job.rows} rows had run",
            )
        if not pieces:
            return None
        rows = sum([piece.size for piece in pieces])
        size = self.pace.padded_to(rows) if self._layout.batched else rows
        self._metrics.waiting(self._queue.jobs)
        if size > rows:
            self._metrics.padded(size - rows)
        queued = [now - piece.job.queued for piece in pieces if piece.start == 0]
        self._buffers.rotate()
        began = perf_counter()
        try:
            inputs = self._buffers[0].gather(pieces, size)
        except Exception as error:  # noqa: BLE001 — a fault of ours
            self._failed(pieces, error)
            return None
        ready = perf_counter()
        run = BatchRun(self._session, self._layout, rows)
        return _Batch(pieces, inputs, size, queued, ready - began, run)

    def _carry(self, batch: "_Batch") -> None:
        began = perf_counter()
        with contextlib.suppress(Exception):  # it is run in one then, which tells the same
            batch.carried = self._session.carry(batch.inputs)
        batch.gathering += perf_counter() - began

    def _begin(self, batch: "_Batch") -> bool:
        """False where it does not even begin."""
        if batch.carried is None:
            return False
        batch.since = perf_counter()
        try:
            self._session.begin(batch.carried)
        except Exception:  # noqa: BLE001 — it is run once more, which tells the same
            batch.carried = None
            return False
        return True

    def _ended(self, batch: "_Batch") -> Arrays | None:
        """The outputs; None when the batch failed as a whole."""
        if batch.carried is None:
            batch.since = perf_counter()
        try:
            outputs = batch.run(batch.inputs, batch.carried)
        except Exception as error:  # noqa: BLE001 — a fault of ours
            self._failed(batch.pieces, error)
            return None
        batch.ended = perf_counter()
        return outputs

    def _failed(self, pieces: Sequence[Piece], error: Exception) -> None:
        """A fault of ours: these requests fail, the next ones must not hang."""
        log.error("a batch of %s failed", self._model, exc_info=error)
        for job in {piece.job: None for piece in pieces}:
            self._refuse(job, Reason.FAILED, f"the batch failed: {error}")

    def _hand_out(self, batch: "_Batch", outputs: Arrays) -> None:
        pieces, run = batch.pieces, batch.run
        self._check_device(run)
        ran = perf_counter()
        try:
            if run.spoilt:
                self._report(run)
            else:
                self.pace.observe(batch.size, batch.ended - batch.since)
            self._answer(pieces, outputs, run)
        except Exception as error:  # noqa: BLE001 — a fault of ours
            self._failed(pieces, error)
            return
        seconds = (batch.gathering, batch.ended - batch.since, perf_counter() - ran)
        self._metrics.ran(run.rows, len(pieces), batch.queued, seconds)

    def _check_device(self, run: BatchRun) -> None:
        """Raises DeviceLostError where the graph runs on nothing any more. The callers of all jobs
        here are told to try again then. To onnxruntime, memory that a lost card does not give is
        memory that ran out."""
        if (
            len(run.failures) + len(run.no_memory) < run.rows
            or self._example is None
            or not self._session.target.gpu
        ):
            return
        try:
            self._session.run(self._example(1))
        except OutOfMemoryError:  # which may come back
            return
        except GraphRunFailedError as error:
            raise DeviceLostError(
                f"the graph of {self._model} does not run any more on what it ran on: {error}"
            ) from error

    def _report(self, run: BatchRun) -> None:
        for text in dict.fromkeys(run.failures.values()):
            log.error("the graph of %s failed on a row: %s", self._model, text)
        # Only what memory says counts: a row that is wrong says nothing about the batch's size.
        if run.fits is not None and run.fits < self.pace.batch:
            log.error(
                "%s found no memory for %d rows; batches are limited to %d from now on",
                self._model, self.pace.batch, run.fits,
            )  # fmt: skip
            self.pace.batch = self._queue.most = run.fits

    def _answer(self, pieces: Sequence[Piece], outputs: Arrays, run: BatchRun) -> None:
        whole = len(pieces) == 1
        place = 0
        for piece in pieces:
            job, stop = piece.job, place + piece.size
            if job.gone:  # since it was taken
                job.source.refuse(job, Reason.CANCELLED, CANCELLED)
                place = stop
                continue
            if run.spoilt and self._spoilt(piece, place, run):
                place = stop
                continue
            part = outputs if whole else [array[place:stop] for array in outputs]
            place = stop
            job.done += piece.size
            if job.done < job.rows:
                job.parts.append(part)
            elif job.parts:
                parts = zip(*job.parts, part, strict=True)
                job.source.answer(job, [np.concatenate(arrays) for arrays in parts])
            else:
                job.source.answer(job, part)

    def _spoilt(self, piece: Piece, place: int, run: BatchRun) -> bool:
        """Notes what went wrong with a piece's rows; True when its job was refused for it."""
        for row in range(piece.size):
            if (text := run.no_memory.get(place + row)) is not None:
                wait = self.pace.seconds(self._queue.rows)
                self._refuse(piece.job, Reason.OVERLOADED, text, wait)
                return True
            if (text := run.failures.get(place + row)) is not None:
                piece.job.failures[piece.start + row] = text
        return False

    def _refuse(self, job: Job, reason: Reason, text: str, retry_after: float = math.nan) -> None:
        self._queue.drop(job)
        job.source.refuse(job, reason, text, retry_after)


@dataclass(slots=True)
class _Batch:
    """Rows that run together."""

    pieces: Sequence[Piece]
    inputs: Arrays
    size: int  # rows, padding included
    queued: Sequence[float]  # seconds that requests waited which are in a batch for the first time
    gathering: float  # seconds it took to put together, and to carry to a GPU
    run: BatchRun
    carried: Carried | None = None  # to a GPU, which runs it
    since: float = 0.0  # when the graph began, on the clock of perf_counter
    ended: float = 0.0

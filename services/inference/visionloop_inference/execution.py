"""One batch after another: rows from the queue through the graph and back to their jobs.

A batch on which the graph fails is split in halves until the guilty rows are alone: the others get
their answers, at the cost of at most twice the runs. One that finds no memory is split the same
way, and no batch is that large again; a single row for which there is none refuses its job, because
the next try may well succeed. Where batches are padded, only whole ones are: halves run as they
are.

On a GPU a full batch is put together while the one before it runs, and answers are handed out while
the next one runs: the card waits for neither. With fewer rows than a batch holds nothing is put
together ahead, because the batch would miss those that are about to come.
"""

import logging
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic, perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visionloop.bundle import Bundle, TensorSpec
from visionloop_inference import bfloat16
from visionloop_inference.batch_metrics import BatchMetrics
from visionloop_inference.batching import CANCELLED, BatchBuffer, BatchQueue, Job, Piece
from visionloop_inference.datatypes import DATATYPES, Arrays
from visionloop_inference.pace import Pace
from visionloop_inference.session import (
    Begun,
    GraphRunFailedError,
    OutOfMemoryError,
    Session,
)
from visionloop_inference.wire import Layout, Reason

log = logging.getLogger(__name__)


class Execution:
    """The graph of one version, and what runs on it."""

    def __init__(
        self, session: Session, layout: Layout, queue: BatchQueue, pace: Pace, bundle: Bundle
    ) -> None:
        self.pace = pace
        self._session = session
        self._layout = layout
        self._queue = queue
        self._model = bundle.model
        self._buffers = deque([BatchBuffer(layout), BatchBuffer(layout)])  # taken in turns
        self._metrics = BatchMetrics(bundle)
        self._under_way: _Batch | None = None  # begun, on a GPU

    @property
    def busy(self) -> bool:
        """Whether a batch was begun and is not answered yet."""
        return self._under_way is not None

    def step(self) -> None:
        """Runs one batch, if rows wait, and hands its jobs their answers.

        On a GPU it begins the next batch, or answers the last one, or both.
        """
        last = self._under_way
        ahead = last is None or self._queue.rows >= self._queue.most
        batch = self._take() if ahead else None
        outputs = self._ended(last) if last is not None else None
        self._under_way = None
        if batch is not None and self._session.overlaps and self._begin(batch):
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
        run = _Run(self._session, self._layout, rows)
        return _Batch(pieces, inputs, size, queued, ready - began, run)

    def _begin(self, batch: "_Batch") -> bool:
        """False where it does not even begin."""
        batch.since = perf_counter()
        try:
            batch.begun = self._session.begin(batch.inputs)
        except Exception:  # noqa: BLE001 — it is run once more, which tells the same
            return False
        return True

    def _ended(self, batch: "_Batch") -> Arrays | None:
        """The outputs; None when the batch failed as a whole."""
        if batch.begun is None:
            batch.since = perf_counter()
        try:
            outputs = batch.run(batch.inputs, batch.begun)
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

    def _report(self, run: "_Run") -> None:
        for text in dict.fromkeys(run.failures.values()):
            log.error("the graph of %s failed on a row: %s", self._model, text)
        # Only what memory says counts: a row that is wrong says nothing about the batch's size.
        if run.fits is not None and run.fits < self.pace.batch:
            log.error(
                "%s found no memory for %d rows; batches are limited to %d from now on",
                self._model, self.pace.batch, run.fits,
            )  # fmt: skip
            self.pace.batch = self._queue.most = run.fits

    def _answer(self, pieces: Sequence[Piece], outputs: Arrays, run: "_Run") -> None:
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

    def _spoilt(self, piece: Piece, place: int, run: "_Run") -> bool:
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
    gathering: float  # seconds it took to put together
    run: "_Run"
    begun: Begun | None = None
    since: float = 0.0  # when the graph began, on the clock of perf_counter
    ended: float = 0.0


class _Run:
    """One batch through the graph, in halves where it must be."""

    def __init__(self, session: Session, layout: Layout, rows: int) -> None:
        self.failures: dict[int, str] = {}  # row of the batch -> what the graph said
        self.no_memory: dict[int, str] = {}
        self.fits: int | None = None  # where memory ran out: rows for which it was found
        self._session = session
        self._layout = layout
        self.rows = rows

    @property
    def spoilt(self) -> bool:
        return bool(self.failures or self.no_memory) or self.fits is not None

    def __call__(self, inputs: Arrays, begun: Begun | None) -> Arrays:
        """The outputs of all rows, padding left out; NaN, 0 or "" for guilty rows."""
        rows = self.rows
        try:
            session = self._session
            outputs = session.finish(begun) if begun is not None else session.run(inputs)
        except (GraphRunFailedError, OutOfMemoryError) as error:
            parts = self._after(error, self._cut(inputs, 0, rows), 0, rows)
            return self._joined(parts)
        if self._layout.batched and len(inputs[0]) > rows:
            return [array[:rows] for array in outputs]
        return outputs

    def _halves(self, inputs: Arrays, first: int, rows: int) -> list[tuple[int, Arrays | None]]:
        """(rows, outputs or None) of consecutive parts."""
        try:
            return [(rows, self._session.run(inputs))]
        except (GraphRunFailedError, OutOfMemoryError) as error:
            return self._after(error, inputs, first, rows)

    def _after(
        self, error: Exception, inputs: Arrays, first: int, rows: int
    ) -> list[tuple[int, Arrays | None]]:
        no_memory = isinstance(error, OutOfMemoryError)
        if no_memory:
            self.fits = max(1, min(self.fits or rows, rows // 2))
        if rows == 1:
            (self.no_memory if no_memory else self.failures)[first] = str(error)
            return [(1, None)]
        middle = rows // 2
        return [
            *self._halves(self._cut(inputs, 0, middle), first, middle),
            *self._halves(self._cut(inputs, middle, rows), first + middle, rows - middle),
        ]

    def _cut(self, inputs: Arrays, start: int, stop: int) -> Arrays:
        return [array[start:stop] for array in inputs] if self._layout.batched else inputs

    def _joined(self, parts: list[tuple[int, Arrays | None]]) -> Arrays:
        known = next((outputs for _, outputs in parts if outputs is not None), None)
        joined = []
        for index, spec in enumerate(self._layout.signature.outputs):
            like = None if known is None else known[index]
            arrays = [
                _nothing(spec, rows, like, batched=self._layout.batched)
                if outputs is None
                else outputs[index]
                for rows, outputs in parts
            ]
            joined.append(np.concatenate(arrays) if len(arrays) > 1 else arrays[0])
        return joined


def _nothing(
    spec: TensorSpec, rows: int, like: NDArray[Any] | None, *, batched: bool
) -> NDArray[Any]:
    """What stands for an output that there is not: it can never be taken for an answer where the
    datatype allows it. Free sizes are those of `like`, or 0."""
    sizes = [max(size, 0) for size in spec.shape]
    if like is not None:
        sizes = list(like.shape[1:] if batched else like.shape)
    shape = (rows, *sizes) if batched else tuple(sizes)
    dtype = DATATYPES[spec.datatype].numpy
    if spec.datatype == "BF16":
        return np.full(shape, bfloat16.NAN, dtype)
    if dtype.kind == "f":
        return np.full(shape, np.nan, dtype)
    return np.full(shape, "", dtype) if dtype.hasobject else np.zeros(shape, dtype)

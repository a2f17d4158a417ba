"""One batch after another: rows from the queue through the graph and back to their jobs.

A batch on which the graph fails is split in halves until the guilty rows are alone: the others get
their answers, at the cost of at most twice the runs. One that finds no memory is split the same
way, and no batch is that large again; a single row for which there is none refuses its job, because
the next try may well succeed. Where batches are padded, only whole ones are: halves run as they
are.
"""

import logging
import math
from collections.abc import Sequence
from time import monotonic, perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visionloop.bundle import Bundle, TensorSpec
from visionloop_inference.batch_metrics import BatchMetrics
from visionloop_inference.batching import BatchBuffer, BatchQueue, Job, Piece
from visionloop_inference.datatypes import DATATYPES
from visionloop_inference.pace import Pace
from visionloop_inference.session import Arrays, GraphRunFailedError, OutOfMemoryError, Session
from visionloop_inference.wire import Layout, Reason

log = logging.getLogger(__name__)

_BFLOAT16_NAN = 0x7FC0


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
        self._buffer = BatchBuffer(layout)
        self._metrics = BatchMetrics(bundle)

    def step(self) -> None:
        """Runs one batch, if rows wait, and hands its jobs their answers."""
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
            return
        try:
            self._run(pieces, now)
        except Exception as error:
            # A fault of ours: these requests fail, the next ones must not hang.
            log.exception("a batch of %s failed", self._model)
            for job in {piece.job: None for piece in pieces}:
                self._refuse(job, Reason.FAILED, f"the batch failed: {error}")

    def _run(self, pieces: Sequence[Piece], now: float) -> None:
        rows = sum([piece.size for piece in pieces])
        size = self.pace.padded_to(rows) if self._layout.batched else rows
        self._metrics.waiting(self._queue.jobs)
        if size > rows:
            self._metrics.padded(size - rows)
        queued = [now - piece.job.queued for piece in pieces if piece.start == 0]
        began = perf_counter()
        inputs = self._buffer.gather(pieces, size)
        run = _Run(self._session, self._layout, rows)
        gathered = perf_counter()
        outputs = run(inputs)
        ran = perf_counter()
        if run.spoilt:
            self._report(run)
        else:
            self.pace.observe(size, ran - gathered)
        self._answer(pieces, outputs, run)
        seconds = (gathered - began, ran - gathered, perf_counter() - ran)
        self._metrics.ran(rows, len(pieces), queued, seconds)

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
        if not job.gone:
            self._queue.drop(job)
            job.source.refuse(job, reason, text, retry_after)


class _Run:
    """One batch through the graph, in halves where it must be."""

    def __init__(self, session: Session, layout: Layout, rows: int) -> None:
        self.failures: dict[int, str] = {}  # row of the batch -> what the graph said
        self.no_memory: dict[int, str] = {}
        self.fits: int | None = None  # where memory ran out: rows for which it was found
        self._session = session
        self._layout = layout
        self._rows = rows

    @property
    def spoilt(self) -> bool:
        return bool(self.failures or self.no_memory) or self.fits is not None

    def __call__(self, inputs: Arrays) -> Arrays:
        """The outputs of all rows, padding left out; NaN, 0 or "" for guilty rows."""
        rows = self._rows
        try:
            outputs = self._session.run(inputs)
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
        return np.full(shape, _BFLOAT16_NAN, dtype)
    if dtype.kind == "f":
        return np.full(shape, np.nan, dtype)
    return np.full(shape, "", dtype) if dtype.hasobject else np.zeros(shape, dtype)

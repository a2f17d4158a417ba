"""What runs a graph: the interface the front end sees, and the runner of this process.

`Runner.run` is the whole contract: rows in, outputs out, a deadline that is kept. A runner that
lives in its own process needs nothing more. The one here is a thread that owns an onnxruntime
session: `session.run` releases the GIL, and so does creating a session in onnxruntime 1.31 (another
thread was held up for at most 2 ms while a 13 MB graph loaded for 90 ms; older releases held it all
the while), so requests go on while the next version loads. Price: a native crash takes the whole
server along.

A batch on which the graph fails is split in halves until the guilty rows are alone: the others get
their answers, at the cost of at most twice the runs.
"""

import asyncio
import logging
import threading
import time
from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from visionloop.bundle import ClassificationBundle
from visionloop.errors import CorruptError, VisionloopError
from visionloop.telemetry import inference as metrics
from visionloop_inference.batching import (
    Answer,
    BatchQueue,
    Job,
    Outputs,
    Piece,
    Rows,
    fail,
    gather,
    resolve,
    scatter,
)
from visionloop_inference.pace import Pace
from visionloop_inference.providers import session, shrinking

log = logging.getLogger(__name__)


class Runner(Protocol):
    """One loaded model version."""

    @property
    def batch(self) -> int:
        """Most rows in one batch: the best size measured at warm-up."""
        ...

    def seconds(self, rows: int) -> float:
        """Predicted seconds for so many rows."""
        ...

    async def start(self) -> None:
        """Loads and warms up. Raises CorruptError when the graph is not what the bundle says."""
        ...

    async def run(self, rows: Rows, deadline: float | None) -> Answer:
        """Rows of (height, width, 3) uint8 through the graph, in any batches.

        `deadline` is a time.monotonic(). Rows of a cancelled call are dropped before they run.
        Raises DeadlineExceededError when it passed first; a row on which the graph fails is
        reported in the answer.
        """
        ...

    async def close(self) -> None:
        """Runs what is queued, then lets the graph go."""
        ...


class GraphRunFailedError(VisionloopError):
    """The graph failed on a row that passed every check."""


class ThreadRunner:
    """A graph in a thread of this process."""

    def __init__(
        self,
        bundle: ClassificationBundle,
        graph: Path,
        *,
        provider: str,
        threads: int,
        max_batch: int,
    ) -> None:
        self._bundle = bundle
        self._graph = graph
        self._provider = provider
        self._threads = threads
        self._queue = BatchQueue(max_batch)
        self._pace = Pace(0.0, 1.0, max_batch)
        self._loop = asyncio.get_running_loop()
        self._started: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(
            target=self._live, name=f"runner-{bundle.model}-{bundle.version}", daemon=True
        )
        self._rows_observed = metrics.BATCH_ROWS.labels(model=bundle.model)

    @property
    def batch(self) -> int:
        return self._pace.batch

    def seconds(self, rows: int) -> float:
        return self._pace.seconds(rows)

    async def start(self) -> None:
        self._thread.start()
        await asyncio.shield(self._started)

    async def run(self, rows: Rows, deadline: float | None) -> Answer:
        shapes = {output.name: output.shape for output in self._bundle.outputs}
        # NaN, so that a row whose run failed can never be taken for an answer.
        answer = Answer(
            {
                name: np.full((len(rows), *shape), np.nan, np.float32)
                for name, shape in shapes.items()
            }
        )
        job = Job(rows, self._loop.create_future(), deadline, answer)
        self._queue.put(job)
        return await job.future

    async def close(self) -> None:
        self._queue.close()
        if self._thread.ident is not None:
            await asyncio.to_thread(self._thread.join)

    # Below: the runner's own thread.

    def _live(self) -> None:
        try:
            graph = self._load()
        except Exception as error:  # noqa: BLE001 — handed to whoever awaits start()
            self._tell_started(error)
            return
        self._tell_started(None)
        spec = self._bundle.input
        buffer = np.empty((self._queue.max_batch, spec.height, spec.width, 3), np.uint8)
        while (taken := self._queue.take()) is not None:
            pieces, dead = taken
            self._answer(dead)
            for job in dead:
                reason = "cancelled" if job.cancelled else "expired"
                metrics.REJECTED.labels(reason=reason).inc()
            try:
                self._run_batch(graph, pieces, buffer)
            except Exception as error:
                # A fault of ours, or no memory: these requests fail, the next ones must not hang.
                log.exception("a batch of %s failed", self._bundle.model)
                self._loop.call_soon_threadsafe(fail, [piece.job for piece in pieces], error)

    def _load(self) -> onnxruntime.InferenceSession:
        try:
            graph = session(self._graph, self._provider, self._threads)
        except VisionloopError:
            raise
        except Exception as error:
            raise CorruptError(
                f"onnxruntime does not load {self._bundle.graph}: {error}"
            ) from error
        _check_signature(graph, self._bundle)
        spec = self._bundle.input
        pixels = np.zeros((self._queue.max_batch, spec.height, spec.width, 3), np.uint8)
        try:
            self._pace = Pace.measure(
                lambda rows: self._run(graph, pixels[:rows]), self._queue.max_batch
            )
            # The sizes that were tried and not chosen must not keep their memory (for
            # EfficientNet-Lite0 600 MB after 32 rows, 105 MB shrunk).
            self._run(graph, pixels[:1], shrinking(self._provider))
        except VisionloopError:
            raise
        except Exception as error:
            raise CorruptError(f"{self._bundle.graph} fails on black images: {error}") from error
        self._queue.max_batch = self._pace.batch
        return graph

    def _tell_started(self, error: Exception | None) -> None:
        def tell() -> None:
            if not self._started.done():
                if error is None:
                    self._started.set_result(None)
                else:
                    self._started.set_exception(error)

        self._loop.call_soon_threadsafe(tell)

    def _run(
        self,
        graph: onnxruntime.InferenceSession,
        rows: NDArray[np.uint8],
        options: onnxruntime.RunOptions | None = None,
    ) -> Outputs:
        names = [output.name for output in self._bundle.outputs]
        values = graph.run(names, {self._bundle.input.name: rows}, options)
        outputs = dict(zip(names, values, strict=True))
        for spec in self._bundle.outputs:
            found = outputs[spec.name].shape
            if found != (len(rows), *spec.shape):
                raise CorruptError(
                    f"output {spec.name!r} has the shape {list(found)} for {len(rows)} rows; "
                    f"bundle.json says {[len(rows), *spec.shape]}"
                )
        return outputs

    def _run_batch(
        self,
        graph: onnxruntime.InferenceSession,
        pieces: list[Piece],
        buffer: NDArray[np.uint8],
    ) -> None:
        if not pieces:
            return
        begun = time.monotonic()
        for piece in pieces:
            if piece.start == 0:
                metrics.STAGE_DURATION.labels(stage="queue").observe(begun - piece.job.queued)
        rows = gather(pieces, buffer)
        failures: dict[int, VisionloopError] = {}
        outputs = self._run_halving(graph, rows, 0, failures)
        finished = time.monotonic()
        if not failures:
            self._pace.observe(len(rows), finished - begun)
        metrics.STAGE_DURATION.labels(stage="infer").observe(finished - begun)
        self._rows_observed.observe(len(rows))
        scatter(pieces, outputs, failures)
        self._answer([p.job for p in pieces if p.job.done == len(p.job.rows)])

    def _run_halving(
        self,
        graph: onnxruntime.InferenceSession,
        rows: NDArray[np.uint8],
        first: int,
        failures: dict[int, VisionloopError],
    ) -> Outputs:
        """Outputs of all rows; those of guilty rows stay NaN and are named in `failures`."""
        try:
            return self._run(graph, rows)
        except Exception as error:  # noqa: BLE001 — onnxruntime has no common base for its errors
            if len(rows) == 1:
                log.error(
                    "the graph of %s version %d failed on a row: %s",
                    self._bundle.model, self._bundle.version, error,
                )  # fmt: skip
                failures[first] = GraphRunFailedError(f"the graph failed on this image: {error}")
                return {
                    spec.name: np.full((1, *spec.shape), np.nan, np.float32)
                    for spec in self._bundle.outputs
                }
        middle = len(rows) // 2
        left = self._run_halving(graph, rows[:middle], first, failures)
        right = self._run_halving(graph, rows[middle:], first + middle, failures)
        return {name: np.concatenate([left[name], right[name]]) for name in left}

    def _answer(self, jobs: list[Job]) -> None:
        if jobs:
            self._loop.call_soon_threadsafe(resolve, jobs, time.monotonic())


def _check_signature(graph: onnxruntime.InferenceSession, bundle: ClassificationBundle) -> None:
    """Raises CorruptError unless the graph takes and gives what bundle.json declares."""
    inputs = {found.name: (found.type, found.shape) for found in graph.get_inputs()}
    spec = bundle.input
    kind, shape = inputs.get(spec.name, ("", []))
    # A size without a name or number is free; a number must be the declared one.
    sizes = zip(shape[1:], (spec.height, spec.width, 3), strict=False)
    fits = len(shape) == 4 and all(not isinstance(a, int) or a == b for a, b in sizes)
    if len(inputs) != 1 or kind != "tensor(uint8)" or not fits:
        raise CorruptError(
            f"{bundle.graph} takes {inputs}; bundle.json says one input {spec.name!r} of uint8 "
            f"(n, {spec.height}, {spec.width}, 3)"
        )
    if isinstance(shape[0], int):
        raise CorruptError(
            f"{bundle.graph} takes batches of exactly {shape[0]} rows; export it with a dynamic "
            "batch dimension"
        )
    outputs = {found.name: found.type for found in graph.get_outputs()}
    for output in bundle.outputs:
        if outputs.get(output.name) != "tensor(float)":
            raise CorruptError(
                f"{bundle.graph} gives {outputs}; bundle.json says {output.name!r} of float32"
            )

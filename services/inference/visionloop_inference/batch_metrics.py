"""What a runner counts of its batches: our own names and Triton's, in one place.

Triton counts the stages of a batch once for every request in it, so the sums here grow faster than
the clock. A request that is split over batches counts its queue once and every other stage in each
of them. Costs about 3 microseconds a batch and half a microsecond a request.
"""

from collections.abc import Sequence
from time import time

from visionloop.bundle import Bundle
from visionloop.telemetry import inference as metrics


class BatchMetrics:
    """The counters of one version in this process; made after the process knows its page."""

    def __init__(self, bundle: Bundle) -> None:
        version = (bundle.model, str(bundle.version))
        self._queue = metrics.STAGE_DURATION.labels(stage="queue")
        self._infer = metrics.STAGE_DURATION.labels(stage="infer")
        self._batch_rows = metrics.BATCH_ROWS.labels(model=bundle.model)
        self._expired = metrics.REJECTED.labels(reason="expired")
        self._padding = metrics.BATCH_PADDING_ROWS.labels(model=bundle.model)
        self._pending = metrics.NV_PENDING.labels(*version)
        self._rows = metrics.NV_ROWS.labels(*version)
        self._runs = metrics.NV_RUNS.labels(*version)
        self._queue_us = metrics.NV_QUEUE_US.labels(*version)
        self._input_us = metrics.NV_INPUT_US.labels(*version)
        self._infer_us = metrics.NV_INFER_US.labels(*version)
        self._output_us = metrics.NV_OUTPUT_US.labels(*version)
        self._last = metrics.LAST_INFERENCE.labels(*version)

    def expired(self) -> None:
        """A request's deadline passed in the queue."""
        self._expired.inc()

    def waiting(self, jobs: int) -> None:
        """So many requests are still in the queue while a batch runs."""
        self._pending.set(jobs)

    def padded(self, rows: int) -> None:
        """So many rows of a batch were made up."""
        self._padding.inc(rows)

    def ran(self, rows: int, jobs: int, queued: Sequence[float], seconds: Sequence[float]) -> None:
        """One batch. `queued`: seconds that requests waited which are in a batch for the first
        time; `seconds`: of putting it together, of the graph, of handing the outputs out."""
        for waited in queued:
            self._queue.observe(waited)
        self._queue_us.inc(1e6 * sum(queued))
        gathering, running, answering = seconds
        self._infer.observe(running)
        self._batch_rows.observe(rows)
        self._rows.inc(rows)
        self._runs.inc()
        self._input_us.inc(1e6 * jobs * gathering)
        self._infer_us.inc(1e6 * jobs * running)
        self._output_us.inc(1e6 * jobs * answering)
        self._last.set(time())

"""How long a batch takes, and how large one should be: measured at warm-up, corrected by every run.

Warm-up runs batches of 1, 2, 4, … rows for as long as a row gets cheaper; the best size becomes the
limit. A GPU wants large batches; a CPU often none: for EfficientNet-Lite0 on two cores, a limit of
4 rows answered 1.6 times the requests of a limit of 32, in half the time, because the activations
of a large batch fall out of the cache.

A batch of n rows is then taken to cost a + b*n seconds, times a factor that follows the ratio of
measured to predicted time, so that a machine which got busier shows at once. It is used to refuse
early what would answer late; an estimate, so some of what it refuses would just have made it.
"""

from collections.abc import Callable
from time import perf_counter

FORGETTING = 0.2  # weight of the newest run in the moving average
WORTH_IT = 0.95  # a larger batch must bring a row's cost below this share of the best so far
TRIES = 2  # the better one counts: other work on the machine only ever adds time
PATIENCE = 2  # sizes in a row that may fail to be better before the search ends
LONGEST = 1.0  # seconds; a batch that takes longer is never made larger


class Pace:
    """Seconds per batch. Written by the runner's thread, read by the event loop."""

    def __init__(self, fixed: float, per_row: float, batch: int) -> None:
        self.fixed = max(fixed, 0.0)
        self.per_row = max(per_row, 1e-9)
        self.batch = batch  # rows at which a row is cheapest
        self.factor = 1.0

    @classmethod
    def measure(
        cls,
        run: Callable[[int], object],
        max_batch: int,
        clock: Callable[[], float] = perf_counter,
    ) -> "Pace":
        """Runs batches of growing size; `run(n)` runs one of n rows."""
        seconds: dict[int, float] = {}
        size, best, failed = 1, 1, 0
        while failed < PATIENCE:
            run(size)  # the first run of a size allocates
            seconds[size] = min(_timed(run, size, clock) for _ in range(TRIES))
            if size > 1 and seconds[size] / size > WORTH_IT * seconds[best] / best:
                failed += 1
            else:
                best, failed = size, 0
            if size == max_batch or seconds[size] > LONGEST:
                break
            size = min(2 * size, max_batch)
        if best == 1:
            return cls(0.0, seconds[1], 1)
        per_row = (seconds[best] - seconds[1]) / (best - 1)
        if per_row <= 0.0:  # noise: take the mean cost of a row
            per_row = seconds[best] / best
        return cls(seconds[best] - per_row * best, per_row, best)

    def batch_seconds(self, rows: int) -> float:
        """Predicted seconds for one batch."""
        return self.factor * (self.fixed + self.per_row * rows) if rows else 0.0

    def seconds(self, rows: int) -> float:
        """Predicted seconds for `rows` in as few batches as they fit."""
        full, rest = divmod(rows, self.batch)
        return full * self.batch_seconds(self.batch) + self.batch_seconds(rest)

    def observe(self, rows: int, seconds: float) -> None:
        """Takes a finished batch into account."""
        expected = self.fixed + self.per_row * rows
        ratio = min(max(seconds / expected, 0.1), 10.0)  # one hiccup must not close the door
        self.factor += FORGETTING * (ratio - self.factor)


def _timed(run: Callable[[int], object], size: int, clock: Callable[[], float]) -> float:
    began = clock()
    run(size)
    return clock() - began

"""How long a batch takes: measured at warm-up, corrected by every run since.

A batch of n rows is taken to cost a + b*n seconds (two sizes measured at warm-up), times a factor
that follows the ratio of measured to predicted time, so that a machine which got busier shows at
once. Used to refuse early what would answer late; an estimate, so refusals leave some slack.
"""

from collections.abc import Callable
from time import perf_counter

FORGETTING = 0.2  # weight of the newest run in the moving average


class Pace:
    """Seconds per batch. Written by the runner's thread, read by the event loop."""

    def __init__(self, fixed: float, per_row: float) -> None:
        self.fixed = max(fixed, 0.0)
        self.per_row = max(per_row, 1e-9)
        self.factor = 1.0

    @classmethod
    def measure(cls, run: Callable[[int], object], sizes: tuple[int, int]) -> "Pace":
        """Runs both batch sizes twice (the first warms up) and fits the line through the second."""
        small, large = sizes
        taken = []
        for size in (small, large):
            run(size)
            start = perf_counter()
            run(size)
            taken.append(perf_counter() - start)
        if small == large:
            return cls(0.0, taken[0] / small)
        per_row = (taken[1] - taken[0]) / (large - small)
        # Noise can make the larger batch look free; then the mean cost of a row is the safer guess.
        if per_row <= 0.0:
            per_row = taken[1] / large
        return cls(taken[0] - per_row * small, per_row)

    def batch_seconds(self, rows: int) -> float:
        """Predicted seconds for one batch."""
        return self.factor * (self.fixed + self.per_row * rows) if rows else 0.0

    def seconds(self, rows: int, max_batch: int) -> float:
        """Predicted seconds for `rows` in as few batches as they fit."""
        full, rest = divmod(rows, max_batch)
        return full * self.batch_seconds(max_batch) + self.batch_seconds(rest)

    def observe(self, rows: int, seconds: float) -> None:
        """Takes a finished batch into account."""
        expected = self.fixed + self.per_row * rows
        ratio = min(max(seconds / expected, 0.1), 10.0)  # one hiccup must not close the door
        self.factor += FORGETTING * (ratio - self.factor)

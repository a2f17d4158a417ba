"""What a few runs on random splits say about the mean: two intervals, the usual and the honest one.

The test parts of random splits overlap, and so do the train parts, so runs are not independent and
Student's interval over them is too narrow. Nadeau & Bengio 2003 ("Inference for the Generalization
Error", doi:10.1023/A:1024068626366) widen it by the ratio of test to train images.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from scipy.stats import t


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float

    def as_json(self) -> list[float]:
        """[low, high]"""
        return [round(self.low, 5), round(self.high, 5)]


def student(values: Sequence[float]) -> Interval | None:
    """Of the mean of independent values; None for fewer than two."""
    return _around(values, 1.0 / len(values)) if len(values) > 1 else None


def resampled(values: Sequence[float], train: float, test: float) -> Interval | None:
    """Of the mean over random splits of one data set into `train` and `test` images."""
    return _around(values, 1.0 / len(values) + test / train) if len(values) > 1 else None


def _around(values: Sequence[float], share: float) -> Interval:
    """The mean ± Student's quantile of the variance times `share`."""
    half = float(t.ppf(0.975, len(values) - 1)) * stdev(values) * math.sqrt(share)
    return Interval(mean(values) - half, mean(values) + half)

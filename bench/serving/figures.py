"""Percentiles, medians and spreads: the few lines of arithmetic that all figures go through."""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from statistics import median

__all__ = ["median", "percentile", "rate_at", "spread"]


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile: the smallest value that `percent` of all do not exceed.

    Always a value that was measured, never an interpolation. Raises ValueError without values.
    """
    if not values or not 0.0 < percent <= 100.0:
        raise ValueError(f"no percentile {percent} of {len(values)} values")
    ordered = sorted(values)
    return ordered[math.ceil(len(ordered) * percent / 100.0) - 1]


def spread(values: Sequence[float]) -> float:
    """(largest - smallest) / median: 0.1 means that the runs lay within 10 % of one another."""
    middle = median(values)
    return (max(values) - min(values)) / middle if middle else math.inf


def rate_at(seconds: Mapping[int, float], batch: float) -> float:
    """Rows a second at a mean batch that need not be whole.

    `seconds` maps the batch sizes that were measured to the seconds of one run; in between a run is
    taken to cost what a straight line says, outside what the nearest size costs per row.
    """
    sizes = sorted(seconds)
    if batch <= sizes[0]:
        return sizes[0] / seconds[sizes[0]]
    if batch >= sizes[-1]:
        return sizes[-1] / seconds[sizes[-1]]
    above = sizes[bisect_left(sizes, batch)]
    below = sizes[bisect_left(sizes, batch) - 1] if above != batch else above
    if above == below:
        return batch / seconds[above]
    share = (batch - below) / (above - below)
    return batch / (seconds[below] + share * (seconds[above] - seconds[below]))


def bracket(batch: float, largest: int) -> set[int]:
    """The powers of two around a mean batch, none above `largest`."""
    below = 2 ** math.floor(math.log2(max(batch, 1.0)))
    above = below if below >= batch else 2 * below
    return {min(below, largest), min(above, largest)}

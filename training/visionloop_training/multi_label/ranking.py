"""Average precision: how well a class's probabilities put the images that have it first.

The mean, over the images that have the class, of the share of such images among all that are ranked
as high or higher: the area under the precision-recall curve without interpolation, as scikit-learn
computes it. It needs no threshold. A bootstrap draw only changes how often an image counts, so each
class is sorted once, and many draws are one array operation.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from visionloop_training.intervals import DRAWS, Interval, of_draws, wider, wilson
from visionloop_training.metrics import Flags, Floats, Integers

_FEWEST_DRAWS = 100
_FEW = 10  # groups with a class
_WORK = 100_000_000  # images × classes × draws; beyond it fewer draws, some 5 s on one core
_AT_ONCE = 1_000_000  # images × draws: 8 MB an array


@dataclass(frozen=True, slots=True)
class Ranking:
    """Images in falling order of the scores for one class."""

    order: Integers  # (n,) places
    hits: Flags  # (n,) whether the image has the class
    ends: Integers  # (n,) the rank of the last image with the same score

    @classmethod
    def of(cls, scores: Floats, truth: Flags) -> "Ranking":
        """From scores (n,) and whether the images have the class (n,)."""
        order = np.argsort(-scores, kind="stable")
        ranked = scores[order]
        last = np.flatnonzero(np.append(ranked[1:] < ranked[:-1], True))
        ends = last[np.searchsorted(last, np.arange(len(order)))]
        return cls(order, truth[order], ends)

    def areas(self, times: Floats | Integers) -> Floats:
        """(draws,) for how often each image counts (draws, n); NaN where none has the class."""
        counted = times[:, self.order]
        hits = counted * self.hits
        true, ranked = (x.cumsum(axis=1, dtype=np.float64) for x in (hits, counted))
        # Images drawn no times stand before all others only where nothing was ranked yet.
        precision = true[:, self.ends] / np.maximum(ranked[:, self.ends], 1e-12)
        with np.errstate(invalid="ignore"):
            found: Floats = (hits * precision).sum(axis=1) / true[:, -1]
        return found


def average_precision(scores: Floats, truth: Flags) -> Floats:
    """(classes,) for scores and truth (n, classes); NaN for a class that no image has."""
    once = np.ones((1, len(scores)))
    columns = zip(scores.T, truth.T, strict=True)
    return np.array([float(Ranking.of(score, has).areas(once)[0]) for score, has in columns])


def with_intervals(
    scores: Floats, truth: Flags, groups: Integers
) -> tuple[Interval | None, list[Interval | None]]:
    """(mean over classes, by class), with intervals from resamples of whole groups.

    None for classes that no image has; the mean is over the others. A draw without an image of a
    class has no such class.
    """
    n, classes = scores.shape
    draws = int(np.clip(_WORK // max(1, n * classes), _FEWEST_DRAWS, DRAWS))
    times = _resamples(groups, draws)
    once = np.ones((1, n), times.dtype)
    at_once = max(1, _AT_ONCE // max(1, n))
    values, drawn = np.empty(classes), np.empty((draws, classes))
    for place in range(classes):  # one by one: all rankings of 100 k × 1,000 would be 1.7 GB
        ranking = Ranking.of(scores[:, place], truth[:, place])
        values[place] = ranking.areas(once)[0]
        for start in range(0, draws, at_once):
            some = slice(start, start + at_once)
            drawn[some, place] = ranking.areas(times[some])
    by_class = [
        None if np.isnan(value) else _interval(float(value), column, groups[has])
        for value, column, has in zip(values, drawn.T, truth.T, strict=True)
    ]
    present = ~np.isnan(values)
    if not present.any():
        return None, by_class
    there = np.isfinite(drawn)
    with np.errstate(invalid="ignore"):  # a draw without any class is none
        means = np.where(there, drawn, 0.0).sum(axis=1) / there.sum(axis=1)
    fewest = min(len(np.unique(groups[has])) for has in truth.T if has.any())
    return of_draws(float(values[present].mean()), means, n, fewest), by_class


def _interval(value: float, draws: Floats, groups: Integers) -> Interval:
    """Of a class whose images are in these groups. Few of them are drawn again and again with the
    same rank, which looks surer than it is: then it is at least as wide as a share's of so many."""
    n, independent = len(groups), len(np.unique(groups))
    found = of_draws(value, draws, n, independent)
    return wider(found, wilson(value, independent, n)) if independent < _FEW else found


def _resamples(groups: Integers, draws: int) -> NDArray[np.uint16]:
    """(draws, n) how often each image is drawn."""
    names, places = np.unique(groups, return_inverse=True)
    count = len(names)
    random = np.random.default_rng(0)
    times = np.empty((draws, len(places)), np.uint16)
    for row in times:
        row[:] = np.bincount(random.integers(0, count, count), minlength=count)[places]
    return times

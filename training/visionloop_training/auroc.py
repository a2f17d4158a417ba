"""Area under the ROC curve, one class against the rest, with DeLong's variance.

The area is the chance that an image of the class gets a higher probability of it than another one.
DeLong (1988) writes it as a mean over images, so each image's influence is known, the variance is
the sum of their squares, and the mean over classes has the mean influence: no resampling is needed.
Influences are summed within near-duplicate groups first. O(n log n) for each class.
"""

import math

import numpy as np
from scipy.special import expit, logit
from scipy.stats import norm, rankdata

from visionloop_training.intervals import CONFIDENCE, Interval, share
from visionloop_training.metrics import Flags, Floats, Integers


def auroc(
    probabilities: Floats, labels: Integers, groups: Integers
) -> tuple[Interval | None, list[Interval | None]]:
    """(macro, by class) for probabilities (n, classes), labels (n,) and groups (n,); see
    `auroc_of`."""
    return auroc_of(probabilities, labels[:, None] == np.arange(probabilities.shape[1]), groups)


def auroc_of(
    probabilities: Floats, truth: Flags, groups: Integers
) -> tuple[Interval | None, list[Interval | None]]:
    """(macro, by class) for probabilities and truth (n, classes), and groups (n,).

    None for a class that has no images, or all of them; the macro mean is over the others. The
    interval is made on the logit scale, which keeps it between 0 and 1.
    """
    _, places = np.unique(groups, return_inverse=True)
    by_class: list[Interval | None] = []
    total = np.zeros(len(places))  # of the influences; all at once are 800 MB for 100 k × 1,000
    areas: list[float] = []
    smallest: list[int] = []
    for index in range(probabilities.shape[1]):
        inside = truth[:, index]
        fewer = min(len(np.unique(places[side])) for side in (inside, ~inside))
        if not fewer:
            by_class.append(None)
            continue
        area, influence = _delong(probabilities[:, index], inside)
        by_class.append(_interval(area, influence, places, fewer))
        areas.append(area)
        total += influence
        smallest.append(fewer)
    if not areas:
        return None, by_class
    mean = math.fsum(areas) / len(areas)
    return _interval(mean, total / len(areas), places, min(smallest)), by_class


def _delong(scores: Floats, inside: Flags) -> tuple[float, Floats]:
    """The area, and how far each image (n,) moves it."""
    positives, negatives = int(inside.sum()), int((~inside).sum())
    ranks = rankdata(scores)
    placed = np.empty(
        len(scores)
    )  # the share of the other side that an image is ranked correctly against
    placed[inside] = (ranks[inside] - rankdata(scores[inside])) / negatives
    placed[~inside] = 1 - (ranks[~inside] - rankdata(scores[~inside])) / positives
    area = float(placed[inside].mean())
    return area, (placed - area) / np.where(inside, positives, negatives)


def _interval(area: float, influence: Floats, places: Integers, fewer: int) -> Interval:
    """`fewer`: groups on the side, images of the class or others, that has fewer of them."""
    together = np.bincount(places, weights=influence)
    error = math.sqrt(float(together @ together))
    n = len(influence)
    if not 0.0 < area < 1.0 or error == 0.0:
        # Nothing is out of order, so no spread can be seen; the smaller side says how little that
        # proves.
        certain = share(fewer, fewer)
        low, high = (certain.low, 1.0) if area > 0.5 else (0.0, 1 - certain.low)
        return Interval(area, min(area, low), max(area, high), n)
    half = float(norm.ppf(0.5 + CONFIDENCE / 2)) * error / (area * (1 - area))
    low, high = float(expit(logit(area) - half)), float(expit(logit(area) + half))
    return Interval(area, min(area, low), max(area, high), n)  # rounding must not part them

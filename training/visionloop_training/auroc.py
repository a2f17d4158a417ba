"""Area under the ROC curve, one class against the rest, with DeLong's variance.

The area is the chance that an image of the class gets a higher probability of it than another one.
DeLong (1988) writes it as a mean over images, so each image's influence is known, the variance is
the sum of their squares, and the mean over classes has the mean influence: no resampling is needed.
Influences are summed within near-duplicate groups first. O(n log n) for each class.

Of a class with one image, or whose images are one group, no spread can be seen, and that is not
certainty: it counts as having the most that there can be (`_scaled`).
"""

import math

import numpy as np
from scipy.special import expit, logit, ndtri

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
        area, influence = _delong(probabilities[:, index], inside, places)
        by_class.append(_interval(area, influence, places, fewer))
        areas.append(area)
        total += influence
        smallest.append(fewer)
    if not areas:
        return None, by_class
    mean = math.fsum(areas) / len(areas)
    return _interval(mean, total / len(areas), places, min(smallest)), by_class


def _delong(scores: Floats, inside: Flags, places: Integers) -> tuple[float, Floats]:
    """The area, and how far each image (n,) moves it; `places` (n,) are the groups'."""
    ranks = _ranks(scores)
    placed = np.empty(len(scores))  # the share of the other side that it is ranked right against
    placed[inside] = (ranks[inside] - _ranks(scores[inside])) / (~inside).sum()
    placed[~inside] = 1 - (ranks[~inside] - _ranks(scores[~inside])) / inside.sum()
    area = float(placed[inside].mean())
    influence = placed - area
    for side in (inside, ~inside):
        influence[side] = _scaled(influence[side], places[side], area)
    return area, influence


def _scaled(spread: Floats, places: Integers, area: float) -> Floats:
    """What the images of one side, in groups at `places`, add to the variance.

    Squares around a mean that is their own are too small by (groups - 1) / groups. Of one group
    nothing is left of them; an area's variance is at most area · (1 - area) then.
    """
    count, groups = len(spread), len(np.unique(places))
    if groups == 1:
        return np.full(count, math.sqrt(area * (1 - area)) / count)
    return spread / count * math.sqrt(groups / (groups - 1))


def _ranks(scores: Floats) -> Floats:
    """(n,) from 1 on; what is equal has the mean of its ranks."""
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks: Floats = (counts.cumsum() - (counts - 1) / 2)[places]
    return ranks


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
    half = float(ndtri(0.5 + CONFIDENCE / 2)) * error / (area * (1 - area))
    low, high = float(expit(logit(area) - half)), float(expit(logit(area) + half))
    return Interval(area, min(area, low), max(area, high), n)  # rounding must not part them

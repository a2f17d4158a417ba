"""How sure a measured number is: 95 % intervals for shares, for means of shares, for anything else.

    shares (accuracy, recall, precision)   Wilson's score interval, honest near 0 and 1 too
    F1                                     the same, of the share that it is a function of
    means of shares (macro recall, …)      MOVER: put together from the shares' own intervals
    the rest (macro F1, ECE)               bootstrap, 1,000 draws

The unit is the near-duplicate group, not the image: ten frames of one scene are not ten
observations. So shares count an effective number of images (n over the design effect, Kish 1965),
and the bootstrap draws whole groups. Where every image is a group of its own both are the textbook
methods. Price: all scores of 10,000 images and ten classes take less than a second.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.special import ndtri

from visionloop_training.metrics import Flags, Floats, Integers

CONFIDENCE = 0.95
DRAWS = 1000
_NUMBERS_AT_ONCE = 4_000_000  # of one chunk of draws: 32 MB an array


@dataclass(frozen=True, slots=True)
class Interval:
    """A value between 0 and 1 that `n` images gave, with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int

    def as_metrics(self, name: str) -> dict[str, float]:
        """With both ends, as bundle.json has its headline numbers."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


def share(hits: int, n: int, design_effect: float = 1.0) -> Interval:
    """`hits` of `n` with Wilson's score interval for n / design_effect independent images."""
    if n == 0:
        return Interval(0.0, 0.0, 1.0, 0)
    return wilson(hits / n, n / design_effect, n)


def wilson(p: float, effective: float, n: int) -> Interval:
    """Wilson's score interval of a share `p` of so many independent images."""
    z = float(ndtri(0.5 + CONFIDENCE / 2))
    centre = (p + z * z / (2 * effective)) / (1 + z * z / effective)
    half = z / (1 + z * z / effective)
    half *= math.sqrt(p * (1 - p) / effective + z * z / (4 * effective**2))
    return _around(p, centre - half, centre + half, n)


def grouped_share(hits: Flags, groups: Integers) -> Interval:
    """The share of true `hits` (n,), whose images belong to `groups` (n,)."""
    n = len(hits)
    return share(int(hits.sum()), n, design_effect(hits.astype(np.float64), groups))


def design_effect(values: Floats, groups: Integers) -> float:
    """How many times the variance of a mean of `values` (n,) grows because groups are alike; ≥ 1.

    Where all values are equal, or of one group, nothing can be estimated: a group counts as one
    image.
    """
    if not len(values):
        return 1.0
    spread = values - values.mean()
    single = float(spread @ spread)
    names, places = np.unique(groups, return_inverse=True)
    if single == 0.0 or len(names) == 1:
        return len(values) / len(names)
    together = np.bincount(places, weights=spread)
    return max(1.0, float(together @ together) / single)


def f1(hits: Flags, groups: Integers) -> Interval:
    """F1 of a class, from the images that are labelled or answered as it; `hits`: both.

    F1 = 2 J / (1 + J) for the share J of hits among them, and that is a share like any other.
    """
    jaccard = grouped_share(hits, groups)
    value, low, high = (2 * j / (1 + j) for j in (jaccard.value, jaccard.low, jaccard.high))
    return Interval(value, low, high, jaccard.n)


def mean(parts: Sequence[Interval]) -> Interval:
    """The plain mean of independent shares, with the MOVER interval (Zou & Donner 2008)."""
    if not parts:
        return Interval(0.0, 0.0, 1.0, 0)
    value = math.fsum(part.value for part in parts) / len(parts)
    below = math.sqrt(math.fsum((part.value - part.low) ** 2 for part in parts)) / len(parts)
    above = math.sqrt(math.fsum((part.high - part.value) ** 2 for part in parts)) / len(parts)
    return _around(value, value - below, value + above, sum(part.n for part in parts))


def wider(one: Interval, other: Interval) -> Interval:
    """`one`, at least as wide as `other`: a bootstrap of a perfect score sees no spread at all."""
    return Interval(one.value, min(one.low, other.low), max(one.high, other.high), one.n)


def of_draws(value: float, draws: Floats, n: int, independent: int) -> Interval:
    """The percentile interval of bootstrap `draws` (draws,), moved by their bias.

    A resample repeats images, and numbers such as ECE grow with that. So it is the draws' spread
    around their own mean that is put around the value. Where they have none, as of a perfect
    score, nothing can be seen of it: then it is a share of so many `independent` images.
    """
    finite = draws[np.isfinite(draws)]
    if not len(finite):
        return Interval(value, 0.0, 1.0, n)
    if np.ptp(finite) < 1e-12:
        return wilson(value, independent, n)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(finite, (tail, 100 - tail)) - finite.mean()
    return _around(value, value + float(low), value + float(high), n)


def resampled_sums(
    columns: "sparse.csr_array", groups: Integers, draws: int = DRAWS, seed: int = 0
) -> Floats:
    """Sums of `columns` (n, m) over resamples of whole groups: (draws, m)."""
    names, places = np.unique(groups, return_inverse=True)
    n, count = len(places), len(names)
    member = sparse.csr_array((np.ones(n), (places, np.arange(n))), shape=(count, n))
    by_group = sparse.csr_array(member @ columns)  # (groups, m)
    random = np.random.default_rng(seed)
    parts: list[Floats] = []
    done = 0
    while done < draws:
        some = max(1, min(draws - done, _NUMBERS_AT_ONCE // count))
        drawn = random.integers(0, count, (some, count)) + count * np.arange(some)[:, None]
        times = np.bincount(drawn.ravel(), minlength=some * count).reshape(some, count)
        parts.append((by_group.T @ times.T.astype(np.float64)).T)
        done += some
    return np.concatenate(parts)


def _around(value: float, low: float, high: float, n: int) -> Interval:
    """Kept between 0 and 1; rounding must not push an end past the value itself."""
    return Interval(value, max(0.0, min(value, low)), min(1.0, max(value, high)), n)

"""Is a difference more than chance? The paired tests of the gate, and Holm's correction.

Two models answer the same images. What counts is where they disagree: b images that only the
candidate gets right, c that only the stable version does. All functions take numbers or arrays, so
the simulation of the gate (`bench.gate`) runs the very tests that decide.

    mcnemar_worse     exact, "the candidate is worse"
    non_inferiority   "worse by the margin or more", Tango's score test (1998), kept below alpha
    visible           the smallest difference that a test set can see
    holm              p-values of a family, so that the chance of any false alarm is alpha
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betainc, ndtr, ndtri

from visionloop_training.intervals import design_effect
from visionloop_training.metrics import Flags, Floats, Integers

# One-sided 5 %, 80 % power: ndtri(0.95) + ndtri(0.8).
POWER = 2.4865
# Taken off the count of disagreements. Counts are whole numbers and the score test forgets it:
# without this, models worse by exactly the margin pass in up to 5.6 % of cases at alpha 5 %; with
# it in at most 4.9 % (exact, for 100, 200 and 656 images, margins of 0.5 to 5 points, and for 2,000
# at one point; 1 to 20 % of disagreements). Price: 1 point of power for 656 images, 4 for 200.
_CONTINUITY = 0.25


@dataclass(frozen=True, slots=True)
class Pairs:
    """The paired outcomes on n images.

    `design_effect` says how many times fewer independent observations they are, because
    near-duplicate images err together; the tests count so many fewer.
    """

    both: int
    candidate: int  # only the candidate is right
    stable: int  # only the stable version is right
    neither: int
    design_effect: float = 1.0

    @property
    def n(self) -> int:
        """Images."""
        return self.both + self.candidate + self.stable + self.neither

    @property
    def difference(self) -> float:
        """Accuracy of the candidate less that of the stable version."""
        return (self.candidate - self.stable) / self.n if self.n else 0.0

    @property
    def effective(self) -> tuple[float, float, float]:
        """(only candidate, only stable, images), counted as independent ones."""
        return (
            self.candidate / self.design_effect,
            self.stable / self.design_effect,
            self.n / self.design_effect,
        )

    @property
    def smallest_visible_difference(self) -> float:
        """See `visible`."""
        return float(visible(*self.effective))


def pairs(candidate: Flags, stable: Flags, groups: Integers) -> Pairs:
    """What two models got right, (n,) each, of images in `groups` (n,)."""
    return Pairs(
        both=int((candidate & stable).sum()),
        candidate=int((candidate & ~stable).sum()),
        stable=int((~candidate & stable).sum()),
        neither=int((~candidate & ~stable).sum()),
        design_effect=_paired_design_effect(candidate.astype(int) - stable, groups),
    )


def _paired_design_effect(difference: Integers, groups: Integers) -> float:
    """As if one group more, of the average size, had changed sides as a whole: where few images
    have, or none, nothing else tells that they come in groups, and a group would count as many."""
    if not len(difference):
        return 1.0
    _, places = np.unique(groups, return_inverse=True)
    together = np.bincount(places, weights=difference)
    size = len(difference) / len(together)
    changed = float(difference @ difference) + size
    return max(1.0, (float(together @ together) + size * size) / changed)


def mcnemar_worse(only_candidate: ArrayLike, only_stable: ArrayLike) -> Floats:
    """Exact one-sided p-value of "the candidate is worse" for the discordant counts.

    The binomial tail P(X ≤ b), X of b + c tosses, as an incomplete beta function: so effective
    counts need not be whole numbers.
    """
    b, c = np.asarray(only_candidate, float), np.asarray(only_stable, float)
    return np.where(c > 0, betainc(np.maximum(c, 1e-12), b + 1, 0.5), 1.0)


def non_inferiority(
    only_candidate: ArrayLike, only_stable: ArrayLike, n: ArrayLike, margin: ArrayLike
) -> Floats:
    """One-sided p-value against "worse by `margin` or more"."""
    found: Floats = ndtr(-_tango(only_candidate, only_stable, n, -np.asarray(margin, float)))
    return found


def lower_bound(
    only_candidate: ArrayLike, only_stable: ArrayLike, n: ArrayLike, alpha: ArrayLike
) -> Floats:
    """Lower bound of the accuracy difference: the score test inverted by bisection."""
    b, c, images = (np.asarray(x, float) for x in (only_candidate, only_stable, n))
    low, high = np.full(np.broadcast(b, c, images).shape, -1.0 + 1e-9), (b - c) / images
    wanted = -ndtri(alpha)
    for _ in range(60):
        middle = (low + high) / 2
        above = _tango(b, c, images, middle) > wanted
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return low


def _tango(b: ArrayLike, c: ArrayLike, n: ArrayLike, difference: ArrayLike) -> Floats:
    """The score statistic for a true difference; 0 discordance is handled by the constraint.

    The variance is that of the likeliest share of disagreements under that difference.
    """
    b, c, n, d = (np.asarray(x, float) for x in (b, c, n, difference))
    linear = -b - c + (2 * n - b + c) * d
    constant = -c * d * (1 - d)
    root = np.sqrt(np.maximum(0.0, linear * linear - 8 * n * constant))
    share = (root - linear) / (4 * n)  # of pairs that only the stable version gets, under the null
    variance = n * (2 * share + d * (1 - d))
    excess = b - c - n * d - _CONTINUITY
    certain = np.where(excess > 0, np.inf, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(variance > 0, excess / np.sqrt(np.maximum(variance, 0.0)), certain)


def visible(only_candidate: ArrayLike, only_stable: ArrayLike, n: ArrayLike) -> Floats:
    """The smallest accuracy difference that is found with 80 % power at one-sided 5 %.

    2.49 · √(share of disagreements / n). With no disagreement at all, one is assumed: nothing finer
    than 1/n can be seen.
    """
    images = np.asarray(n, float)
    share = np.maximum(1.0, np.asarray(only_candidate, float) + only_stable) / images
    found: Floats = POWER * np.sqrt(share / images)
    return found


def holm(p_values: ArrayLike) -> Floats:
    """Holm's adjusted p-values along the last axis: reject where one is below alpha (Holm 1979)."""
    raw = np.asarray(p_values, float)
    count = raw.shape[-1]
    order = np.argsort(raw, axis=-1, kind="stable")
    factors = np.arange(count, 0, -1)
    stepped = np.maximum.accumulate(np.take_along_axis(raw, order, -1) * factors, axis=-1)
    adjusted = np.empty_like(raw)
    np.put_along_axis(adjusted, order, np.minimum(1.0, stepped), -1)
    return adjusted


def gap(inside: Flags, outside: Flags, groups: tuple[Integers, Integers]) -> float:
    """Two-sided p-value of "the same share of right answers" in two sets of images.

    Fisher's exact test, of as many images as the near-duplicates among them are worth.
    """
    if not (len(inside) and len(outside)):
        return 1.0
    # Late: it takes most of a second, and few runs have slices.
    from scipy.stats import fisher_exact

    table = [_effective_counts(x, g) for x, g in zip((inside, outside), groups, strict=True)]
    return float(fisher_exact(table).pvalue)


def _effective_counts(right: Flags, groups: Integers) -> tuple[int, int]:
    """(right, wrong) answers, counted as independent ones and rounded."""
    effect = design_effect(right.astype(np.float64), groups)
    return round(int(right.sum()) / effect), round(int((~right).sum()) / effect)


def group_numbers(names: Sequence[str]) -> Integers:
    """(n,) equal numbers for equal names."""
    numbers: Integers = np.unique(np.array(names, dtype=object).astype(str), return_inverse=True)[1]
    return numbers

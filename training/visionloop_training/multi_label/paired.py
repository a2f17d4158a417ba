"""Two models' scores of the same images: is the mean difference more than chance?

A score between 0 and 1 is not right or wrong, so McNemar's test does not apply. Groups of
near-duplicates are the unit: a group's images move together.

    worse          sign flips (approximate randomization: Noreen 1989, Yeh 2000): were the two
                   models alike, each group's difference could as well have the other sign. Exact
                   for up to 14 groups that differ, else of 20,000 draws
    lower_bound    Student's t of the group totals, with the cluster-robust error (Liang & Zeger
                   1986), as if one and a half groups more had gone from all right to all wrong

Why these groups are added: a worse model's mistakes are few and large, and where a test set has
caught few of them the error looks small, too. By t alone models worse by exactly the margin pass in
up to 13 % of cases (100 images) at alpha 5 %; so in at most 4.6 % (60 to 2,000 images, margins of 1
to 5 points, simulated). Price, for equal models at a margin of 5 points: 37 instead of 67 % pass at
100 images, 76 instead of 89 at 200, all at 656.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import stdtr, stdtrit

from visionloop_training.metrics import Floats, Integers
from visionloop_training.significance import POWER

_ADDED = 1.5  # groups
_DRAWS = 20_000
_EXACT = 14  # groups: 16,384 patterns of signs
_AT_ONCE = 5_000_000  # signs


@dataclass(frozen=True)
class PairedScores:
    """The candidate's score less the stable version's, for n images."""

    differences: Floats  # (n,)
    groups: Integers  # (n,)

    @property
    def n(self) -> int:
        """Images."""
        return len(self.differences)

    @property
    def difference(self) -> float:
        """Of the means; 0 without images."""
        return float(self.differences.mean()) if self.n else 0.0

    @cached_property
    def _places(self) -> Integers:
        places: Integers = np.unique(self.groups, return_inverse=True)[1]
        return places

    @property
    def units(self) -> int:
        """Groups: the independent observations."""
        return int(self._places.max()) + 1 if self.n else 0

    @cached_property
    def error(self) -> float:
        """The standard error of the difference; that of one group at least: nothing finer can be
        seen."""
        if self.units < 2:
            return 1.0
        together = np.bincount(self._places, weights=self.differences - self.difference)
        robust = self.units / (self.units - 1) * float(together @ together) / self.n**2
        return float(max(robust**0.5, 1 / self.units))

    @property
    def smallest_visible_difference(self) -> float:
        """What is found with 80 % power at one-sided 5 %."""
        return POWER * self.error

    @cached_property
    def _cautious(self) -> tuple[float, float]:
        """(difference, its error) with `_ADDED` groups of average size in which all got worse."""
        units, added = self.units, _ADDED * self.n / self.units
        images = self.n + added
        difference = (float(self.differences.sum()) - added) / images
        together = np.bincount(self._places, weights=self.differences - difference)
        squares = float(together @ together) + _ADDED * ((1 + difference) * self.n / units) ** 2
        units_in_all = units + _ADDED
        robust = units_in_all / (units_in_all - 1) * squares / images**2
        return difference, float(robust**0.5)

    def lower_bound(self, alpha: float) -> float:
        """One-sided, of the difference."""
        if self.units < 2:
            return -1.0
        difference, error = self._cautious
        return max(-1.0, difference + float(stdtrit(self.units - 1, alpha)) * error)

    def not_inferior(self, margin: float) -> float:
        """p-value of "worse by the margin or more"; below alpha where the bound is above it."""
        if self.units < 2:
            return 1.0
        difference, error = self._cautious
        return float(stdtr(self.units - 1, -(difference + margin) / error))

    def worse(self) -> float:
        """One-sided p-value of "the candidate is worse", by sign flips."""
        totals = np.bincount(self._places, weights=self.differences) if self.n else np.zeros(0)
        totals = totals[totals != 0]
        count, observed = len(totals), float(totals.sum())
        if not count:
            return 1.0
        # What ties with the observed sum counts as such, however it was rounded.
        limit = observed + 1e-9
        if count <= _EXACT:
            patterns = np.arange(2**count)[:, None] >> np.arange(count) & 1
            return float(((2 * patterns - 1) @ totals <= limit).mean())
        random = np.random.default_rng(0)
        as_low, left = 0, _DRAWS
        while left:
            size = min(left, max(1, _AT_ONCE // count))
            signs = 2 * random.integers(0, 2, (size, count), dtype=np.int8) - 1
            as_low += int((signs @ totals <= limit).sum())
            left -= size
        return (1 + as_low) / (1 + _DRAWS)

"""When to answer "not sure": thresholds on probability and distance, fitted on val.

    threshold      the lowest probability at which the answers on val reach a target accuracy
    fit_sets       split conformal sets: for new images like val's, the true class is in the set
                   with the wanted probability, whatever the model and however few the val images
    distance_limit above it an image is unlike val's, whatever the probabilities say

The service compares one probability with one threshold. A conformal set has one class just where
the best probability is high enough, so sets become a threshold, too: at most 1 - coverage of all
images then get a wrong answer that sounds sure.
"""

import logging
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from visionloop_training.config import NotSureConfig
from visionloop_training.metrics import Flags, Floats, Integers

_log = logging.getLogger(__name__)

# The threshold lies so far from the last val image on its side that float32 and float64 agree.
_CLEAR = 1e-6


def threshold(probabilities: Floats, labels: Integers, config: NotSureConfig) -> float:
    """The lowest threshold whose answers reach the target accuracy on val.

    Where none does while `min_coverage` of val is answered, the threshold that answers just that
    share: better less often right than hardly ever an answer.
    """
    best = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    order = np.argsort(-best, kind="stable")
    accuracy = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    enough = max(1, int(np.ceil(config.min_coverage * len(order))))
    # Only where the next image is less sure can a threshold lie between the two.
    ends = np.append(best[order][1:] < best[order][:-1], True)
    usable = ends & (np.arange(1, len(order) + 1) >= enough)
    good = np.flatnonzero(usable & (accuracy >= config.target_accuracy))
    if len(good) and good[-1] == len(order) - 1:
        return 0.0  # the target holds without refusing anything
    last = good[-1] if len(good) else np.flatnonzero(usable)[0]
    return float(max(0.0, best[order][last] - _CLEAR))


@dataclass(frozen=True, slots=True)
class PredictionSets:
    """How the set of possible classes of an image is made from its probabilities.

    `lac` (Sadinle et al. 2019): the classes of probability 1 - `quantile` or more. `aps` (Romano et
    al. 2020): the likeliest classes until their sum reaches `quantile`.
    """

    score: Literal["lac", "aps"]
    coverage: float
    quantile: float  # of the scores of val; 1: val is too small, every class is possible

    @property
    def not_sure(self) -> float:
        """From this best probability on the set has one class.

        aps: the sum reaches the quantile with the first class. lac: the second class, which has
        at most 1 - best, must stay below 1 - quantile.
        """
        if self.score == "aps":
            return self.quantile
        return min(1.0, max(1 - self.quantile, self.quantile + _CLEAR))

    def sets(self, probabilities: Floats) -> Flags:
        """(n, classes): whether a class is in the image's set."""
        if self.score == "lac":
            inside: Flags = 1 - probabilities <= self.quantile
            return inside
        before = _sums(probabilities) - probabilities  # of the likelier classes
        return before < self.quantile


def fit_sets(
    probabilities: Floats, labels: Integers, score: Literal["lac", "aps"], coverage: float
) -> PredictionSets:
    """Sets that hold the true class of a new image with probability `coverage` or more."""
    measure = 1 - probabilities if score == "lac" else _sums(probabilities)
    n = len(labels)
    scores = np.sort(measure[np.arange(n), labels])
    rank = math.ceil((n + 1) * coverage)
    if rank > n:
        _log.warning(
            "not_sure.conformal_coverage %g needs %d val images, there are %d: every answer "
            'short of certainty will be "not sure"; label more images or lower the coverage',
            coverage,
            math.ceil(coverage / (1 - coverage)),
            n,
        )
        return PredictionSets(score, coverage, 1.0)
    return PredictionSets(score, coverage, float(min(1.0, scores[rank - 1])))


def _sums(probabilities: Floats) -> Floats:
    """(n, classes): the probability of each class and of all that are likelier."""
    order = np.argsort(-probabilities, axis=1, kind="stable")
    sums = np.empty_like(probabilities)
    ranked = np.cumsum(np.take_along_axis(probabilities, order, axis=1), axis=1)
    np.put_along_axis(sums, order, ranked, axis=1)
    return sums


def distance_limit(distances: Floats, familiar: float) -> float:
    """The distance (`familiarity`) that a new image like val's stays below with this probability.

    Where val is too small to say (99 images for 0.99) its largest.
    """
    rank = min(len(distances), math.ceil((len(distances) + 1) * familiar))
    return float(np.sort(distances)[rank - 1]) + _CLEAR

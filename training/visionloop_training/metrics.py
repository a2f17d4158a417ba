"""The numbers that judge a classifier, from probabilities and labels; numpy only, no model.

Values alone: how sure they are is `intervals`, whether a difference is more than chance
`significance`. `Counts` may hold many tables at once, so that a bootstrap is one array operation.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Integers = NDArray[np.integer]
Flags = NDArray[np.bool_]

ECE_BINS = 15


def confusion(labels: Integers, predicted: Integers, classes: int) -> Integers:
    """Counts, shape (classes, classes): rows are the true class, columns the answer."""
    matrix = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(matrix, (labels, predicted), 1)
    return matrix


@dataclass(frozen=True, slots=True)
class Counts:
    """For each class how many images are labelled as it, answered as it, and both: (…, classes)."""

    support: Floats
    answered: Floats
    hits: Floats

    @property
    def precision(self) -> Floats:
        """(…, classes); 0 where nothing was answered so."""
        return _ratio(self.hits, self.answered)

    @property
    def recall(self) -> Floats:
        """(…, classes); 0 where no image is of the class."""
        return _ratio(self.hits, self.support)

    @property
    def f1(self) -> Floats:
        """(…, classes); 0 where there is nothing to divide by."""
        return _ratio(2 * self.hits, self.answered + self.support)

    def macro(self, scores: Floats) -> Floats:
        """The plain mean (…) of scores (…, classes) over the classes that have images."""
        present = self.support > 0
        return _ratio((scores * present).sum(axis=-1), present.sum(axis=-1).astype(np.float64))


def counts(matrix: Integers) -> Counts:
    """Of a confusion matrix."""
    as_floats = matrix.astype(np.float64)
    return Counts(as_floats.sum(axis=1), as_floats.sum(axis=0), np.diagonal(as_floats))


def _ratio(over: Floats, under: Floats) -> Floats:
    return np.divide(over, under, out=np.zeros_like(over), where=under > 0)


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Images whose best probability falls into one of the equal-width bins."""

    low: float
    high: float
    images: int
    confidence: float  # mean of the best probability
    accuracy: float


def bin_of(best: Floats) -> Integers:
    """The reliability bin (n,) of each best probability (n,), of 15 of equal width."""
    places: Integers = np.clip(np.ceil(best * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)
    return places


def reliability(probabilities: Floats, labels: Integers) -> list[ReliabilityBin]:
    """The non-empty bins of the reliability diagram."""
    best = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    places = bin_of(best)
    bins: list[ReliabilityBin] = []
    for place in np.unique(places):
        inside = places == place
        bins.append(
            ReliabilityBin(
                low=int(place) / ECE_BINS,
                high=(int(place) + 1) / ECE_BINS,
                images=int(inside.sum()),
                confidence=float(best[inside].mean()),
                accuracy=float(right[inside].mean()),
            )
        )
    return bins


def expected_calibration_error(probabilities: Floats, labels: Integers) -> float:
    """Mean |confidence - accuracy| over the bins, weighted by their images."""
    total = len(labels)
    return sum(
        b.images / total * abs(b.confidence - b.accuracy)
        for b in reliability(probabilities, labels)
    )


def softmax(logits: Floats) -> Floats:
    """Along the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: Floats = shifted / shifted.sum(axis=-1, keepdims=True)
    return result


def log_loss(logits: Floats, labels: Integers) -> float:
    """Mean negative log-likelihood."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    picked = shifted[np.arange(len(labels)), labels]
    return float((np.log(np.exp(shifted).sum(axis=1)) - picked).mean())

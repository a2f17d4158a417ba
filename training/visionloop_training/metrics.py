"""The numbers that judge a classifier, from probabilities and labels; numpy only, no model.

Every share that decides something comes with its uncertainty: a Wilson interval here, a paired
test in `gate`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

Floats = NDArray[np.floating]
Integers = NDArray[np.integer]

ECE_BINS = 15


@dataclass(frozen=True, slots=True)
class Interval:
    """A share of `n` with its 95 % Wilson score interval."""

    value: float
    low: float
    high: float
    n: int


def share(hits: int, n: int, confidence: float = 0.95) -> Interval:
    """`hits` of `n` with the Wilson score interval, which is honest near 0 and 1 too."""
    if n == 0:
        return Interval(0.0, 0.0, 1.0, 0)
    z = float(norm.ppf(0.5 + confidence / 2))
    p = hits / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # Rounding must not push an end past the share itself.
    return Interval(p, max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half)), n)


def confusion(labels: Integers, predicted: Integers, classes: int) -> Integers:
    """Counts, shape (classes, classes): rows are the true class, columns the answer."""
    matrix = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(matrix, (labels, predicted), 1)
    return matrix


@dataclass(frozen=True, slots=True)
class ClassScores:
    """One class against the rest. 0 where there is nothing to divide by."""

    precision: float
    recall: float
    f1: float
    support: int


def per_class(matrix: Integers) -> list[ClassScores]:
    """Precision, recall and F1 of every class of a confusion matrix."""
    scores: list[ClassScores] = []
    for index in range(len(matrix)):
        hits = int(matrix[index, index])
        answered, support = int(matrix[:, index].sum()), int(matrix[index].sum())
        precision = hits / answered if answered else 0.0
        recall = hits / support if support else 0.0
        f1 = 2 * hits / (answered + support) if answered + support else 0.0
        scores.append(ClassScores(precision, recall, f1, support))
    return scores


def macro(scores: Sequence[ClassScores], name: str) -> float:
    """The plain mean of one score over the classes that have images."""
    present = [float(getattr(score, name)) for score in scores if score.support]
    return sum(present) / len(present) if present else 0.0


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Images whose best probability falls into one of the equal-width bins."""

    low: float
    high: float
    images: int
    confidence: float  # mean of the best probability
    accuracy: float


def reliability(probabilities: Floats, labels: Integers) -> list[ReliabilityBin]:
    """The non-empty bins of the reliability diagram, 15 of equal width."""
    best = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    places = np.clip(np.ceil(best * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)
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

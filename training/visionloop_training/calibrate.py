"""Making probabilities mean what they say, and choosing when to say "not sure". Fitted on val only.

One temperature divides the logits (Guo et al. 2017): it changes no answer, only how sure it
sounds, and one parameter cannot overfit a val split of a few hundred. Fine-tuning with label
smoothing leaves the network under-confident, so this step is not optional. When to say "not sure"
is `not_sure`.
"""

from dataclasses import dataclass

import numpy as np

from visionloop_training import not_sure
from visionloop_training.config import NotSureConfig
from visionloop_training.metrics import (
    Floats,
    Integers,
    ReliabilityBin,
    expected_calibration_error,
    log_loss,
    reliability,
    softmax,
)
from visionloop_training.not_sure import PredictionSets

_COLDEST, _HOTTEST = 0.05, 20.0


@dataclass(frozen=True, slots=True)
class Calibrated:
    """The temperature and the thresholds with what they do on val."""

    temperature: float
    ece_before: float
    ece_after: float
    loss_before: float
    loss_after: float
    not_sure: float  # lowest probability of a sure answer
    sets: PredictionSets | None  # where the threshold is a conformal one
    coverage: float  # share of val with a probability that is high enough
    answered_accuracy: float
    reliability_before: list[ReliabilityBin]
    reliability_after: list[ReliabilityBin]


def calibrate(logits: Floats, labels: Integers, config: NotSureConfig) -> Calibrated:
    """Fits temperature, then the thresholds, on val: logits (n, classes), labels (n,)."""
    logits = logits.astype(np.float64)
    temperature = _temperature(logits, labels)
    before, after = softmax(logits), softmax(logits / temperature)
    sets = None
    if config.method == "conformal":
        sets = not_sure.fit_sets(after, labels, config.conformal_score, config.conformal_coverage)
        threshold = sets.not_sure
    else:
        threshold = not_sure.threshold(after, labels, config)
    answered = after.max(axis=1) >= threshold
    right = after.argmax(axis=1) == labels
    return Calibrated(
        temperature=temperature,
        ece_before=expected_calibration_error(before, labels),
        ece_after=expected_calibration_error(after, labels),
        loss_before=log_loss(logits, labels),
        loss_after=log_loss(logits / temperature, labels),
        not_sure=threshold,
        sets=sets,
        coverage=float(answered.mean()),
        answered_accuracy=float(right[answered].mean()) if answered.any() else 0.0,
        reliability_before=reliability(before, labels),
        reliability_after=reliability(after, labels),
    )


def _temperature(logits: Floats, labels: Integers) -> float:
    """The temperature of the lowest log loss.

    Where every answer is right there is none: the colder, the better, down to probabilities of
    exactly 1 learned from a handful of images. Then the mean confidence is made (n + 1) / (n + 2),
    what n hits out of n say about the next one (Laplace's rule of succession).
    """
    from scipy.optimize import brentq, minimize_scalar  # late: most commands fit nothing

    coldest, hottest = np.log(_COLDEST), np.log(_HOTTEST)
    n = len(labels)
    if bool((logits.argmax(axis=1) == labels).all()):

        def excess(log_t: float) -> float:
            confidence = softmax(logits / np.exp(log_t)).max(axis=1).mean()
            return float(confidence - (n + 1) / (n + 2))

        if excess(coldest) > 0.0 > excess(hottest):
            return float(np.exp(brentq(excess, coldest, hottest)))
    found = minimize_scalar(
        lambda log_t: log_loss(logits / np.exp(log_t), labels),
        bounds=(coldest, hottest),
        method="bounded",
    )
    return float(np.exp(found.x))

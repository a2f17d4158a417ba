"""Making each class's probability mean what it says, and choosing when to say it. On val only.

Platt's scaling (1999), class by class: sigmoid(logit / temperature + bias). The bias takes back
what class weights and label smoothing did to the share of images that get a yes. Targets are
Platt's, (hits + 1) / (hits + 2) instead of 1, so that a class without a mistake on val does not
become certain. A class with fewer than ten images with it, or without it, on val cannot carry two
numbers of its own: it gets the temperature that all classes together have, and no bias.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from visionloop_training import metrics
from visionloop_training.config import LabelsConfig
from visionloop_training.metrics import Flags, Floats, ReliabilityBin
from visionloop_training.multi_label.thresholds import Chosen, choose

FEW = 10
_COLDEST, _HOTTEST, _LARGEST_BIAS = 0.05, 20.0, 20.0


@dataclass(frozen=True, slots=True)
class Calibrated:
    """Temperatures, biases and thresholds, in the order of the classes; what they do on val."""

    temperatures: list[float]
    biases: list[float]
    few: list[bool]  # classes that have the common temperature
    thresholds: list[Chosen]
    ece_before: float  # mean over the classes
    ece_after: float
    loss_before: float  # mean over images and classes
    loss_after: float
    reliability_before: list[ReliabilityBin]  # of all classes' probabilities together
    reliability_after: list[ReliabilityBin]

    @property
    def present(self) -> list[float]:
        """From which probability on an image has a class."""
        return [chosen.threshold for chosen in self.thresholds]


def calibrate(logits: Floats, truth: Flags, config: LabelsConfig) -> Calibrated:
    """Fits everything on val: logits and truth (n, classes)."""
    logits = logits.astype(np.float64)
    common = _fit(logits.ravel(), truth.ravel(), with_bias=False)
    few = [bool(min(having.sum(), (~having).sum()) < FEW) for having in truth.T]
    fitted = [
        common if scarce else _fit(score, having)
        for score, having, scarce in zip(logits.T, truth.T, few, strict=True)
    ]
    temperatures, biases = (list(values) for values in zip(*fitted, strict=True))
    scaled = logits / temperatures + biases
    before, after = expit(logits), expit(scaled)
    return Calibrated(
        temperatures=temperatures,
        biases=biases,
        few=few,
        thresholds=[
            choose(chances, having, config, few=having.sum() < FEW)
            for chances, having in zip(after.T, truth.T, strict=True)
        ],
        ece_before=float(calibration_errors(before, truth).mean()),
        ece_after=float(calibration_errors(after, truth).mean()),
        loss_before=_log_loss(logits, truth),
        loss_after=_log_loss(scaled, truth),
        reliability_before=reliability(before, truth),
        reliability_after=reliability(after, truth),
    )


def _fit(logits: Floats, truth: Flags, *, with_bias: bool = True) -> tuple[float, float]:
    """(temperature, bias) of the lowest log loss for Platt's targets; logits and truth (n,).

    In 1 / temperature and bias it is convex.
    """
    having, lacking = int(truth.sum()), int((~truth).sum())
    targets = np.where(truth, (having + 1) / (having + 2), 1 / (lacking + 2))

    def loss(point: Floats) -> tuple[float, Floats]:
        slope, bias = float(point[0]), float(point[1])
        scaled = slope * logits + bias
        wrong = expit(scaled) - targets
        value = float((np.logaddexp(0.0, scaled) - targets * scaled).mean())
        return value, np.array([(wrong * logits).mean(), wrong.mean()])

    bias_bounds = (-_LARGEST_BIAS, _LARGEST_BIAS) if with_bias else (0.0, 0.0)
    found: Any = minimize(
        loss,
        np.array([1.0, 0.0]),
        jac=True,
        method="L-BFGS-B",
        bounds=[(1 / _HOTTEST, 1 / _COLDEST), bias_bounds],
    )
    return float(1 / found.x[0]), float(found.x[1])


def calibration_errors(probabilities: Floats, truth: Flags) -> Floats:
    """(classes,) expected calibration error: mean |probability - share that has the class|, over 15
    equal-width bins, weighted by their images."""
    found = []
    for chances, having in zip(probabilities.T, truth.T, strict=True):
        sums = np.bincount(metrics.bin_of(chances), having - chances, metrics.ECE_BINS)
        found.append(np.abs(sums).sum() / len(having))
    return np.array(found)


def reliability(probabilities: Floats, truth: Flags) -> list[ReliabilityBin]:
    """The non-empty bins over all probabilities (n, classes); "images" counts image and class."""
    chances, having = probabilities.ravel(), truth.ravel()
    places = metrics.bin_of(chances)
    return [
        ReliabilityBin(
            low=int(place) / metrics.ECE_BINS,
            high=(int(place) + 1) / metrics.ECE_BINS,
            images=int((places == place).sum()),
            confidence=float(chances[places == place].mean()),
            accuracy=float(having[places == place].mean()),
        )
        for place in np.unique(places)
    ]


def _log_loss(logits: Floats, truth: Flags) -> float:
    return float((np.logaddexp(0.0, logits) - truth * logits).mean())

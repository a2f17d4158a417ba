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
from scipy.special import expit

from visionloop_training.config import LabelsConfig
from visionloop_training.metrics import Flags, Floats, ReliabilityBin
from visionloop_training.multi_label.reliability import Reliability
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
    """Fits everything on val: logits and truth (n, classes).

    Class by class, and each in float64 only while it is at work: of 100,000 images and 1,000
    classes each array of that precision is 800 MB.
    """
    few = [bool(min(having.sum(), (~having).sum()) < FEW) for having in truth.T]
    common = _fit(logits, truth, with_bias=False) if any(few) else None
    temperatures: list[float] = []
    biases: list[float] = []
    thresholds: list[Chosen] = []
    loss_before = loss_after = 0.0
    before, after = Reliability(), Reliability()
    for place, scarce in enumerate(few):
        scores, having = logits[:, place].astype(np.float64), truth[:, place]
        fitted = common if common is not None and scarce else _fit(scores[:, None], having[:, None])
        temperature, bias = fitted
        scaled = scores / temperature + bias
        chances = expit(scaled)
        temperatures.append(temperature)
        biases.append(bias)
        thresholds.append(choose(chances, having, config, few=having.sum() < FEW))
        loss_before += _log_loss(scores, having)
        loss_after += _log_loss(scaled, having)
        before.add(expit(scores), having)
        after.add(chances, having)
    return Calibrated(
        temperatures=temperatures,
        biases=biases,
        few=few,
        thresholds=thresholds,
        ece_before=float(np.mean(before.errors)),
        ece_after=float(np.mean(after.errors)),
        loss_before=loss_before / len(few),
        loss_after=loss_after / len(few),
        reliability_before=before.bins,
        reliability_after=after.bins,
    )


def _fit(logits: Floats, truth: Flags, *, with_bias: bool = True) -> tuple[float, float]:
    """(temperature, bias) of the lowest log loss for Platt's targets; logits and truth (n, classes)
    share them. In 1 / temperature and bias it is convex."""
    from scipy.optimize import minimize  # late: most commands fit nothing

    having, lacking = int(truth.sum()), int((~truth).sum())
    yes, no = (having + 1) / (having + 2), 1 / (lacking + 2)

    def loss(point: Floats) -> tuple[float, Floats]:
        slope, bias = float(point[0]), float(point[1])
        sums = np.zeros(3)  # of the loss, and of its slopes along both
        for column, has in zip(logits.T, truth.T, strict=True):
            scores = column.astype(np.float64)
            scaled, targets = slope * scores + bias, np.where(has, yes, no)
            wrong = expit(scaled) - targets
            losses = np.logaddexp(0.0, scaled) - targets * scaled
            sums += losses.sum(), (wrong * scores).sum(), wrong.sum()
        means = sums / truth.size
        return float(means[0]), means[1:]

    bias_bounds = (-_LARGEST_BIAS, _LARGEST_BIAS) if with_bias else (0.0, 0.0)
    found: Any = minimize(
        loss,
        np.array([1.0, 0.0]),
        jac=True,
        method="L-BFGS-B",
        bounds=[(1 / _HOTTEST, 1 / _COLDEST), bias_bounds],
    )
    return float(1 / found.x[0]), float(found.x[1])


def _log_loss(logits: Floats, truth: Flags) -> float:
    return float((np.logaddexp(0.0, logits) - truth * logits).mean())

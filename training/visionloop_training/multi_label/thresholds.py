"""From which probability on an image has a class: chosen on val, class by class.

    max_f1             the threshold of the highest F1
    target_precision   the lowest one at which as many of the yeses are right as wanted; where no
                       threshold reaches it, the one of the highest F1

A class with fewer than ten images on val gets 0.5: the best of ten is mostly luck, and the
probabilities are calibrated.
"""

import logging
from dataclasses import dataclass

import numpy as np

from visionloop_training.config import LabelsConfig
from visionloop_training.metrics import Flags, Floats

_log = logging.getLogger(__name__)
_CLEAR = 1e-6  # below the lowest probability of val that is a yes, where all are


@dataclass(frozen=True, slots=True)
class Chosen:
    """A threshold and what it does on val."""

    threshold: float
    precision: float
    recall: float
    reached: bool  # the target precision, where that is the rule


def choose(probabilities: Floats, truth: Flags, config: LabelsConfig, *, few: bool) -> Chosen:
    """For one class: probabilities and truth (n,)."""
    if few:
        return _at(0.5, probabilities, truth, reached=config.threshold == "max_f1")
    order = np.argsort(-probabilities, kind="stable")
    ranked, hits = probabilities[order], truth[order].cumsum()
    yeses = np.arange(1, len(order) + 1)
    # Only where the next image is less probable can a threshold lie between the two.
    ends = np.flatnonzero(np.append(ranked[1:] < ranked[:-1], True))
    precision = hits[ends] / yeses[ends]
    good = np.flatnonzero(precision >= config.target_precision)
    by_precision = config.threshold == "target_precision"
    if by_precision and len(good):
        end = ends[good[-1]]
    else:
        f1 = 2 * hits[ends] / (yeses[ends] + truth.sum())
        end = ends[int(f1.argmax())]
        if by_precision:
            _log.warning(
                "no threshold reaches a precision of %g on val (best: %.3f); the one of the "
                "highest F1 is taken",
                config.target_precision,
                precision.max(),
            )
    below = ranked[end + 1] if end + 1 < len(ranked) else ranked[end] - 2 * _CLEAR
    threshold = float(np.clip((ranked[end] + below) / 2, 0.0, 1.0))
    return _at(threshold, probabilities, truth, reached=not by_precision or bool(len(good)))


def _at(threshold: float, probabilities: Floats, truth: Flags, *, reached: bool) -> Chosen:
    yes = probabilities >= threshold
    hits = int((yes & truth).sum())
    precision, recall = hits / max(1, int(yes.sum())), hits / max(1, int(truth.sum()))
    return Chosen(threshold, precision, recall, reached)

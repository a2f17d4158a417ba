"""When fine-tuning went wrong: it diverged, it answers one thing, or it forgot what the probe knew.

Too high a learning rate does all three, and a lower one cures them; so the run begins again from
the probe at a lower rate, a bounded number of times. Val images are few, so each rule asks for
evidence that chance does not give: a good but slow start must not be taken for a collapse.
"""

import math

import torch
from torch import Tensor

from visionloop.errors import RefusedError

LOWER = 0.3  # what each retry multiplies the learning rate by
# Val images that should have got another answer than the only one given. A model that finds but
# three in ten of them misses all ten once in 35 runs; with fewer, silence proves nothing.
_ENOUGH_MISSED = 10
_SAME = 1e-3  # of a logit; float noise is far below, any answer to what an image shows far above
_FAR = 0.05  # and three standard errors below the probe


class CollapsedError(RefusedError):
    """Training went wrong in a way that a lower rate may cure."""


class DivergedError(CollapsedError):
    """The numbers left the range of numbers."""


def diverged(loss: float, epoch: int) -> DivergedError:
    """For a loss that is no number any more."""
    return DivergedError(
        f"training diverged: the loss is {loss} in epoch {epoch}; lower fit.learning_rate or "
        "fit.body_ratio"
    )


def check_alive(logits: Tensor, labels: Tensor) -> None:
    """Raises CollapsedError for a network that is broken beyond doubt; the gate judges the rest.

    `logits` (n, classes) and `labels`, as in `targets`, are val's. Where an image may have several
    classes, saying no to all of them may be right; broken is what tells no image from another.
    """
    if not bool(torch.isfinite(logits).all()):
        raise DivergedError(
            "training diverged: the network answers with NaN or infinity; lower fit.learning_rate"
        )
    if labels.ndim == 2:
        spread = float((logits.amax(0) - logits.amin(0)).max())
        if spread < _SAME and bool((labels != labels[0]).any()):
            raise CollapsedError(
                f"training collapsed: all {len(labels)} val images get the same answer. Lower "
                "fit.learning_rate, or use pretrained backbone.weights"
            )
        return
    answers = logits.argmax(1)
    missed = int((labels != answers[0]).sum())
    if bool((answers == answers[0]).all()) and missed >= _ENOUGH_MISSED:
        raise CollapsedError(
            f"training collapsed: all {len(labels)} val images get the same class, and {missed} of "
            "them are of others. Lower fit.learning_rate, use pretrained backbone.weights, or set "
            "fit.class_weights=balanced"
        )


def check_against_probe(probe: float, best: float, images: int) -> None:
    """Raises CollapsedError where the best epoch's val accuracy (or mean average precision) is far
    below the probe's."""
    error = math.sqrt(probe * (1 - probe) / images)
    if best < probe - _FAR - 3 * error:
        raise CollapsedError(
            f"training collapsed: the best epoch reaches {best:.1%} on val, the linear probe "
            f"{probe:.1%}. Lower fit.learning_rate or fit.body_ratio"
        )

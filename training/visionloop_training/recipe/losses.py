"""What training minimises, per image, of logits and targets that may be soft.

Targets are a matrix (n, classes): one 1 a row for one class an image, several for several labels,
shares after mixup. So every loss takes every kind of label, and mixing needs no case of its own.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from visionloop_training.recipe_config import FitConfig

Criterion = Callable[[Tensor, Tensor], Tensor]  # logits, targets (n, classes) -> losses (n,)


def criterion(config: FitConfig) -> Criterion:
    """The configured loss with its label smoothing."""
    losses: dict[str, Criterion] = {
        "cross_entropy": cross_entropy,
        "bce": binary_cross_entropy,
        "focal": lambda logits, targets: focal(logits, targets, config.focal_gamma),
        "mse": squared_error,
    }
    loss = losses[config.loss]
    return lambda logits, targets: loss(logits, smoothed(targets, config.label_smoothing))


def smoothed(targets: Tensor, share: float) -> Tensor:
    """This share of each row's total spread evenly over all classes (Szegedy et al. 2016)."""
    if share == 0:
        return targets
    even = targets.sum(1, keepdim=True) / targets.shape[1]
    return (1 - share) * targets + share * even


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Of the softmax."""
    return -(targets * F.log_softmax(logits, 1)).sum(1)


def binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Each class a question of its own, answered by a sigmoid; the mean over classes."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)


def focal(logits: Tensor, targets: Tensor, gamma: float) -> Tensor:
    """Cross-entropy times (1 - probability)^gamma: what is already right counts less.

    Lin et al., "Focal Loss for Dense Object Detection" (2017), in its softmax form.
    """
    log_probabilities = F.log_softmax(logits, 1)
    # 1 - p, kept off 0 where the power's slope is infinite for gamma below 1.
    doubts = (-torch.expm1(log_probabilities)).clamp_min(1e-7)
    return -(targets * doubts**gamma * log_probabilities).sum(1)


def squared_error(logits: Tensor, targets: Tensor) -> Tensor:
    """Of the softmax's probabilities against the targets, summed over classes (Brier 1950)."""
    return (F.softmax(logits, 1) - targets).square().sum(1)

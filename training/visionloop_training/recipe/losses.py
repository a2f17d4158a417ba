"""What training minimises, per image, of logits and targets that may be soft.

Targets are a matrix (n, classes): one 1 a row for one class an image, any number of them for
several labels, shares after mixup. So mixing needs no case of its own. What a loss is the loss of
differs: of one softmax where an image has one class, else of a sigmoid for each class.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from visionloop_training.recipe_config import FitConfig

Criterion = Callable[[Tensor, Tensor], Tensor]  # logits, targets (n, classes) -> losses (n,)


def criterion(
    config: FitConfig, *, several: bool = False, positives: Tensor | None = None
) -> Criterion:
    """The configured loss with its label smoothing.

    `several`: an image may have any number of classes; `positives` (classes,) then says what an
    image that has a class counts against one that has not.
    """
    if several:
        return _of_yes_and_no(config, positives)
    losses: dict[str, Criterion] = {
        "cross_entropy": cross_entropy,
        "bce": binary_cross_entropy,
        "focal": lambda logits, targets: focal(logits, targets, config.focal_gamma),
        "mse": squared_error,
    }
    loss = losses[config.loss]
    return lambda logits, targets: loss(logits, smoothed(targets, config.label_smoothing))


def _of_yes_and_no(config: FitConfig, positives: Tensor | None) -> Criterion:
    """A yes or no for each class, the mean over classes. `cross_entropy` and `bce` are one here."""
    gamma = {"focal": config.focal_gamma}.get(config.loss, 0.0)
    half = config.label_smoothing / 2

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        targets = targets * (1 - config.label_smoothing) + half
        if config.loss == "mse":
            yes, no = torch.sigmoid(-logits).square(), torch.sigmoid(logits).square()
        else:
            yes, no = focal_of(logits, gamma), focal_of(-logits, gamma)
        weighed = yes if positives is None else yes * positives
        return (targets * weighed + (1 - targets) * no).mean(1)

    return loss


def focal_of(logits: Tensor, gamma: float) -> Tensor:
    """-(1 - p)^gamma log p of p = sigmoid(logits), element by element; 0: binary cross-entropy.

    Lin et al., "Focal Loss for Dense Object Detection" (2017).
    """
    loss = F.softplus(-logits)
    return loss if gamma == 0 else loss * torch.exp(-gamma * F.softplus(logits))


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

"""What is to be learned of images, as one tensor, and how well logits say it.

    one class an image           (n,) int64, the classes' places            softmax
    any number of classes        (n, classes) float32, 1 where it has it    a sigmoid each

The functions tell the two apart by the number of dimensions, so the loops that train need no case
of their own. Soft labels (`soft`), of images with one class, are learned from only: by fine-tuning
and by the fit of a head. What models are measured by is always the one class that an image counts
as.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from visionloop_training.data import Dataset, Item
from visionloop_training.metrics import Flags, Integers
from visionloop_training.multi_label.ranking import average_precision


def targets(items: Sequence[Item], data: Dataset) -> Tensor:
    """Of items of the dataset, in their order."""
    if data.task == "multi_label":
        return torch.from_numpy(multi_hot(items, len(data.class_ids))).float()
    return torch.from_numpy(one_class(items))


def one_class(items: Sequence[Item]) -> Integers:
    """(n,) the class of each."""
    return np.array([item.label for item in items], dtype=np.int64)


def soft(items: Sequence[Item], classes: int) -> Tensor | None:
    """(n, classes) float32, how probable the images' classes are; None where all are certain."""
    if not any(item.probabilities for item in items):
        return None
    found = np.zeros((len(items), classes), dtype=np.float32)
    for row, item in zip(found, items, strict=True):
        for place, share in item.probabilities or ((item.label, 1.0),):
            row[place] = share
    return torch.from_numpy(found)


def multi_hot(items: Sequence[Item], classes: int) -> Flags:
    """(n, classes): whether an item has a class."""
    found = np.zeros((len(items), classes), dtype=np.bool_)
    for row, item in zip(found, items, strict=True):
        row[list(item.classes)] = True
    return found


def rows(truth: Tensor, classes: int) -> Tensor:
    """Any targets as (n, classes) float32."""
    return truth if truth.ndim == 2 else F.one_hot(truth, classes).float()


def log_loss(
    logits: Tensor, truth: Tensor, positives: Tensor | None = None, reduction: str = "none"
) -> Tensor:
    """Negative log-likelihood of each image (n,), or its mean.

    Of several classes the mean over them; `positives` (classes,) then weighs the images that have a
    class against those that have not.
    """
    if truth.ndim == 1:
        return F.cross_entropy(logits, truth, reduction=reduction)
    each = F.binary_cross_entropy_with_logits(
        logits, truth, pos_weight=positives, reduction="none"
    ).mean(1)
    return each.mean() if reduction == "mean" else each


def score(logits: Tensor, truth: Tensor) -> float:
    """0 to 1: accuracy, or for several classes the mean average precision, which no threshold and
    no class weight can move."""
    if truth.ndim == 1:
        return (logits.argmax(1) == truth).float().mean().item()
    found = average_precision(logits.cpu().numpy(), truth.cpu().numpy() > 0.5)
    return float(np.nanmean(found)) if np.isfinite(found).any() else 0.0

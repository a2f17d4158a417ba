"""Losses on soft targets are torch's where torch has them, and what the papers say elsewhere."""

import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from visionloop_training.config import load
from visionloop_training.recipe import losses

torch.manual_seed(0)
LOGITS = torch.randn(6, 4)
HARD = F.one_hot(torch.tensor([0, 1, 2, 3, 0, 1]), 4).float()
SOFT = torch.softmax(torch.randn(6, 4), 1)


@pytest.mark.parametrize("targets", [HARD, SOFT], ids=["hard", "soft"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_torchs_with_its_label_smoothing(targets: torch.Tensor, smoothing: float):
    loss = losses.criterion(load(overrides=(f"fit.label_smoothing={smoothing}",)).fit)
    expected = F.cross_entropy(LOGITS, targets, reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(loss(LOGITS, targets), expected)


def test_smoothing_keeps_each_rows_total():
    several = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    smoothed = losses.smoothed(several, 0.1)
    torch.testing.assert_close(smoothed.sum(1), several.sum(1))
    torch.testing.assert_close(smoothed[0], torch.tensor([0.95, 0.95, 0.05, 0.05]))


def test_focal_is_cross_entropy_that_forgets_what_is_right():
    torch.testing.assert_close(losses.focal(LOGITS, SOFT, 0.0), losses.cross_entropy(LOGITS, SOFT))
    p = torch.softmax(LOGITS, 1)[range(6), HARD.argmax(1)]
    torch.testing.assert_close(losses.focal(LOGITS, HARD, 2.0), -((1 - p) ** 2) * p.log())
    sure = torch.tensor([[100.0, 0.0, 0.0, 0.0]], requires_grad=True)
    losses.focal(sure, HARD[:1], 0.5).sum().backward()
    assert torch.isfinite(sure.grad).all()


def test_the_other_losses_are_their_formulas():
    p = torch.sigmoid(LOGITS)
    expected = -(SOFT * p.log() + (1 - SOFT) * (1 - p).log()).mean(1)
    torch.testing.assert_close(losses.binary_cross_entropy(LOGITS, SOFT), expected)
    brier = ((torch.softmax(LOGITS, 1) - HARD) ** 2).sum(1)
    torch.testing.assert_close(losses.squared_error(LOGITS, HARD), brier)


@pytest.mark.parametrize("name", ["cross_entropy", "bce", "focal", "mse"])
def test_every_loss_pulls_towards_its_target(name: str):
    loss = losses.criterion(load(overrides=(f"fit.loss={name}", "fit.label_smoothing=0")).fit)
    right, wrong = 4 * HARD - 2, 2 - 4 * HARD
    assert (loss(right, HARD) < loss(wrong, HARD)).all()
    logits = torch.zeros(6, 4, requires_grad=True)
    loss(logits, HARD).sum().backward()
    assert (logits.grad[HARD == 1] < 0).all()
    assert (logits.grad[HARD == 0] > 0).all()


SEVERAL = torch.tensor(
    [[1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 1], [1, 1, 1, 1], [0, 0, 1, 0]]
).float()
WEIGHTS = torch.tensor([3.0, 1.0, 0.5, 10.0])


def of_several(*settings: str, positives: torch.Tensor | None = None) -> losses.Criterion:
    config = load(overrides=("fit.label_smoothing=0", *settings)).fit
    return losses.criterion(config, several=True, positives=positives)


@pytest.mark.parametrize("name", ["cross_entropy", "bce"])
def test_of_several_classes_each_is_a_yes_or_no_with_its_weight(name: str):
    for targets in (SEVERAL, SEVERAL * 0.7 + 0.1):  # after mixup, too
        expected = F.binary_cross_entropy_with_logits(
            LOGITS[:5], targets, pos_weight=WEIGHTS, reduction="none"
        ).mean(1)
        loss = of_several(f"fit.loss={name}", positives=WEIGHTS)
        torch.testing.assert_close(loss(LOGITS[:5], targets), expected)


def test_focal_of_several_classes_is_torchvisions():
    expected = sigmoid_focal_loss(LOGITS[:5], SEVERAL, alpha=-1, gamma=1.5).mean(1)
    loss = of_several("fit.loss=focal", "fit.focal_gamma=1.5")
    torch.testing.assert_close(loss(LOGITS[:5], SEVERAL), expected)


def test_smoothing_of_several_classes_goes_half_way_to_either_answer():
    loss = of_several("fit.label_smoothing=0.1", "fit.loss=mse")
    p = torch.sigmoid(LOGITS[:5])
    smoothed = SEVERAL * 0.9 + 0.05
    expected = (smoothed * (1 - p) ** 2 + (1 - smoothed) * p**2).mean(1)
    torch.testing.assert_close(loss(LOGITS[:5], SEVERAL), expected)


@pytest.mark.parametrize("name", ["bce", "focal", "mse"])
def test_every_loss_of_several_classes_pulls_towards_its_target(name: str):
    logits = torch.zeros(5, 4, requires_grad=True)
    of_several(f"fit.loss={name}", positives=WEIGHTS)(logits, SEVERAL).sum().backward()
    assert (logits.grad[SEVERAL == 1] < 0).all()
    assert (logits.grad[SEVERAL == 0] > 0).all()

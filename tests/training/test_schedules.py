"""The learning rate's course: pure functions, and torch's own where torch has them."""

import pytest
import torch

from visionloop_training.config import load
from visionloop_training.recipe.schedules import falls, share


def shares(*settings: str, steps: int = 100) -> list[float]:
    fit = load(overrides=settings).fit
    return [share(fit, step, steps, []) for step in range(steps + 1)]


def test_one_cycle_rises_to_its_peak_and_falls_to_almost_nothing():
    rates = shares()
    assert rates[0] == pytest.approx(0.04)
    assert max(rates) == rates[25] == pytest.approx(1.0)
    assert rates[100] == pytest.approx(1e-4)
    assert rates[:26] == sorted(rates[:26])
    assert rates[25:] == sorted(rates[25:], reverse=True)


def test_cosine_is_torchs_after_a_linear_warm_up():
    rates = shares("fit.schedule=cosine", "fit.warm_up=0.1")
    assert rates[:10] == pytest.approx([step / 10 for step in range(1, 11)])
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=90, eta_min=1e-4)
    for step in range(10, 101):
        assert rates[step] == pytest.approx(optimiser.param_groups[0]["lr"], abs=1e-6)
        optimiser.step()
        schedule.step()


def test_constant_stays_after_its_warm_up():
    rates = shares("fit.schedule=constant")
    assert rates[0] == pytest.approx(0.2)
    assert rates[5:] == [1.0] * 96


@pytest.mark.parametrize("patience", [0, 1, 3])
def test_plateau_falls_when_torchs_does(patience: int):
    losses = [1.0, 0.8, 0.9, 0.79999, 0.85, 0.7, 0.71, 0.72, 0.73, 0.74, 0.75, 0.6, 0.6, 0.6, 0.6]
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=0.3, patience=patience)
    settings = ("fit.schedule=plateau", "fit.warm_up=0", f"fit.plateau_patience={patience}")
    fit = load(overrides=settings).fit
    for count, loss in enumerate(losses, 1):
        schedule.step(loss)
        expected = optimiser.param_groups[0]["lr"]
        assert share(fit, 50, 100, losses[:count]) == pytest.approx(expected)
    assert falls(losses, patience) > 0

"""The learning rate's course, as a share of its peak: pure functions of what a checkpoint holds.

A schedule object would have a state of its own to save and restore. Here the step's number and the
val losses so far decide, so a run that goes on from a checkpoint has the right rate by itself.
"""

import math
from collections.abc import Sequence

from visionloop_training.recipe_config import FitConfig

_LOWEST = 1e-4  # where one-cycle and cosine end
_FELL = 1e-4  # a val loss counts as lower when it is by this share


def share(config: FitConfig, step: int, steps: int, val_losses: Sequence[float]) -> float:
    """Of the peak rate in optimiser step `step` of `steps`, after epochs with these val losses."""
    warm_up = config.warm_up
    if warm_up is None:
        warm_up = 0.25 if config.schedule == "one_cycle" else 0.05
    turn = max(1, round(warm_up * steps))
    if config.schedule == "one_cycle":
        return one_cycle(step, steps, turn)
    if step < turn:
        return (step + 1) / turn
    if config.schedule == "cosine":
        return _down((step - turn) / max(1, steps - turn))
    if config.schedule == "plateau":
        return config.plateau_factor ** falls(val_losses, config.plateau_patience)
    return 1.0


def one_cycle(step: int, steps: int, turn: int) -> float:
    """A cosine up from 1/25 until step `turn`, and a cosine down to almost 0 (Smith 2018)."""
    if step < turn:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * step / turn)) / 2
    return _down((step - turn) / max(1, steps - turn))


def falls(val_losses: Sequence[float], patience: int) -> int:
    """How often the rate was lowered: each time `patience` epochs and one more brought nothing."""
    count, best, waited = 0, math.inf, 0
    for loss in val_losses:
        if loss < best * (1 - _FELL):
            best, waited = loss, 0
            continue
        waited += 1
        if waited > patience:
            count, waited = count + 1, 0
    return count


def _down(progress: float) -> float:
    return _LOWEST + (1 - _LOWEST) * (1 + math.cos(math.pi * progress)) / 2

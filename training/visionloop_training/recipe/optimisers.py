"""Optimisers with one group of parameters per stage: who learns how fast, and what is penalised.

The head leads, the topmost stage follows at a share of its rate, and each stage further down at a
share of the one above it. Norms and biases are in groups of their own, without penalties.
"""

from typing import Any

import torch
from torch import Tensor, nn

from visionloop_training.network import Network
from visionloop_training.recipe.rates import Rates
from visionloop_training.recipe_config import FitConfig

_DECOUPLED = 0.05  # AdamW's weight decay
_L2 = 1e-4


def optimiser(network: Network, config: FitConfig, rates: Rates) -> torch.optim.Optimizer:
    """The configured optimiser; each group knows its `peak` rate and its `l1` penalty."""
    peaks: list[tuple[nn.Module, float]] = [(network.head, rates.head)]
    rate = rates.head * rates.body_ratio
    for stage in reversed(network.backbone.stages[network.frozen :]):
        if any(True for _ in stage.parameters()):
            peaks.append((stage, rate))
            rate *= rates.layer_decay
    decay = config.weight_decay
    if decay is None:
        decay = _DECOUPLED if config.optimiser == "adamw" else _L2
    groups: list[dict[str, Any]] = []
    for module, peak in peaks:
        for penalised in (True, False):
            tensors = [p for p in module.parameters() if (p.ndim > 1) == penalised]
            if tensors and peak > 0:
                groups.append(
                    {
                        "params": tensors,
                        "lr": peak,
                        "peak": peak,
                        "weight_decay": decay if penalised else 0.0,
                        "l1": config.l1 if penalised else 0.0,
                    }
                )
    return _build(config, groups)


def _build(config: FitConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    if config.optimiser == "adamw":
        return torch.optim.AdamW(groups, fused=True)
    if config.optimiser == "adam":
        return torch.optim.Adam(groups, fused=True)
    if config.optimiser == "rmsprop":
        return torch.optim.RMSprop(groups, momentum=config.momentum)
    nesterov = config.momentum > 0
    return torch.optim.SGD(groups, lr=1.0, momentum=config.momentum, nesterov=nesterov)


def set_rates(optimiser: torch.optim.Optimizer, share: float) -> None:
    """Sets every group's learning rate to this share of its peak."""
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * share


@torch.no_grad()
def add_l1(optimiser: torch.optim.Optimizer) -> None:
    """Adds the L1 penalties' slopes to the gradients."""
    for group in optimiser.param_groups:
        if group["l1"]:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.add_(parameter.sign(), alpha=group["l1"])


def tensors_of(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Its state as named tensors: "<number of the parameter>/<name>"."""
    return {
        f"{number}/{name}": tensor
        for number, state in optimiser.state_dict()["state"].items()
        for name, tensor in state.items()
        if isinstance(tensor, Tensor)
    }


@torch.no_grad()
def put_back(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Takes over what `tensors_of` gave."""
    states: dict[int, dict[str, Tensor]] = {}
    for path, tensor in tensors.items():
        place, _, name = path.partition("/")
        states.setdefault(int(place), {})[name] = tensor
    parameters = [(p, group) for group in optimiser.param_groups for p in group["params"]]
    for number, kept in states.items():
        parameter, group = parameters[number]
        # A fused step counts where its parameters are, any other one on the CPU.
        counts_on = parameter.device if group.get("fused") else torch.device("cpu")
        # In the parameter's own memory layout, which the fused step takes for granted.
        optimiser.state[parameter] = {
            name: torch.empty_like(parameter).copy_(tensor)
            if tensor.ndim
            else tensor.to(counts_on, copy=True)
            for name, tensor in kept.items()
        }

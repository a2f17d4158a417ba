"""Fine-tuning's moving parts: who learns how fast, when, and which average of the weights is kept.

One learning rate for all stages is how people lose: too high for what is pretrained, too low for
the new head. Here the head leads, the topmost stage follows at a share of its rate, and each stage
further down at a share of the one above it.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from visionloop_training.config import FitConfig
from visionloop_training.network import Network


def optimiser(network: Network, config: FitConfig) -> torch.optim.AdamW:
    """AdamW with one group per stage (and one more for what must not decay: norms, biases)."""
    rates: list[tuple[nn.Module, float]] = [(network.head, config.learning_rate)]
    rate = config.learning_rate * config.body_ratio
    for stage in reversed(network.backbone.stages[network.frozen :]):
        if any(True for _ in stage.parameters()):
            rates.append((stage, rate))
            rate *= config.layer_decay
    groups: list[dict[str, object]] = []
    for module, peak in rates:
        for decays in (True, False):
            tensors = [p for p in module.parameters() if (p.ndim > 1) == decays]
            if tensors and peak > 0:
                decay = config.weight_decay if decays else 0.0
                groups.append({"params": tensors, "lr": peak, "peak": peak, "weight_decay": decay})
    return torch.optim.AdamW(groups, fused=True)


def rate_at(step: int, steps: int, warm_up: float) -> float:
    """One-cycle's share of the peak rate: a cosine up from 1/25 and a cosine down to almost 0."""
    turn = max(1, round(warm_up * steps))
    if step < turn:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * step / turn)) / 2
    return 1e-4 + (1 - 1e-4) * (1 + math.cos(math.pi * (step - turn) / max(1, steps - turn))) / 2


def set_rates(optimiser: torch.optim.Optimizer, share: float) -> None:
    """Sets every group's learning rate to this share of its peak."""
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * share


def freeze_statistics(network: nn.Module) -> None:
    """Batch norms keep their pretrained statistics: small batches of few images spoil them."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


@contextmanager
def statistics_kept(network: nn.Module, *, keep: bool) -> Iterator[None]:
    """Batch norms normalise by the batch and, with `keep`, remember nothing of it."""
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    learning = [norm for norm in norms if norm.training and norm.track_running_stats and keep]
    for norm in learning:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in learning:
            norm.track_running_stats = True


class MovingAverage:
    """An exponential average of the trained weights; smoother than any single step's."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._decay = decay
        self.steps = 0
        self._average = {k: v.detach().clone() for k, v in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Takes in the weights after one step; early steps are forgotten faster."""
        self.steps += 1
        keep = min(self._decay, self.steps / (10 + self.steps))
        for name, tensor in network.state_dict().items():
            if tensor.dtype.is_floating_point:
                self._average[name].lerp_(tensor, 1 - keep)
            else:
                self._average[name].copy_(tensor)

    def state(self) -> dict[str, Tensor]:
        """The averaged state dict."""
        return self._average


def copied(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    average: MovingAverage,
    best: dict[str, Tensor],
) -> dict[str, Tensor]:
    """All tensors that training goes on from, as copies on the CPU."""
    parts = {
        "network": network.state_dict(),
        "average": average.state(),
        "best": best,
        **{f"optimiser.{n}": s for n, s in optimiser.state_dict()["state"].items()},
    }
    return {
        f"{part}/{name}": tensor.detach().cpu().clone()
        for part, tensors in parts.items()
        for name, tensor in tensors.items()
    }


@torch.no_grad()
def restore(
    tensors: dict[str, Tensor],
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    average: MovingAverage,
) -> dict[str, Tensor]:
    """Puts what `copied` gave back in its place; returns the best weights so far."""
    parts: dict[str, dict[str, Tensor]] = {}
    for path, tensor in tensors.items():
        part, _, name = path.partition("/")
        parts.setdefault(part, {})[name] = tensor
    network.load_state_dict(parts["network"])
    for name, tensor in average.state().items():
        tensor.copy_(parts["average"][name])
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    for number, parameter in enumerate(parameters):
        if (kept := parts.get(f"optimiser.{number}")) is None:
            continue
        # In the parameter's own memory layout, which the fused step takes for granted.
        optimiser.state[parameter] = {
            name: torch.empty_like(parameter).copy_(tensor) if tensor.ndim else tensor.clone()
            for name, tensor in kept.items()
        }
    return {
        name: torch.empty_like(tensor).copy_(parts["best"][name])
        for name, tensor in network.state_dict().items()
    }

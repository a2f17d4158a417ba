"""The state of fine-tuning between two steps, as a checkpoint holds it: plain facts and tensors."""

import logging
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from visionloop_training.checkpoint import Checkpoint
from visionloop_training.recipe import optimisers
from visionloop_training.recipe.moving_average import MovingAverage

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Epoch:
    """One point of the loss curves. Epoch 0 is the linear probe."""

    epoch: int
    train_loss: float  # with label smoothing and weights, as optimised; the probe's is without
    val_loss: float
    val_accuracy: float  # or mean average precision (`targets.score`)
    learning_rate: float  # of the head, at the epoch's end
    seconds: float


@dataclass(frozen=True, slots=True)
class Failure:
    """Fine-tuning that went wrong and began again."""

    epoch: int  # in which it was noticed
    learning_rate: float  # that was too high
    reason: str


@dataclass(slots=True)
class Progress:
    """How far fine-tuning is."""

    probe_penalty: float
    history: list[Epoch]
    failures: list[Failure] = field(default_factory=list)
    epoch: int = 1
    taken: int = 0  # images of this epoch
    step: int = 0  # optimiser steps in all
    average_steps: int = 0
    total: float = 0.0  # loss over this epoch's images
    best: int = 0  # epoch
    over: bool = False

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def of(cls, facts: dict[str, Any]) -> "Progress":
        """From a checkpoint."""
        history = [Epoch(**epoch) for epoch in facts["history"]]
        failures = [Failure(**failure) for failure in facts["failures"]]
        return cls(**{**facts, "history": history, "failures": failures})

    @property
    def val_losses(self) -> list[float]:
        """Of the epochs that are over, the probe's left out."""
        return [epoch.val_loss for epoch in self.history[1:]]


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """A copy of its state dict."""
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def saved_tensors(
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
        "optimiser": optimisers.tensors_of(optimiser),
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
    """Puts what `saved_tensors` gave back in its place; returns the best weights so far."""
    parts: dict[str, dict[str, Tensor]] = {"optimiser": {}}
    for path, tensor in tensors.items():
        part, _, name = path.partition("/")
        parts.setdefault(part, {})[name] = tensor
    network.load_state_dict(parts["network"])
    for name, tensor in average.state().items():
        tensor.copy_(parts["average"][name])
    optimisers.put_back(optimiser, parts["optimiser"])
    return {
        name: torch.empty_like(tensor).copy_(parts["best"][name])
        for name, tensor in network.state_dict().items()
    }


def finished_checkpoint(network: nn.Module, state: Progress) -> Checkpoint:
    """The checkpoint of a fit that is over: of its tensors only the kept weights are needed."""
    state.over = True
    weights = {f"network/{name}": tensor.cpu() for name, tensor in weights_of(network).items()}
    return Checkpoint(state.step, weights, state.facts())


def restore_finished(checkpoint: Checkpoint | None, network: nn.Module) -> Progress | None:
    """Puts the weights of a fit that is over into the network; None where it is not over yet."""
    if checkpoint is None or not checkpoint.facts["over"]:
        return None
    network.load_state_dict(
        {name.removeprefix("network/"): tensor for name, tensor in checkpoint.tensors.items()}
    )
    _log.info("fitting was over, after step %d: going on from its end", checkpoint.step)
    return Progress.of(checkpoint.facts)

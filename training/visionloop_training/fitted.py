"""What a fit gives: the trained network, and how it got there."""

from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from visionloop_training.fit_state import Epoch, Failure
from visionloop_training.network import Network
from visionloop_training.recipe.rates import Rates


@dataclass(frozen=True, slots=True)
class Fitted:
    """The trained network, in eval mode on the CPU, and how it got there."""

    network: Network
    history: list[Epoch]
    kept_epoch: int
    probe_penalty: float
    val_logits: Tensor  # (val images, classes)
    rates: Rates  # that it was tuned with, the last time
    failures: list[Failure]

    def curves(self) -> list[dict[str, float]]:
        """The history as plain JSON."""
        return [asdict(epoch) for epoch in self.history]

    def recipe(self) -> dict[str, Any]:
        """What was chosen and what was tried, as plain JSON."""
        return {
            "rates": asdict(self.rates),
            "failures": [asdict(failure) for failure in self.failures],
        }

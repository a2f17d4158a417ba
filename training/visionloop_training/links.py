"""The last step of a graph: from logits to calibrated probabilities.

    Softmax     one class an image: softmax(logits / temperature)
    Sigmoids    any number of classes: sigmoid(logits / temperatures + biases), class by class

The numbers are fitted on val (`calibrate`, `multi_label.calibrate`) and are constants of the graph.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Softmax(nn.Module):
    """Probabilities of one distribution over the classes."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, logits: Tensor) -> Tensor:
        """(batch, classes) -> (batch, classes)."""
        return torch.softmax(logits / self.temperature, dim=1)


class Sigmoids(nn.Module):
    """A probability of its own for each class."""

    def __init__(self, temperatures: Sequence[float], biases: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("temperatures", torch.tensor(temperatures, dtype=torch.float32))
        self.register_buffer("biases", torch.tensor(biases, dtype=torch.float32))

    def forward(self, logits: Tensor) -> Tensor:
        """(batch, classes) -> (batch, classes)."""
        scaled = logits / self.get_buffer("temperatures") + self.get_buffer("biases")
        return torch.sigmoid(scaled)


Link = Softmax | Sigmoids

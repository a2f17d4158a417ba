"""An exponential average of the trained weights; smoother than any single step's."""

import torch
from torch import Tensor, nn


class MovingAverage:
    """The average of a network's state dict over its steps; with `decay` 0, the last one."""

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

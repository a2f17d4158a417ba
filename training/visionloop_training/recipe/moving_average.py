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
        averages: list[Tensor] = []
        news: list[Tensor] = []
        for name, tensor in network.state_dict().items():
            if tensor.dtype.is_floating_point:
                averages.append(self._average[name])
                news.append(tensor)
            else:
                self._average[name].copy_(tensor)
        torch._foreach_lerp_(averages, news, 1 - keep)  # one launch instead of hundreds

    def state(self) -> dict[str, Tensor]:
        """The averaged state dict."""
        return self._average

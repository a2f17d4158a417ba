"""How fast each part of the network learns, where the configuration leaves it open.

One learning rate for all networks is how people lose: at 1e-3 everywhere, a ViT-B/16 that is worth
96 % on Oxford's pets ends at 7 %, while a ResNet does well. What tells networks apart is how they
keep their activations in range: batch norm bears high rates, layer norm (ViT, Swin, ConvNeXt)
wants the pretrained stages touched gently, and without either (AlexNet, VGG) steps must be small.
"""

import logging
from dataclasses import dataclass
from typing import Literal

from torch import nn

from visionloop_training.recipe_config import FitConfig, Optimiser

Kind = Literal["batch norm", "layer norm", "no norm"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rates:
    """Peak learning rates: the head's, and how they fall from there downwards."""

    head: float
    body_ratio: float
    layer_decay: float

    def lowered(self, factor: float) -> "Rates":
        """All of them times `factor`."""
        return Rates(self.head * factor, self.body_ratio, self.layer_decay)


# For AdamW. Batch norm's were measured here (docs/training.md); the others follow the layer-wise
# decay and the rates that BEiT, ConvNeXt and AutoGluon fine-tune with.
_BY_KIND: dict[Kind, Rates] = {
    "batch norm": Rates(3e-4, 1.0, 0.9),
    "layer norm": Rates(1e-3, 0.1, 0.75),
    "no norm": Rates(5e-4, 0.1, 0.8),
}
# What the optimisers' steps differ in: sgd's is as large as the gradient, which is clipped.
_BY_OPTIMISER: dict[Optimiser, float] = {"adamw": 1.0, "adam": 1.0, "rmsprop": 0.3, "sgd": 20.0}


def kind_of(network: nn.Module) -> Kind:
    """By the norms it has more of."""
    batch = sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules())
    # By the name, since torchvision and timm have layer norms of their own making.
    layer = sum("LayerNorm" in type(m).__name__ for m in network.modules())
    if not batch and not layer:
        return "no norm"
    return "batch norm" if batch >= layer else "layer norm"


def rates_for(network: nn.Module, config: FitConfig) -> Rates:
    """The configured rates, with what is null chosen for this network; says so in the log."""
    kind = kind_of(network)
    usual = _BY_KIND[kind]
    head = config.learning_rate or usual.head * _BY_OPTIMISER[config.optimiser]
    ratio = usual.body_ratio if config.body_ratio is None else config.body_ratio
    decay = usual.layer_decay if config.layer_decay is None else config.layer_decay
    if None in (config.learning_rate, config.body_ratio, config.layer_decay):
        _log.info(
            "learning rates for a network with %s and %s: head %.2g, body_ratio %g, layer_decay %g",
            kind, config.optimiser, head, ratio, decay,
        )  # fmt: skip
    return Rates(head, ratio, decay)

"""The trained thing: normalisation, backbone stages, a head; uint8 pixels in, logits out.

Mean and standard deviation are part of the network, so no service ever applies them. The network
is split at a freeze point: `bottom` (never trained, its output cached) and `top` (trained).
"""

import torch
from torch import Tensor, nn

from visionloop.preprocessing import Preprocessing
from visionloop_training.backbones.stages import Backbone
from visionloop_training.heads import build_head
from visionloop_training.recipe_config import HeadConfig


class Network(nn.Module):
    """A classifier of uint8 images, shape (batch, height, width, 3), into `classes` logits."""

    def __init__(
        self,
        backbone: Backbone,
        preprocessing: Preprocessing,
        classes: int,
        frozen: int,
        head: HeadConfig | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.frozen = frozen
        self.classes = classes
        self.head = build_head(backbone.width, classes, head or HeadConfig())
        mean = torch.tensor(preprocessing.mean)
        std = torch.tensor(preprocessing.std)
        # (pixel / 255 - mean) / std as one multiplication and one addition
        self.register_buffer("scale", (1.0 / (255.0 * std)).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", (-mean / std).view(1, 3, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.get_buffer("scale").device

    @property
    def all_frozen(self) -> bool:
        """Whether all stages of the backbone are frozen."""
        return self.frozen == len(self.backbone.stages)

    def normalise(self, images: Tensor) -> Tensor:
        """(batch, height, width, 3) uint8 -> (batch, 3, height, width) float32."""
        scale, shift = self.get_buffer("scale"), self.get_buffer("shift")
        return images.permute(0, 3, 1, 2).float() * scale + shift

    def bottom(self, images: Tensor) -> Tensor:
        """What enters the trained stages; with nothing frozen, the normalised pixels."""
        return self.backbone.run(self.normalise(images), 0, self.frozen)

    def embed(self, activations: Tensor) -> Tensor:
        """From `bottom`'s output to the embedding, shape (batch, width)."""
        return self.backbone.run(activations, self.frozen, len(self.backbone.stages))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, height, width, 3) uint8 -> logits (batch, classes), embedding (batch, width)."""
        embedding = self.embed(self.bottom(images))
        return self.head(embedding), embedding

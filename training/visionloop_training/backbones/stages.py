"""A network as a plain sequence of named stages that ends in an embedding.

Each stage is a module whose output feeds the next; the last one gives the embedding, shape (batch,
width). That one shape of network buys three things: a freeze point is a place in the list, so
everything below it can be computed once and cached; the learning rate can fall from stage to
stage; and the embedding is an output of the exported graph. How the libraries' networks are cut
into stages is told in `torchvision_cuts` and `timm_cuts`.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from visionloop.errors import ConfigurationError
from visionloop.preprocessing import Interpolation, Preprocessing, eval_preprocessing
from visionloop_training.weights import Weights

Stages = Iterator[tuple[str, nn.Module]]


@dataclass(frozen=True, slots=True)
class PixelSpec:
    """The pixels that a backbone was pretrained on."""

    size: int  # side of the square input
    resize: int  # the shorter side before the centre crop
    interpolation: Interpolation
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def preprocessing(
        self,
        size: int | None,
        shape: Literal["crop", "squash"],
        reducing_gap: float | None = None,
    ) -> Preprocessing:
        """Steps for a square input of `size` (None: as pretrained).

        "crop" resizes the shorter side and cuts out the centre, as in pretraining; "squash"
        resizes the whole image to the square, so nothing at the border is lost.
        """
        return eval_preprocessing(
            size or self.size,
            1.0 if shape == "squash" else self.size / self.resize,
            self.interpolation,
            self.mean,
            self.std,
            squash=shape == "squash",
            reducing_gap=reducing_gap,
        )


class Backbone(nn.Module):
    """Named stages; `forward` maps normalised pixels (batch, 3, H, W) to (batch, width)."""

    def __init__(self, name: str, stages: list[tuple[str, nn.Module]], width: int) -> None:
        super().__init__()
        self.name = name
        self.width = width
        self.stage_names = tuple(stage for stage, _ in stages)
        self.stages = nn.ModuleList(module for _, module in stages)
        self.weights_sha256: str | None = None

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x, 0, len(self.stages))

    def run(self, x: Tensor, first: int, end: int) -> Tensor:
        """Applies the stages first … end - 1."""
        for index in range(first, end):
            x = self.stages[index](x)
        return x

    def freeze_point(self, freeze: str | float, field: str = "fit.freeze") -> int:
        """How many stages stay frozen: by a share of the stages, or by the last one's name."""
        if not isinstance(freeze, str):
            return round(freeze * len(self.stages))
        if freeze in self.stage_names:
            return self.stage_names.index(freeze) + 1
        raise ConfigurationError(
            f"{field}: {self.name} has no stage {freeze!r}; its stages are "
            f"{', '.join(self.stage_names)} (or give a share between 0 and 1)",
            field=field,
        )


class Flatten(nn.Module):
    """(batch, …) -> (batch, all the rest)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.flatten(x, 1)


class Apply(nn.Module):
    """A bound method of the network as a stage (what its `forward` does between modules)."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def pool() -> nn.Module:
    """(batch, width, H, W) -> (batch, width)."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), Flatten())


def merged(pieces: Iterable[tuple[str, nn.Module]]) -> Stages:
    """The pieces, each with the norms, activations and poolings that follow it; named by the first.

    Nobody freezes a network between a convolution and its norm.
    """
    group: list[nn.Module] = []
    first = ""
    for name, piece in pieces:
        if group and any(p.ndim > 1 for p in piece.parameters()):
            yield first, nn.Sequential(*group)
            group = []
        first = first if group else name
        group.append(piece)
    yield first, nn.Sequential(*group)


def load(
    net: nn.Module, tensors: dict[str, Tensor], weights: Weights, unused: tuple[str, ...]
) -> None:
    """Strict but for tensors whose names begin as `unused` says: old and auxiliary classifiers."""
    try:
        missing, unexpected = net.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise misfit(weights, str(error).splitlines()[1].strip()) from error
    wrong = [key for key in (*missing, *unexpected) if not key.startswith(unused)]
    if wrong:
        raise misfit(weights, f"{len(wrong)} tensors are missing or unknown, as {wrong[0]}")


def misfit(weights: Weights, why: str) -> ConfigurationError:
    """The error for weights of another network."""
    return ConfigurationError(
        f"backbone.weights: {weights.source} does not fit the backbone: {why}",
        field="backbone.weights",
    )

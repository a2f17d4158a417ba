"""The training configuration: every knob, its default and its reason, in one validated tree.

Sources in order, later ones win: the defaults below, a preset (presets/*.yaml; `visionloop-train`
takes `balanced` where none is named), a YAML file, and `--set a.b=value`. Unknown keys are errors,
and every error names the field.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from visionloop.errors import ConfigurationError
from visionloop.record import Probability
from visionloop_training.config_source import presets, tree_of
from visionloop_training.config_text import TABLE_END, TABLE_START, dump, rows_of, table_of
from visionloop_training.recipe_config import (
    AugmentConfig,
    BackboneConfig,
    FitConfig,
    HeadConfig,
    MixingConfig,
    PixelsConfig,
)
from visionloop_training.section import Positive, Section, Switch
from visionloop_training.setting_names import near
from visionloop_training.triggers_config import TriggersConfig

__all__ = [
    "AugmentConfig",
    "BackboneConfig",
    "ExportConfig",
    "FitConfig",
    "GateConfig",
    "HeadConfig",
    "LabelsConfig",
    "MixingConfig",
    "NotSureConfig",
    "ParityConfig",
    "PixelsConfig",
    "Section",
    "TrainingConfig",
    "TriggersConfig",
    "describe",
    "dump",
    "load",
    "markdown_table",
    "presets",
]


class NotSureConfig(Section):
    """When the model answers "not sure"; fitted on val."""

    method: Literal["target_accuracy", "conformal"] = Field(
        "target_accuracy",
        description="How the lowest probability of a sure answer is found. `target_accuracy`: the "
        "lowest at which val reaches it. `conformal`: so that at most 1 - `conformal_coverage` of "
        "all images get a wrong answer that sounds sure, provably, however few val images.",
    )
    target_accuracy: Probability = Field(
        0.95, description="Wanted share of right answers among those that are given."
    )
    min_coverage: Probability = Field(
        0.5, description="But at least this share of val must get an answer."
    )
    conformal_score: Literal["lac", "aps"] = Field(
        "lac",
        description="`lac`: a class is possible where its probability is high enough; fewest sets "
        "of several. "
        "`aps`: the likeliest classes up to a sum; more even over easy and hard images.",
    )
    conformal_coverage: float = Field(
        0.95, gt=0.0, lt=1.0, description="Share of images whose class is among the possible ones."
    )
    familiar: float = Field(
        0.99,
        gt=0.0,
        le=1.0,
        description="Share of images like those of val that count as familiar; what lies further "
        'from the train images is answered "not sure" whatever the probability. 1: off.',
    )


class LabelsConfig(Section):
    """From which probability on an image has a class, where it may have several (`multi_label`);
    fitted on val, class by class."""

    threshold: Literal["max_f1", "target_precision"] = Field(
        "max_f1",
        description="`max_f1`: the threshold of the class's highest F1. `target_precision`: the "
        "lowest one at which so many of its yeses are right.",
    )
    target_precision: Probability = Field(
        0.9, description="Wanted share of right answers among the yeses of each class."
    )


class GateConfig(Section):
    """When a candidate may replace the stable version."""

    mode: Literal["auto", "manual"] = Field(
        "auto",
        description="`auto`: a candidate that passes is promoted. `manual`: it is judged and "
        "published, and a person promotes it.",
    )
    policy: Literal["non-inferior", "not-significantly-worse"] = Field(
        "non-inferior",
        description="`non-inferior`: the one-sided lower confidence bound of the accuracy "
        "difference must lie above -margin; needs many test images. `not-significantly-worse`: "
        "refused only if the exact McNemar test finds it worse; for small test sets.",
    )
    margin: Probability = Field(
        0.01,
        description="Largest loss of accuracy (of the mean Jaccard index, where images may have "
        "several classes) that `non-inferior` takes.",
    )
    alpha: float = Field(0.05, gt=0.0, lt=0.5, description="Level of the one-sided test.")
    planned_looks: int | None = Field(
        None,
        ge=1,
        description="How often the test split may decide: alpha is divided by it, so that "
        "a worse model passes in none of all these rounds with 1 - alpha; after them the gate "
        "refuses. null: looks are counted and printed only. Needs `non-inferior`.",
    )
    regressions: Literal["refuse", "report"] = Field(
        "refuse",
        description="What a class, a slice or the images since stable's snapshot do on which the "
        "candidate is significantly worse (exact McNemar at alpha, Holm's correction).",
    )
    max_ece: Probability | None = Field(
        None,
        description="Refused if calibration error on test is surely above this (lower end of its "
        "95 % interval). null: no limit.",
    )
    max_latency_ratio: Positive | None = Field(
        None,
        description="Refused if an image takes more than this times as long as with stable: median "
        "at batch 1, both measured in turns on the training machine. null: no limit.",
    )
    max_megabytes: Positive | None = Field(
        None, description="Largest model.onnx, in millions of bytes. null: no limit."
    )

    @property
    def look_alpha(self) -> float:
        """The error of one look: what was planned for is shared out evenly."""
        return self.alpha / (self.planned_looks or 1)

    @model_validator(mode="after")
    def _looks_need_a_level(self) -> "GateConfig":
        if self.planned_looks and self.policy != "non-inferior":
            raise ValueError(
                "gate.planned_looks needs gate.policy=non-inferior: the other policy does not "
                "limit how often a worse model passes, and a lower alpha would make it milder"
            )
        return self


class CardConfig(Section):
    """Words for the model card in the report; they change nothing else."""

    intended_use: str = Field("", description="What the model is for.")
    out_of_scope: str = Field("", description="What it must not be used for.")
    limits: str = Field("", description="Known weaknesses, of data or model.")
    data_licence: str = Field("", description="Licence and origin of the images.")
    weights_licence: str = Field("", description="Licence of the pretrained weights.")
    contact: str = Field("", description="Who answers questions about it.")


class ParityConfig(Section):
    """How closely the exported graph must follow the trained network."""

    images: int = Field(64, ge=8, description="Real val and test images compared, if there are.")
    max_probability_difference: Positive = Field(
        1e-3, le=0.1, description="Largest absolute difference of any probability."
    )


class ExportConfig(Section):
    """What is exported beside model.onnx."""

    half_precision: Switch = Field(
        "auto",
        description="model.fp16.onnx, which the inference service takes on GPUs: half the size, "
        "and faster there. `auto`: where a GPU trains, and with a new head where the version "
        "whose body it has has one.",
    )
    half_max_probability_difference: Positive = Field(
        0.02,
        le=0.1,
        description="Largest absolute difference of any probability between it and model.onnx; "
        "where it is larger there is no model.fp16.onnx. The service replays the golden images "
        "within the same limit.",
    )


class TrainingConfig(Section):
    """Everything that decides what a run makes of a snapshot."""

    backbone: BackboneConfig = BackboneConfig()
    pixels: PixelsConfig = PixelsConfig()
    augment: AugmentConfig = AugmentConfig()
    mixing: MixingConfig = MixingConfig()
    head: HeadConfig = HeadConfig()
    fit: FitConfig = FitConfig()
    not_sure: NotSureConfig = NotSureConfig()
    labels: LabelsConfig = LabelsConfig()
    parity: ParityConfig = ParityConfig()
    export: ExportConfig = ExportConfig()
    gate: GateConfig = GateConfig()
    triggers: TriggersConfig = TriggersConfig()
    card: CardConfig = CardConfig()
    seed: int = Field(0, ge=0, lt=2**31, description="Of every random choice.")
    threads: int = Field(
        0, ge=0, le=1024, description="CPU threads of torch and onnxruntime; 0: as many as cores."
    )


def load(
    preset: str | None = None, file: Path | None = None, overrides: Sequence[str] = ()
) -> TrainingConfig:
    """The effective configuration.

    Raises NotFoundError for a missing file or preset, ConfigurationError (naming the field) for
    anything that is not valid.
    """
    tree = tree_of(preset, file, overrides)
    try:
        return TrainingConfig.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        field = _field(first["loc"])
        told = first["type"] not in ("missing", "value_error")  # which say it themselves
        given = f" (given: {first['input']!r})" if told else ""
        fields = {_field(one["loc"]) for one in error.errors()}
        others = f"; and {len(fields) - 1} more" if len(fields) > 1 else ""
        reason = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            reason, given = _no_setting(field), ""
        raise ConfigurationError(
            f"configuration: {field or 'top'}: {reason}{given}{others}", field=field
        ) from error


def _field(location: Sequence[int | str]) -> str:
    # A union's members add their own names to the path ("fit.freeze.str"); they are no settings.
    members = ("str", "float", "constrained", "literal[", "list[", "tuple[")
    return ".".join(str(part) for part in location if not str(part).startswith(members))


def _no_setting(name: str) -> str:
    meant = " or ".join(near(describe(), name))
    return (
        f"is no setting; {f'perhaps {meant}; ' if meant else ''}`visionloop-train --settings` "
        "explains all"
    )


def describe() -> list[tuple[str, str, str]]:
    """(field, default, description) of every setting, in order: for docs and --show-config."""
    return list(rows_of(TrainingConfig))


def markdown_table() -> str:
    """The table of all settings between its two markers, as docs/training-settings.md holds it."""
    return table_of(describe())


def main() -> None:
    """Renews the table in the file that is named: `python -m visionloop_training.config FILE`."""
    path = Path(sys.argv[1])
    text = path.read_text(encoding="utf-8")
    before, _, rest = text.partition(TABLE_START)
    path.write_text(before + markdown_table() + rest.partition(TABLE_END)[2], encoding="utf-8")


if __name__ == "__main__":
    main()

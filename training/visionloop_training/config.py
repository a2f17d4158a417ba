"""The training configuration: every knob, its default and its reason, in one validated tree.

Sources in order, later ones win: the defaults below, a preset (presets/*.yaml), a YAML file, and
`--set a.b=value`. Unknown keys are errors, and every error names the field.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

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
from visionloop_training.section import Positive, Section
from visionloop_training.triggers_config import TriggersConfig

__all__ = [
    "AugmentConfig",
    "BackboneConfig",
    "FitConfig",
    "GateConfig",
    "HeadConfig",
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
    mixing: MixingConfig = MixingConfig()
    head: HeadConfig = HeadConfig()
    fit: FitConfig = FitConfig()
    not_sure: NotSureConfig = NotSureConfig()
    parity: ParityConfig = ParityConfig()
    gate: GateConfig = GateConfig()
    triggers: TriggersConfig = TriggersConfig()
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
            reason, given = "is no setting; `visionloop-train --show-config` prints all", ""
        raise ConfigurationError(
            f"configuration: {field or 'top'}: {reason}{given}{others}", field=field
        ) from error


def _field(location: Sequence[int | str]) -> str:
    # A union's members add their own names to the path ("fit.freeze.str"); they are no settings.
    members = ("str", "float", "constrained", "literal[", "list[", "tuple[")
    return ".".join(str(part) for part in location if not str(part).startswith(members))


def describe() -> list[tuple[str, str, str]]:
    """(field, default, description) of every setting, in order: for docs and --show-config."""
    return list(rows_of(TrainingConfig))


def markdown_table() -> str:
    """The table of all settings between its two markers, as docs/training.md holds it."""
    return table_of(describe())


def main() -> None:
    """Renews the table in the file that is named: `python -m visionloop_training.config FILE`."""
    path = Path(sys.argv[1])
    text = path.read_text(encoding="utf-8")
    before, _, rest = text.partition(TABLE_START)
    path.write_text(before + markdown_table() + rest.partition(TABLE_END)[2], encoding="utf-8")


if __name__ == "__main__":
    main()

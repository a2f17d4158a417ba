"""What a search varies, around the configuration as it is.

Five settings decide most of what fine-tuning gives: the peak learning rate, the freeze point, the
epochs, the strength of augmentation and label smoothing. All but the first are a handful of
choices, because features are cached by freeze point and augmentation: a trial that shares both with
an earlier one computes none anew. All settings but these stay as they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from visionloop.errors import ConfigurationError
from visionloop_training.backbones.stages import Backbone
from visionloop_training.config import TrainingConfig
from visionloop_training.recipe.rates import rates_for
from visionloop_training.recipe_config import AugmentConfig

Value = float | int | str
Settings = dict[str, Value]  # one trial's

_RATE_SPAN = 4.0  # either way, from the rate as it is
_STAGES_SPAN = 0.15  # of the stages, up and down from the freeze point
_SMOOTHING = (0.0, 0.1, 0.2)
_STRENGTHS = {"weaker": 0.5, "as given": 1.0, "stronger": 2.0}
# Where nothing is configured that could be made stronger: what preset `balanced` has.
_MILD = {"crop_min_area": 0.8, "brightness": 0.1, "contrast": 0.1}
_SCALED = ("rotate", "scale", "brightness", "contrast", "saturation", "hue", "erase")
_MOST = {"rotate": 180.0, "scale": 0.9, "hue": 0.5}  # the others end at 1
_LEAST_CROP = 0.2

# The settings that a search may change.
SEARCHED: dict[str, set[str]] = {
    "fit": {"learning_rate", "freeze", "epochs", "label_smoothing"},
    "augment": {*_SCALED, "crop_min_area"},
}


@dataclass(frozen=True, slots=True)
class Space:
    """The range of the learning rate (searched on a logarithmic scale), the choices of the others,
    and where the configuration as it is lies in it."""

    learning_rate: tuple[float, float]
    choices: dict[str, tuple[Value, ...]]
    given: Settings


def space(config: TrainingConfig, backbone: Backbone) -> Space:
    """The space around `config`; rates that it leaves open are those of the network's kind.

    Raises ConfigurationError where it fine-tunes nothing.
    """
    fit = config.fit
    if fit.epochs == 0 or backbone.freeze_point(fit.freeze) == len(backbone.stages):
        raise ConfigurationError(
            f"--search varies fine-tuning, and there is none with fit.epochs={fit.epochs} and "
            f"fit.freeze={fit.freeze}; take another preset than `fast`, or leave --search out",
            field="search",
        )
    rate = rates_for(backbone, fit).head
    choices: dict[str, tuple[Value, ...]] = {
        "freeze": _freeze_points(config, backbone),
        "epochs": tuple(sorted({max(1, fit.epochs // 2), fit.epochs, 2 * fit.epochs})),
        "augment": tuple(_STRENGTHS if _varies(config.augment) else ("as given", "stronger")),
        "label_smoothing": tuple(sorted({*_SMOOTHING, fit.label_smoothing})),
    }
    given: Settings = {
        "learning_rate": rate,
        "freeze": fit.freeze,
        "epochs": fit.epochs,
        "augment": "as given",
        "label_smoothing": fit.label_smoothing,
    }
    return Space((rate / _RATE_SPAN, rate * _RATE_SPAN), choices, given)


def applied(config: TrainingConfig, settings: Mapping[str, Value]) -> TrainingConfig:
    """The configuration with a trial's settings in it."""
    tree: dict[str, Any] = config.model_dump(mode="json")
    tree["fit"] |= {name: settings[name] for name in SEARCHED["fit"]}
    tree["augment"] |= _scaled(config.augment, str(settings["augment"]))
    return TrainingConfig.model_validate(tree)


def _freeze_points(config: TrainingConfig, backbone: Backbone) -> tuple[Value, ...]:
    """The point as given, and one further down and up, by the names of the last frozen stages."""
    given = config.fit.freeze
    # cutmix wants pixels, so nothing may be frozen; a plan names points that must lie above this.
    if config.mixing.cutmix or config.fit.unfreeze not in ([], "gradual"):
        return (given,)
    count, at = len(backbone.stages), backbone.freeze_point(given)
    step = max(1, round(_STAGES_SPAN * count))
    places = sorted({place for place in (at - step, at, at + step) if 0 <= place < count})
    names: list[Value] = [backbone.stage_names[place - 1] if place else 0.0 for place in places]
    names[places.index(at)] = given
    return tuple(names)


def _varies(augment: AugmentConfig) -> bool:
    return augment.crop_min_area < 1 or any(getattr(augment, name) for name in _SCALED)


def _scaled(augment: AugmentConfig, strength: str) -> dict[str, float]:
    """The settings that a strength other than "as given" changes."""
    factor = _STRENGTHS[strength]
    if factor == 1.0:
        return {}
    if not _varies(augment):
        return dict(_MILD)
    scaled = {name: min(_MOST.get(name, 1.0), factor * getattr(augment, name)) for name in _SCALED}
    return {**scaled, "crop_min_area": max(_LEAST_CROP, 1 - factor * (1 - augment.crop_min_area))}

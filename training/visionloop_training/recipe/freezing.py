"""Which stages learn in which epoch: a plan of freeze points that `fit.unfreeze` describes.

The lowest freeze point, `fit.freeze`, is never passed: what lies below it is cached. A plan only
holds stages above it still for some epochs, so that a new head does not push noise into them.
"""

from collections.abc import Sequence

from visionloop.errors import ConfigurationError
from visionloop_training.backbones.stages import Backbone
from visionloop_training.recipe_config import FitConfig

Plan = Sequence[tuple[int, int]]  # (first epoch, stages that are frozen from then on), in order


def plan(backbone: Backbone, config: FitConfig) -> Plan:
    """The plan of these settings. Raises ConfigurationError for one that cannot be followed."""
    lowest = backbone.freeze_point(config.freeze)
    if config.unfreeze == "gradual":
        return _gradual(lowest, len(backbone.stages), config.epochs)
    points: list[tuple[int, int]] = []
    for epoch, freeze in config.unfreeze:
        point = backbone.freeze_point(freeze, "fit.unfreeze")
        if point < lowest:
            raise ConfigurationError(
                f"fit.unfreeze: {freeze!r} lies below fit.freeze={config.freeze!r}, whose output "
                "is cached; lower fit.freeze to it",
                field="fit.unfreeze",
            )
        if points and epoch <= points[-1][0]:
            raise ConfigurationError(
                f"fit.unfreeze: epoch {epoch} follows epoch {points[-1][0]}; epochs must rise",
                field="fit.unfreeze",
            )
        points.append((epoch, point))
    return [(1, lowest), *points]


def frozen_in(plan: Plan, epoch: int) -> int:
    """How many stages stay as they are in this epoch."""
    return [point for first, point in plan if first <= epoch][-1]


def _gradual(lowest: int, stages: int, epochs: int) -> Plan:
    """The head alone in the first epoch, then evenly downwards; all by half of the epochs."""
    ramp = max(1, epochs // 2)
    return [
        (1 + number, stages - round((stages - lowest) * number / ramp)) for number in range(ramp)
    ] + [(1 + ramp, lowest)]

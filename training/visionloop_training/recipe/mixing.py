"""Mixup and cutmix: two images of a slice become one, their weighed labels in proportion.

All draws follow from the seed, the step and the slice, so a run that goes on from a checkpoint, or
with another number of processes, mixes the same. Partners are of one slice, which one process
holds. With frozen stages it is their output that is mixed: manifold mixup (Verma et al. 2019).

Zhang et al., "mixup: Beyond Empirical Risk Minimization" (2018); Yun et al., "CutMix" (2019).
"""

import numpy as np
import torch
from torch import Tensor

from visionloop.errors import ConfigurationError
from visionloop_training.recipe_config import MixingConfig

_LEAST = 1e-12  # of a weight that is divided by
_MIXING = 3  # tells this stream of random numbers from those of epochs and of steps


def check(config: MixingConfig, frozen: int) -> None:
    """Raises ConfigurationError where cutmix has no pixels to cut."""
    if config.cutmix and frozen:
        raise ConfigurationError(
            f"mixing.cutmix is {config.cutmix:g}, but the first {frozen} stages are frozen: their "
            "output is cached and holds no pixels to cut. Use mixing.mixup, or fit.freeze=0",
            field="mixing.cutmix",
        )


def mixed(
    config: MixingConfig,
    seed: tuple[int, int, int],
    inputs: Tensor,
    targets: Tensor,
    weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs (n, …), targets (n, classes) and weights (n,) after mixing; or as they were.

    `seed` is (seed, step, slice).
    """
    if not (config.mixup or config.cutmix) or len(inputs) < 2:
        return inputs, targets, weights
    random = np.random.default_rng([*seed, _MIXING])
    if random.random() >= config.share:
        return inputs, targets, weights
    cuts = bool(config.cutmix) and (not config.mixup or bool(random.integers(2)))
    alpha = config.cutmix if cuts else config.mixup
    own = float(random.beta(alpha, alpha))  # the share of the first of the two
    order = torch.from_numpy(random.permutation(len(inputs)))
    partner = order.to(inputs.device, non_blocking=True)
    if cuts:
        inputs, own = _cut(inputs, partner, own, random)
    else:
        inputs = torch.lerp(inputs[partner], inputs, own)
    mixed_weights = torch.lerp(weights[partner], weights, own)
    # An image says of its label as much as it weighs: one of weight 0 lends its pixels only.
    given = targets * weights[:, None]
    mixed_targets = torch.lerp(given[partner], given, own)
    return inputs, mixed_targets / mixed_weights.clamp_min(_LEAST)[:, None], mixed_weights


def _cut(
    images: Tensor, partner: Tensor, own: float, random: np.random.Generator
) -> tuple[Tensor, float]:
    """A rectangle of about 1 - `own` of each image is the partner's; with the exact share left."""
    height, width = images.shape[-2:]
    y, x = int(random.integers(height)), int(random.integers(width))
    half = np.sqrt(1 - own) / 2
    top, bottom = max(0, round(y - half * height)), min(height, round(y + half * height))
    left, right = max(0, round(x - half * width)), min(width, round(x + half * width))
    cut = images.clone()
    cut[..., top:bottom, left:right] = images[partner][..., top:bottom, left:right]
    return cut, 1 - (bottom - top) * (right - left) / (height * width)

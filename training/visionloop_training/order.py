"""What is drawn at random in training, as pure functions: so nothing of it needs to be stored.

Whoever knows the seed, the epoch and how many images were taken knows the rest of the epoch's
order, on any machine and in any number of processes (`visionloop.image_stream`); which variant of
an image is seen follows likewise. Dropout's draws follow from the step's number.
"""

from collections.abc import Sequence

import numpy as np
import torch

from visionloop.image_stream import epoch_order

_STEPS = 2  # tells the streams of steps from those of epochs


def epoch_pairs(
    seed: int, epoch: int, digests: Sequence[str], variants: int | None
) -> list[tuple[int, int]]:
    """(place in `digests`, variant) of every image in the order of this epoch.

    With `variants` None each epoch has fresh ones, numbered by the epoch.
    """
    places = epoch_order(digests, seed, epoch).tolist()
    if variants is None:
        return [(place, epoch) for place in places]
    numbers = np.random.default_rng([seed, epoch]).integers(0, variants, len(digests)).tolist()
    return [(place, numbers[place]) for place in places]


def seed_step(seed: int, step: int, part: int) -> None:
    """Seeds what torch draws in this step for one slice of the batch."""
    drawn = np.random.SeedSequence([seed, step, part, _STEPS]).generate_state(1, np.uint64)
    torch.manual_seed(int(drawn[0]) >> 1)

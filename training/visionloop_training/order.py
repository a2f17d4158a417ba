"""The order in which images are seen: a pure function of seed and epoch, so that it can be resumed.

Whoever knows the seed, the epoch and how many images were taken knows the rest, on any machine and
in any number of processes; nothing of it needs to be stored. So do dropout's draws: each step seeds
them anew from its number.
"""

import numpy as np
import torch

_STEPS = 2  # tells the streams of steps from those of epochs


def epoch_order(seed: int, epoch: int, images: int, variants: int | None) -> list[tuple[int, int]]:
    """(place in train, variant) of every image in the order of this epoch.

    With `variants` None each epoch has fresh ones, numbered by the epoch.
    """
    random = np.random.default_rng([seed, epoch])
    places = random.permutation(images).tolist()
    if variants is None:
        return [(place, epoch) for place in places]
    numbers = random.integers(0, variants, images).tolist()
    return [(place, numbers[place]) for place in places]


def seed_step(seed: int, step: int, part: int) -> None:
    """Seeds what torch draws in this step for one slice of the batch."""
    drawn = np.random.SeedSequence([seed, step, part, _STEPS]).generate_state(1, np.uint64)
    torch.manual_seed(int(drawn[0]) >> 1)

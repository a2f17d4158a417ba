"""What is drawn at random in training, as pure functions: so nothing of it needs to be stored.

Whoever knows the seed, the epoch and how many images were taken knows the rest of the epoch's
order, on any machine and in any number of processes; which variant of an image is seen follows
likewise. Dropout's draws follow from the step's number.
"""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray

_STEPS = 2  # tells the streams of steps from those of epochs
_EPOCHS = 1001  # more than there can be, so that variants of repeated images differ


def epoch_order(digests: Sequence[str], seed: int, epoch: int) -> NDArray[np.int64]:
    """The places of `digests` (n,) in the order of an epoch (n,).

    By a keyed digest of each image's own digest: it depends on the seed, the epoch and the images
    alone, not on a library's random numbers, and a new image does not shuffle the others.
    """
    key = blake2b(f"{seed}/{epoch}".encode(), digest_size=16).digest()
    keyed = b"".join(
        blake2b(bytes.fromhex(one), digest_size=8, key=key).digest() for one in digests
    )
    return np.argsort(np.frombuffer(keyed, dtype="<u8"), kind="stable")


def epoch_pairs(
    seed: int,
    epoch: int,
    digests: Sequence[str],
    variants: int | None,
    labels: Sequence[int] | None = None,
) -> list[tuple[int, int]]:
    """(place in `digests`, variant) of the images of this epoch, in order.

    With `variants` None each epoch has fresh ones, numbered by the epoch. With `labels` the classes
    are balanced: as many images in all, but each class as often as any other.
    """
    places = epoch_order(digests, seed, epoch).tolist()
    rounds = [0] * len(places)
    if labels is not None:
        places, rounds = balanced(places, labels)
    pairs = zip(places, rounds, strict=True)
    if variants is None:
        return [(place, epoch + _EPOCHS * again) for place, again in pairs]
    numbers = np.random.default_rng([seed, epoch]).integers(0, variants, len(digests)).tolist()
    return [(place, (numbers[place] + again) % variants) for place, again in pairs]


def balanced(places: Sequence[int], labels: Sequence[int]) -> tuple[list[int], list[int]]:
    """As many places as given, each class equally often (to within one), in turns.

    Each class keeps its order. One that is too small begins anew; the second list counts how often
    it did before each place. Of one that is too large the last are left out in this epoch.
    """
    of_class: dict[int, list[int]] = {label: [] for label in sorted(set(labels))}
    for place in places:
        of_class[labels[place]].append(place)
    drawn: list[int] = []
    rounds: list[int] = []
    for turn in range(-(-len(places) // len(of_class))):
        for members in of_class.values():
            drawn.append(members[turn % len(members)])
            rounds.append(turn // len(members))
    return drawn[: len(places)], rounds[: len(places)]


def seed_step(seed: int, step: int, part: int) -> None:
    """Seeds what torch draws in this step for one slice of the batch."""
    drawn = np.random.SeedSequence([seed, step, part, _STEPS]).generate_state(1, np.uint64)
    torch.manual_seed(int(drawn[0]) >> 1)

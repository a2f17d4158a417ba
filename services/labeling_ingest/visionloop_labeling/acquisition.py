"""Which image is worth a person's look: the acquisition function and its two controls.

An image is worth more the less a model can tell its two likeliest classes apart, and the rarer its
likeliest class is among the labels (`worth`, 0 to 1). That choice is biased by design, so two
tenths of the images are kept as controls, drawn by their digest: which they are is the same for
every model version, replica and rerun, and has nothing to do with what they show.

    random   its place in the queue is that of another image; such labels estimate what the data
             are like, whatever the model prefers to ask
    blind    labelled without the suggestion in view; against the hidden prediction such labels
             give the model's precision, and how much people follow it
"""

import hashlib
from collections.abc import Mapping
from typing import Final

RANDOM_SHARE: Final = 0.1
BLIND_SHARE: Final = 0.1
DEFICIT_WEIGHT: Final = 0.3  # against 0.7 for the model's doubt


def worth(margin: float, deficit: float) -> float:
    """0 to 1. `margin` is between the two highest probabilities, or between a probability and its
    threshold where an image may have several classes; `deficit` as in `deficits`."""
    return (1.0 - DEFICIT_WEIGHT) * (1.0 - margin) + DEFICIT_WEIGHT * deficit


def deficits(labelled: Mapping[str, int]) -> dict[str, float]:
    """How much of the largest class each class lacks: 0 for the largest, 1 for one without labels.

    All zero while nothing is labelled.
    """
    largest = max(labelled.values(), default=0)
    return {name: 1.0 - count / largest if largest else 0.0 for name, count in labelled.items()}


def is_random(sha256: str) -> bool:
    """Whether this image is asked at random."""
    return _draw("random", sha256) < RANDOM_SHARE


def is_blind(sha256: str) -> bool:
    """Whether this image is labelled without a suggestion."""
    return _draw("blind", sha256) < BLIND_SHARE


def _draw(purpose: str, sha256: str) -> float:
    """0 to 1, evenly over images, and independent between purposes."""
    digest = hashlib.sha256(f"{purpose}:{sha256}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64

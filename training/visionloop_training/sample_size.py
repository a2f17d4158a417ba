"""How much a test set of so many images can decide: told before the first epoch, and in a refusal.

`non-inferior` asks for evidence, and few images have little to give: a model that is worse by two
points answers 133 images as well as the better one in one of fifteen cases. So below some number of
test images no candidate passes that is only as good as the stable version. Waiting does not help
there and trying again only costs; people have to choose, so they are told early and with numbers.
"""

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np

from visionloop_training.config import GateConfig
from visionloop_training.data import Dataset
from visionloop_training.multi_label.paired import PairedScores
from visionloop_training.significance import lower_bound, non_inferiority

# (images, alpha) -> the lower bound of the difference where both models answer all of them alike.
Agreement = Callable[[int, float], float]
_MOST = 100_000  # images; who needs more is not helped by a number


class Known(Protocol):
    """What this needs to know of the stable version (`stable.Version`)."""

    @property
    def class_ids(self) -> tuple[str, ...]: ...
    @property
    def seen(self) -> frozenset[str]: ...


def of_pairs(images: int, alpha: float) -> float:
    """Where an image has one class."""
    return float(lower_bound(0, 0, images, alpha))


def of_scores(images: int, alpha: float) -> float:
    """Where an image may have several classes, and each is a group of its own."""
    return PairedScores(np.zeros(images), np.arange(images)).lower_bound(alpha)


def images_needed(agreement: Agreement, margin: float, alpha: float) -> int | None:
    """The fewest images that can show the margin; None where a hundred thousand cannot."""
    if agreement(_MOST, alpha) <= -margin:
        return None
    low, high = 1, _MOST  # `high` is enough
    while low < high:
        middle = (low + high) // 2
        if agreement(middle, alpha) > -margin:
            high = middle
        else:
            low = middle + 1
    return high


def gains_needed(images: int, lost: int, margin: float, alpha: float) -> int:
    """How many images a candidate must gain that loses so many, to be shown non-inferior; of images
    with one class. More than there are: it cannot be shown at all."""
    gained = np.arange(images + 2)
    passes = non_inferiority(gained, lost, images, margin) < alpha
    return int(np.argmax(passes)) if passes.any() else images + 1


def too_few(agreement: Agreement, images: float, config: GateConfig) -> str:
    """Why so many independent test images can show the margin for no model that answers as the
    stable version does, and what to do; empty where they can."""
    whole, alpha = max(1, math.floor(images)), config.look_alpha
    if config.policy != "non-inferior" or agreement(whole, alpha) > -config.margin:
        return ""
    shown = -agreement(whole, alpha)
    needed = images_needed(agreement, config.margin, alpha)
    enough = f"{needed:,}" if needed else f"more than {_MOST:,}"
    better = ""
    if agreement is of_pairs:
        none, one = (gains_needed(whole, lost, config.margin, alpha) for lost in (0, 1))
        better = f" (images: {none} gained and none lost, or {one} gained and one lost)"
    return (
        f"{whole:,} test images show a margin of {_points(shown)} points at best, even where two "
        f"versions answer all of them alike; gate.margin is {_points(config.margin)} points, which "
        f"needs {enough} of them. So only a clearly better version passes{better}: label more, or "
        f"choose gate.margin={math.ceil(200 * shown) / 200:g} or more, or "
        "gate.policy=not-significantly-worse (docs/promotion.md, Small test sets)"
    )


def notes(data: Dataset, stable: Known | None, config: GateConfig) -> list[str]:
    """What to tell before a run whose test images are too few for its gate."""
    agreement = of_scores if data.task == "multi_label" else of_pairs
    words = too_few(agreement, comparable(data, stable), config)
    if not words:
        return []
    first = "" if stable else "; a first version has no opponent, the next one will"
    return [f"the gate: {words}{first}"]


def comparable(data: Dataset, stable: Known | None) -> int:
    """The test images that candidate and stable version can both be asked (see `gate`), counted as
    independent ones: a group of near-duplicates is one."""
    if stable is None:
        return len({item.group for item in data.test})
    seen = data.learned_groups | stable.seen
    known = {place for place, name in enumerate(data.class_ids) if name in stable.class_ids}
    several = data.task == "multi_label"
    asked = {
        item.group
        for item in data.test
        if seen.isdisjoint((item.group, item.sha256)) and (several or item.label in known)
    }
    return len(asked)


def _points(share: float) -> str:
    """Rounded up: what is told must do."""
    return f"{math.ceil(1000 * share - 1e-9) / 10:.1f}"

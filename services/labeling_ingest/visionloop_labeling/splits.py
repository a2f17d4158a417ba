"""Which split a group of images goes to: once, for ever, by what its class still lacks.

A group gets its split with its first accepted label, and goes where that label's class is furthest
below its share: so every class approaches the ratios by itself, which hashing does not give (of
classes with 10 images, hashing leaves val or test empty in 58 %). A new class first fills train,
then test, then val with one group each, so that three groups suffice to train on it, measure it and
tune on it. The price: the split of a group depends on what came before it, so the same images in
another order are split otherwise; within one dataset nothing ever moves.
"""

import hashlib
from collections.abc import Mapping
from typing import Annotated, Final, Self

from pydantic import Field, model_validator

from visionloop.record import Record

SPLITS: Final = ("train", "val", "test")
RULE: Final = "group-sticky/1"

# Test data is protected from val, and both from train: the more, the higher.
PROTECTION: Final[Mapping[str | None, int]] = {None: 0, "train": 1, "val": 2, "test": 3}

_SEEDING = ("train", "test", "val")
_Ratio = Annotated[float, Field(ge=0.0, le=1.0)]


class SplitRatios(Record):
    """The share of each split; they sum to 1 and train is not empty."""

    train: _Ratio = 0.7
    val: _Ratio = 0.1
    test: _Ratio = 0.2

    @model_validator(mode="after")
    def _check(self) -> Self:
        total = self.train + self.val + self.test
        if abs(total - 1.0) > 1e-6:
            raise ValueError(f"the split ratios sum to {total:g}; make them sum to 1")
        if self.train <= 0.0:
            raise ValueError("the train ratio is 0; a model needs something to train on")
        return self

    def shares(self) -> dict[str, float]:
        """The share of each split, by its name."""
        return {"train": self.train, "val": self.val, "test": self.test}


def choose_split(
    counts: Mapping[str, int], arriving: int, ratios: SplitRatios, *, salt: str, group: str
) -> str:
    """The split for a group that brings `arriving` images of a class.

    `counts` says how many images of that class each split has (a missing split has none).
    """
    shares = ratios.shares()
    open_splits = [split for split in SPLITS if shares[split] > 0.0]
    for split in _SEEDING:
        if split in open_splits and counts.get(split, 0) == 0:
            return split
    total = sum(counts.values()) + arriving
    deficits = {split: shares[split] * total - counts.get(split, 0) for split in open_splits}
    largest = max(deficits.values())
    tied = [split for split in open_splits if largest - deficits[split] < 1e-9]
    digest = hashlib.sha256(f"{salt}\0{group}".encode()).digest()
    return tied[int.from_bytes(digest[:8], "big") % len(tied)]


def draw_split(ratios: SplitRatios, *, salt: str, group: str) -> str:
    """The split for a group whose label names no class: drawn by the ratios, alike every time.

    There is no class whose share could be short, so there is nothing to count; of few such images
    val or test may get none.
    """
    digest = hashlib.sha256(f"{salt}\0{group}".encode()).digest()
    drawn = int.from_bytes(digest[:8], "big") / 2**64
    for split, share in ratios.shares().items():
        if drawn < share:
            return split
        drawn -= share
    return "train"

"""Train, val and test parts of a data set; a pure function of labels, groups and seed.

`plain` is the published protocol: a random quarter of each class is the test part. `grouped` keeps
whatever shows the same on one side. Both cut val, a tenth, out of what is left, and with `inner`
the test part is set aside and never read: what is left is split once more in the same way. That is
where epochs and settings are chosen.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedShuffleSplit

Kind = Literal["plain", "grouped"]
Part = Literal["train", "val", "test"]
KINDS: tuple[Kind, ...] = ("plain", "grouped")
TEST, VAL = 4, 10  # one part in so many


def split(
    kind: Kind, labels: Sequence[str], groups: Sequence[int], seed: int, *, inner: bool = False
) -> list[Part | None]:
    """The part of each picture; None for those that `inner` sets aside."""
    where: list[Part | None] = [None] * len(labels)
    rest, test = _cut(kind, labels, groups, range(len(labels)), TEST, seed)
    if inner:
        rest, test = _cut(kind, labels, groups, rest, TEST, seed)
    train, val = _cut(kind, labels, groups, rest, VAL, seed)
    parts: tuple[tuple[Part, Sequence[int]], ...] = (
        ("train", train),
        ("val", val),
        ("test", test),
    )
    for part, places in parts:
        for place in places:
            where[place] = part
    return where


def _cut(
    kind: Kind,
    labels: Sequence[str],
    groups: Sequence[int],
    places: Sequence[int],
    share: int,
    seed: int,
) -> tuple[list[int], list[int]]:
    """The places that stay, and one in `share` of them, with each class's share kept."""
    y = np.array([labels[place] for place in places])
    x = np.zeros((len(y), 1))
    if kind == "plain":
        cut = StratifiedShuffleSplit(1, test_size=1 / share, random_state=seed).split(x, y)
    else:
        of = [groups[place] for place in places]
        folds = StratifiedGroupKFold(share, shuffle=True, random_state=seed)
        cut = folds.split(x, y, of)
    stay, leave = next(iter(cut))
    return [places[at] for at in stay], [places[at] for at in leave]

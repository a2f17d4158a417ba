"""What each class's precision, recall and false alarms would be at every threshold, on test."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from visionloop_training.metrics import Flags, Floats

MOST = 8  # classes of one plot; with more no line can be told from another


@dataclass(frozen=True, slots=True)
class Curve:
    """One class against the rest, by falling thresholds; all (thresholds,)."""

    name: str
    precision: Floats
    recall: Floats
    false_alarms: Floats  # share of the other images that are answered as the class


def curves(document: Mapping[str, Any]) -> list[Curve]:
    """Of the classes with the most test images; a class that all images have, or none, has none."""
    rows = document["predictions"]
    images = Counter(class_id for row in rows for class_id in _classes(row))
    shown = [
        (place, label)
        for place, label in enumerate(document["labels"])
        if 0 < images[label["id"]] < len(rows)
    ]
    shown.sort(key=lambda one: -images[one[1]["id"]])
    return [
        curve(
            label["name"],
            np.array([row["probabilities"][place] for row in rows], dtype=np.float64),
            np.array([label["id"] in _classes(row) for row in rows]),
        )
        for place, label in shown[:MOST]
    ]


def _classes(row: Mapping[str, Any]) -> Collection[str]:
    """The ids of what an image is labelled as."""
    labelled: Collection[str] = row["labels"] if "labels" in row else (row["label"],)
    return labelled


def curve(name: str, probabilities: Floats, truth: Flags) -> Curve:
    """From probabilities (n,) of a class and whether the images have it (n,)."""
    order = np.argsort(-probabilities, kind="stable")
    hits = np.cumsum(truth[order])
    answered = np.arange(1, len(order) + 1)
    last = np.append(np.diff(probabilities[order]) != 0, True)  # of images with one probability
    hits, answered = hits[last], answered[last]
    return Curve(
        name,
        precision=hits / answered,
        recall=hits / truth.sum(),
        false_alarms=(answered - hits) / (~truth).sum(),
    )


def thinned(found: Sequence[Curve], points: int = 200) -> list[Curve]:
    """With no more points than can be seen: a page of 10,000 test images stays small."""
    told = []
    for one in found:
        keep = np.unique(np.linspace(0, len(one.recall) - 1, points).astype(int))
        told.append(Curve(one.name, one.precision[keep], one.recall[keep], one.false_alarms[keep]))
    return told

"""What each class's precision, recall and false alarms would be at every threshold, on test."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from visionloop_training.metrics import Flags, Floats, Integers

MOST = 8  # classes of one plot; with more no line can be told from another
POINTS = 200  # of a curve in report.json; more cannot be seen
_MEASURES = ("precision", "recall", "false_alarms")


@dataclass(frozen=True, slots=True)
class Curve:
    """One class against the rest, by falling thresholds; all (thresholds,)."""

    class_id: str
    precision: Floats
    recall: Floats
    false_alarms: Floats  # share of the other images that are answered as the class

    def thinned(self, points: int = POINTS) -> "Curve":
        """With no more points than these, the ends among them."""
        keep = np.unique(np.linspace(0, len(self.recall) - 1, points).astype(int))
        return Curve(
            self.class_id, self.precision[keep], self.recall[keep], self.false_alarms[keep]
        )

    def as_json(self) -> dict[str, Any]:
        """Plain lists."""
        numbers = {name: np.round(getattr(self, name), 6).tolist() for name in _MEASURES}
        return {"class_id": self.class_id, **numbers}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "Curve":
        """What `as_json` gave."""
        return cls(plain["class_id"], *(np.array(plain[name]) for name in _MEASURES))


def curves(class_ids: Sequence[str], probabilities: Floats, truth: Integers | Flags) -> list[Curve]:
    """Of the classes with the most test images; a class that all images have, or none, has none.

    Probabilities are (n, classes); `truth` is (n,) places of one class an image, or (n, classes)
    which classes it has.
    """
    single = truth.ndim == 1
    images = np.bincount(truth, minlength=len(class_ids)) if single else truth.sum(axis=0)
    shown = [place for place, count in enumerate(images) if 0 < count < len(truth)]
    shown.sort(key=lambda place: -images[place])
    return [
        curve(
            class_ids[place],
            probabilities[:, place].astype(np.float64),
            truth == place if single else truth[:, place].astype(bool),
        ).thinned()
        for place in shown[:MOST]
    ]


def curve(class_id: str, probabilities: Floats, truth: Flags) -> Curve:
    """From probabilities (n,) of a class and whether the images have it (n,)."""
    order = np.argsort(-probabilities, kind="stable")
    hits = np.cumsum(truth[order])
    answered = np.arange(1, len(order) + 1)
    last = np.append(np.diff(probabilities[order]) != 0, True)  # of images with one probability
    hits, answered = hits[last], answered[last]
    return Curve(
        class_id,
        precision=hits / answered,
        recall=hits / truth.sum(),
        false_alarms=(answered - hits) / (~truth).sum(),
    )

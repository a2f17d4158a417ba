"""Scoring a model.onnx as it will serve: encoded bytes in, onnxruntime, decisions out.

Nothing of torch takes part, so the numbers belong to the file that is published. Predictions are
kept per image: the gate pairs them, people look at the mistakes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from visionloop.preprocessing import Preprocessing
from visionloop.telemetry import progress
from visionloop_training import metrics
from visionloop_training.data import Blobs, Item
from visionloop_training.export import Session
from visionloop_training.metrics import Floats, Integers

_BATCH = 32
_SMALLEST_SLICE = 10


@dataclass(frozen=True, slots=True)
class Scored:
    """A model's calibrated answers to a list of labelled images."""

    items: tuple[Item, ...]
    probabilities: Floats  # (n, classes)

    @property
    def labels(self) -> Integers:
        """(n,) true classes."""
        return np.array([item.label for item in self.items], dtype=np.int64)

    @property
    def right(self) -> "np.typing.NDArray[np.bool_]":
        """(n,) whether the top answer is the label."""
        hits: np.typing.NDArray[np.bool_] = self.probabilities.argmax(axis=1) == self.labels
        return hits

    def among(self, keep: Sequence[bool]) -> "Scored":
        """The part whose places are true in `keep`."""
        chosen = tuple(i for i, wanted in zip(self.items, keep, strict=True) if wanted)
        return Scored(chosen, self.probabilities[np.array(keep, dtype=bool)])


def score(
    session: Session,
    blobs: Blobs,
    preprocessing: Preprocessing,
    items: Sequence[Item],
    output: str = "probabilities",
) -> Scored:
    """Runs the graph on the items' encoded images, `_BATCH` at a time; `output` is its name for
    the calibrated probabilities."""
    parts: list[Floats] = []
    starts = range(0, len(items), _BATCH)
    for start in progress(starts, description="evaluate", unit="batches"):
        shas = [item.sha256 for item in items[start : start + _BATCH]]
        images = np.stack(blobs.prepared(shas, preprocessing))
        parts.append(session(images)[output])
    return Scored(tuple(items), np.concatenate(parts))


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a test split says about a model."""

    images: int
    accuracy: metrics.Interval
    balanced_accuracy: float
    macro_precision: float
    macro_recall: float
    macro_f1: float
    ece: float
    log_loss: float
    majority_share: float  # what always answering the commonest class would score
    classes: dict[str, metrics.ClassScores]
    confusion: list[list[int]]
    slices: dict[str, dict[str, metrics.Interval]]  # attribute → value → accuracy
    reliability: list[metrics.ReliabilityBin]

    def as_json(self) -> dict[str, Any]:
        """Plain dicts and lists."""
        return asdict(self)


def evaluate(scored: Scored, class_ids: Sequence[str]) -> Evaluation:
    """All the numbers of one scored split."""
    labels, probabilities = scored.labels, scored.probabilities
    matrix = metrics.confusion(labels, probabilities.argmax(axis=1), len(class_ids))
    classes = metrics.per_class(matrix)
    recall = metrics.macro(classes, "recall")
    return Evaluation(
        images=len(labels),
        accuracy=metrics.share(int(scored.right.sum()), len(labels)),
        balanced_accuracy=recall,
        macro_precision=metrics.macro(classes, "precision"),
        macro_recall=recall,
        macro_f1=metrics.macro(classes, "f1"),
        ece=metrics.expected_calibration_error(probabilities, labels),
        log_loss=metrics.log_loss(np.log(np.clip(probabilities, 1e-12, 1.0)), labels),
        majority_share=float(matrix.sum(axis=1).max() / max(1, len(labels))),
        classes=dict(zip(class_ids, classes, strict=True)),
        confusion=matrix.tolist(),
        slices=_slices(scored),
        reliability=metrics.reliability(probabilities, labels),
    )


def _slices(scored: Scored) -> dict[str, dict[str, metrics.Interval]]:
    """Accuracy by attribute value; values with few images are left out, they would only mislead."""
    found: dict[str, dict[str, metrics.Interval]] = {}
    for name, value in sorted({pair for item in scored.items for pair in item.attributes}):
        inside = [(name, value) in item.attributes for item in scored.items]
        if sum(inside) >= _SMALLEST_SLICE:
            part = scored.among(inside).right
            found.setdefault(name, {})[value] = metrics.share(int(part.sum()), len(part))
    return found


def predictions(scored: Scored, class_ids: Sequence[str]) -> Iterator[dict[str, object]]:
    """One record per image: digest, label, answer and probabilities in class order."""
    for item, row in zip(scored.items, scored.probabilities, strict=True):
        yield {
            "sha256": item.sha256,
            "label": class_ids[item.label],
            "predicted": class_ids[int(row.argmax())],
            "probabilities": [round(float(p), 6) for p in row],
        }

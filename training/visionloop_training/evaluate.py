"""Scoring a model.onnx as it will serve: encoded bytes in, onnxruntime, decisions out.

Nothing of torch takes part, so the numbers belong to the file that is published. Predictions are
kept per image: the gate pairs them, people look at the mistakes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse

from visionloop.preprocessing import Preprocessing
from visionloop.telemetry import progress
from visionloop_training import intervals, metrics
from visionloop_training.auroc import auroc
from visionloop_training.data import BATCH, Blobs, Item
from visionloop_training.export import Session
from visionloop_training.familiarity import OUTPUT
from visionloop_training.intervals import Interval
from visionloop_training.metrics import Flags, Floats, Integers
from visionloop_training.significance import group_numbers
from visionloop_training.slices import Slice, by_slice


@dataclass(frozen=True)
class Scored:
    """A model's calibrated answers to a list of labelled images."""

    items: tuple[Item, ...]
    probabilities: Floats  # (n, classes)
    distances: Floats | None = None  # (n,), from train images; None where the graph gives none

    @cached_property
    def labels(self) -> Integers:
        """(n,) true classes."""
        return np.array([item.label for item in self.items], dtype=np.int64)

    @cached_property
    def groups(self) -> Integers:
        """(n,) equal numbers for near-duplicates."""
        return group_numbers([item.group for item in self.items])

    @cached_property
    def right(self) -> Flags:
        """(n,) whether the top answer is the label."""
        hits: Flags = self.probabilities.argmax(axis=1) == self.labels
        return hits

    def among(self, keep: Sequence[bool]) -> "Scored":
        """The part whose places are true in `keep`."""
        chosen = tuple(i for i, wanted in zip(self.items, keep, strict=True) if wanted)
        flags = np.array(keep, dtype=bool)
        distances = None if self.distances is None else self.distances[flags]
        return Scored(chosen, self.probabilities[flags], distances)


def score(
    session: Session,
    blobs: Blobs,
    preprocessing: Preprocessing,
    items: Sequence[Item],
    output: str = "probabilities",
) -> Scored:
    """Runs the graph on the items' encoded images, a batch at a time; `output` is its name for
    the calibrated probabilities."""
    parts: list[Floats] = []
    distances: list[Floats] = []
    batches = blobs.batches([item.sha256 for item in items], preprocessing)
    total = -(-len(items) // BATCH)
    for images in progress(batches, description="evaluate", unit="batches", total=total):
        outputs = session(images)
        parts.append(outputs[output])
        if OUTPUT in outputs:
            distances.append(outputs[OUTPUT][:, 0])
    return Scored(
        tuple(items), np.concatenate(parts), np.concatenate(distances) if distances else None
    )


@dataclass(frozen=True, slots=True)
class ClassScores:
    """One class against the rest, with intervals; 0 where there is nothing to divide by."""

    precision: Interval
    recall: Interval
    f1: Interval
    auroc: Interval | None  # None where all images are of the class, or none
    support: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a test split says about a model. How intervals are made: `visionloop_training.intervals`
    and `auroc`."""

    images: int
    accuracy: Interval
    balanced_accuracy: Interval
    macro_precision: Interval
    macro_recall: Interval
    macro_f1: Interval
    macro_auroc: Interval | None
    ece: Interval
    log_loss: float
    majority_share: float  # what always answering the commonest class would score
    classes: dict[str, ClassScores]
    confusion: list[list[int]]
    slices: dict[str, dict[str, Slice]]  # attribute → value → accuracy and gap
    reliability: list[metrics.ReliabilityBin]

    def as_json(self) -> dict[str, Any]:
        """Plain dicts and lists."""
        return asdict(self)


def evaluate(scored: Scored, class_ids: Sequence[str]) -> Evaluation:
    """All the numbers of one scored split."""
    labels, probabilities, groups = scored.labels, scored.probabilities, scored.groups
    predicted = probabilities.argmax(axis=1)
    matrix = metrics.confusion(labels, predicted, len(class_ids))
    macro_auroc, auroc_by_class = auroc(probabilities, labels, groups)
    classes: list[ClassScores] = []
    for index, area in enumerate(auroc_by_class):
        labelled, answered = labels == index, predicted == index
        either = labelled | answered
        classes.append(
            ClassScores(
                precision=intervals.grouped_share(labelled[answered], groups[answered]),
                recall=intervals.grouped_share(answered[labelled], groups[labelled]),
                f1=intervals.f1((labelled & answered)[either], groups[either]),
                auroc=area,
                support=int(labelled.sum()),
            )
        )
    present = [scores for scores in classes if scores.support]
    recall = intervals.mean([scores.recall for scores in present])
    macro_f1, ece = _bootstrapped(scored, predicted, len(class_ids))
    return Evaluation(
        images=len(labels),
        accuracy=intervals.grouped_share(scored.right, groups),
        balanced_accuracy=recall,
        macro_precision=intervals.mean([scores.precision for scores in present]),
        macro_recall=recall,
        macro_f1=intervals.wider(macro_f1, intervals.mean([scores.f1 for scores in present])),
        macro_auroc=macro_auroc,
        ece=ece,
        log_loss=metrics.log_loss(np.log(np.clip(probabilities, 1e-12, 1.0)), labels),
        majority_share=float(matrix.sum(axis=1).max() / max(1, len(labels))),
        classes=dict(zip(class_ids, classes, strict=True)),
        confusion=matrix.tolist(),
        slices=by_slice(scored.right, groups, [item.attributes for item in scored.items]),
        reliability=metrics.reliability(probabilities, labels),
    )


def _bootstrapped(scored: Scored, predicted: Integers, classes: int) -> tuple[Interval, Interval]:
    """(macro F1, ECE). Both are functions of sums over images, so one matrix product makes all
    draws of them: three counts for each class, two sums for each reliability bin."""
    labels, n = scored.labels, len(scored.labels)
    best = scored.probabilities.max(axis=1).astype(np.float64)
    right = predicted == labels
    rows, bins = np.arange(n), metrics.bin_of(best)

    def one_hot(columns: Integers, values: Floats, width: int) -> "sparse.csr_array":
        return sparse.csr_array((values, (rows, columns)), shape=(n, width))

    ones, hit = np.ones(n), right.astype(np.float64)
    columns = sparse.hstack(
        [
            one_hot(labels, ones, classes),
            one_hot(predicted, ones, classes),
            one_hot(labels, hit, classes),
            one_hot(bins, hit - best, metrics.ECE_BINS),
            one_hot(np.zeros(n, dtype=np.int64), ones, 1),
        ],
        format="csr",
    )
    sums = intervals.resampled_sums(columns, scored.groups)  # (draws, 3 classes + bins + 1)
    drawn = metrics.Counts(*np.split(sums[:, : 3 * classes], 3, axis=1))
    macro_f1_draws = drawn.macro(drawn.f1)
    ece_draws = np.abs(sums[:, 3 * classes : -1]).sum(axis=1) / sums[:, -1]
    found = metrics.counts(metrics.confusion(labels, predicted, classes))
    independent = len(np.unique(scored.groups))
    error = metrics.expected_calibration_error(scored.probabilities, labels)
    return (
        intervals.of_draws(float(found.macro(found.f1)), macro_f1_draws, n, independent),
        intervals.of_draws(error, ece_draws, n, independent),
    )


def predictions(scored: Scored, class_ids: Sequence[str]) -> Iterator[dict[str, object]]:
    """One record per image: digest, label, answer and probabilities in class order."""
    for item, row in zip(scored.items, scored.probabilities, strict=True):
        yield {
            "sha256": item.sha256,
            "source": item.source,
            "label": class_ids[item.label],
            "predicted": class_ids[int(row.argmax())],
            "probabilities": [round(float(p), 6) for p in row],
        }

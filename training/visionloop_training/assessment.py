"""A published version, scored on labelled images of anybody's choice: another line, last month.

What a training report says is of the test images of that day. This asks the same file, through its
own preprocessing and in onnxruntime, about any snapshot. Images that the version has learned from
(the very bytes, or a near-duplicate of the same dataset) are left out, so that a whole dataset may
be asked; so are images of classes that it does not know. Classes of another dataset count by name.
Nothing is published or changed.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from visionloop.bundle import ClassificationBundle, ClassifierBundle, MultiLabelBundle
from visionloop.errors import InvalidInputError
from visionloop.objectstore import ObjectStore
from visionloop.snapshot import Snapshot, SnapshotRepository, SnapshotRow
from visionloop_training import evaluate
from visionloop_training.data import SEVERAL, Blobs, Item, Task, classes_of
from visionloop_training.evaluate import Evaluation, Scored
from visionloop_training.intervals import Interval, grouped_share
from visionloop_training.metrics import Flags
from visionloop_training.multi_label import evaluate as label_evaluate
from visionloop_training.multi_label.evaluate import LabelEvaluation, ScoredLabels
from visionloop_training.stable import Version, version

Part = Literal["all", "train", "val", "test"]


@dataclass(frozen=True, slots=True)
class Chosen:
    """The images that the version is asked about, and those that it is not."""

    rows: tuple[SnapshotRow, ...]
    items: tuple[Item, ...]  # of the rows; labels are places among the version's classes
    learned: int  # images that it has learned from, or whose near-duplicates it has
    unknown: Mapping[str, int]  # name of a class that it does not have -> images left out for it


@dataclass(frozen=True, slots=True)
class Sure:
    """The answers that are given, where the others are "not sure"."""

    answered: float  # share of the images
    accuracy: Interval | None  # of the answers that are given; None where there are none


@dataclass(frozen=True, slots=True)
class Assessment:
    """What a version makes of a snapshot's images."""

    model: str
    version: int
    dataset: str
    snapshot: str
    split: Part
    evaluation: Evaluation | LabelEvaluation
    names: Mapping[str, str]  # of the version's classes, by id
    learned: int
    traced: bool  # whether it is known what the version has learned from
    unknown: Mapping[str, int]
    sure: Sure | None  # None where an image may have several classes
    own: Mapping[str, float]  # the version's numbers on its own test images
    scored: Scored | ScoredLabels
    splits: tuple[str, ...]  # that the images are in

    @property
    def predictions(self) -> list[dict[str, object]]:
        """One record an image. Made when asked for: 100,000 images and 1,000 classes are 3 GB."""
        class_ids = tuple(self.names)
        if isinstance(self.scored, ScoredLabels):
            found = label_evaluate.predictions(self.scored, class_ids)
        else:
            found = evaluate.predictions(self.scored, class_ids)
        return [{**one, "split": split} for one, split in zip(found, self.splits, strict=True)]

    def as_json(self) -> dict[str, Any]:
        """Plain dicts and lists."""
        sure = self.sure
        return {
            "model": self.model,
            "version": self.version,
            "dataset": self.dataset,
            "snapshot": self.snapshot,
            "split": self.split,
            "labels": [{"id": key, "name": name} for key, name in self.names.items()],
            "left_out": {"learned_from": self.learned, "unknown_classes": dict(self.unknown)},
            "evaluation": self.evaluation.as_json(),
            "not_sure": sure and {
                "answered": sure.answered,
                "answered_accuracy": sure.accuracy.value if sure.accuracy else None,
            },
            "own_test": dict(self.own),
            "predictions": self.predictions,
        }  # fmt: skip


def assess(
    store: ObjectStore,
    model: str,
    number: int,
    dataset: str,
    cache: Path,
    *,
    snapshot: str = "latest",
    split: Part = "all",
) -> Assessment:
    """Scores version `number` of `model` on the images of a snapshot.

    Raises NotFoundError for what is not there, RefusedError for a version that is no classifier,
    InvalidInputError where labels of another kind or no images are left to be asked about.
    """
    asked = version(store, model, number, cache)
    repository = SnapshotRepository(store)
    found = repository.read(dataset, repository.manifest(dataset, snapshot).id)
    chosen = _chosen(asked, found, split)
    answers = asked.answers(chosen.items, Blobs(store, cache / "blobs"))
    scored, evaluation, sure = _evaluated(asked, answers)
    return Assessment(
        model=model,
        version=number,
        dataset=dataset,
        snapshot=found.manifest.id,
        split=split,
        evaluation=evaluation,
        names=asked.class_names,
        learned=chosen.learned,
        traced=asked.traced,
        unknown=chosen.unknown,
        sure=sure,
        own=asked.bundle.metrics,
        scored=scored,
        splits=tuple(row.split for row in chosen.rows),
    )


def _chosen(asked: Version, snapshot: Snapshot, split: Part) -> Chosen:
    bundle, manifest = asked.bundle, snapshot.manifest
    task = _task(bundle, snapshot)
    shown = classes_of(snapshot, task)
    places = _places(bundle, snapshot)
    own = manifest.dataset == bundle.provenance.dataset
    learned = 0
    unknown: Counter[str] = Counter()
    names = {entry.id: entry.name for entry in manifest.classes}
    kept: list[tuple[SnapshotRow, Item]] = []
    for row in sorted(snapshot.rows, key=lambda row: row.sha256):
        if split not in ("all", row.split):
            continue
        if _learned(asked, row, own):
            learned += 1
            continue
        strange = [names[key] for key in shown[row.sha256] if key not in places]
        if strange:
            unknown.update(strange)
            continue
        kept.append((row, _item(row, [places[key] for key in shown[row.sha256]], task)))
    if not kept:
        raise InvalidInputError(
            f"dataset {manifest.dataset}, snapshot {manifest.id[:19]}, split {split}: no image is "
            f"left that version {bundle.version} of {bundle.model} can be asked about: it has "
            f"learned from {learned}, and {unknown.total()} show classes that it does not have; "
            "label others and make a new snapshot",
            field="snapshot",
        )
    rows, items = zip(*kept, strict=True)
    return Chosen(rows, items, learned, dict(unknown))


def _task(bundle: ClassifierBundle, snapshot: Snapshot) -> Task:
    """Of both. Raises InvalidInputError where labels of the one say nothing of the other."""
    task: Task = "multi_label" if isinstance(bundle, MultiLabelBundle) else "classification"
    manifest = snapshot.manifest
    if manifest.task != task:
        raise InvalidInputError(
            f"dataset {manifest.dataset} is one of {manifest.task} and version {bundle.version} of "
            f"{bundle.model} of {task}, so these labels cannot judge it; use a dataset of {task}",
            field="dataset",
        )
    return task


def _places(bundle: ClassifierBundle, snapshot: Snapshot) -> dict[str, int]:
    """Class id of the snapshot -> the class's place in the version's outputs.

    An id never changes in its own dataset, and means nothing in another, where names count.
    """
    classes = snapshot.manifest.classes
    if snapshot.manifest.dataset == bundle.provenance.dataset:
        ids = {label.id: place for place, label in enumerate(bundle.labels)}
        return {entry.id: ids[entry.id] for entry in classes if entry.id in ids}
    by_name = {label.name: place for place, label in enumerate(bundle.labels)}
    return {entry.id: by_name[entry.name] for entry in classes if entry.name in by_name}


def _learned(asked: Version, row: SnapshotRow, own: bool) -> bool:
    """Another dataset names groups in its own way, so only the bytes tell there."""
    return row.sha256 in asked.seen or (own and row.group_id in asked.seen)


def _item(row: SnapshotRow, places: list[int], task: Task) -> Item:
    several = task == "multi_label"
    return Item(
        sha256=row.sha256,
        label=SEVERAL if several else places[0],
        group=row.group_id,
        attributes=tuple(sorted(row.attributes.items())),
        weight=row.weight,
        labels=tuple(sorted(places)) if several else (),
        source=row.source,
    )


def _evaluated(
    asked: Version, scored: Scored
) -> tuple[Scored | ScoredLabels, Evaluation | LabelEvaluation, Sure | None]:
    bundle, class_ids = asked.bundle, asked.class_ids
    if isinstance(bundle, MultiLabelBundle):
        labels = ScoredLabels.of(scored, bundle.thresholds.present)
        return labels, label_evaluate.evaluate(labels, class_ids), None
    sure = _sure(bundle, scored) if isinstance(bundle, ClassificationBundle) else None
    return scored, evaluate.evaluate(scored, class_ids), sure


def _sure(bundle: ClassificationBundle, scored: Scored) -> Sure:
    thresholds = bundle.thresholds
    given: Flags = scored.probabilities.max(axis=1) >= thresholds.not_sure
    if thresholds.distance is not None and scored.distances is not None:
        given &= scored.distances <= thresholds.distance
    if not given.any():
        return Sure(0.0, None)
    return Sure(float(given.mean()), grouped_share(scored.right[given], scored.groups[given]))

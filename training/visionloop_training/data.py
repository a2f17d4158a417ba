"""A snapshot's images as training reads them: items with class indices, pixels by digest.

The dataset's task says whether an image has one class or any number of them, none included; a
snapshot that says both is refused.

Blobs come through the node's image cache, verified against their digest; decoding and
resizing are `visionloop.images` and the bundle's own `Preprocessing`, so training sees what the
service will see. Everything that makes a snapshot untrainable is found before any work is done.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from visionloop import images
from visionloop.errors import CorruptError, ImageError, InvalidInputError
from visionloop.image_cache import ImageCache
from visionloop.objectstore import ObjectStore
from visionloop.preprocessing import Preprocessing
from visionloop.snapshot import SPLITS, Snapshot, SnapshotRow

Pixels = NDArray[np.uint8]  # (height, width, 3) RGB
Task = Literal["classification", "multi_label"]
SEVERAL = -1  # the `label` of an item that may have any number of classes
BATCH = 32  # images that a graph is asked about at once


@dataclass(frozen=True, slots=True)
class Item:
    """One labelled image."""

    sha256: str
    label: int  # place in `Dataset.class_ids`; SEVERAL: see `labels`
    group: str
    attributes: tuple[tuple[str, str], ...]
    weight: float
    labels: tuple[int, ...] = ()  # places, ascending, of an item that may have any number of them
    source: str = ""  # where it comes from, for people: a file's name
    # A soft label: (place, probability) of the classes it may have; empty: `label` for certain.
    probabilities: tuple[tuple[int, float], ...] = ()

    @property
    def classes(self) -> tuple[int, ...]:
        """The places of all its classes."""
        return self.labels if self.label == SEVERAL else (self.label,)


@dataclass(frozen=True, slots=True)
class Dataset:
    """A snapshot, checked and split."""

    name: str
    snapshot: str
    class_ids: tuple[str, ...]
    class_names: tuple[str, ...]
    train: tuple[Item, ...]
    val: tuple[Item, ...]
    test: tuple[Item, ...]
    # Names of classes without a train image, with the splits that their images are in: nothing can
    # be learned of them. Images of such a class alone are in none of the three; where an image may
    # have several classes, it stays with the others.
    left_out: dict[str, tuple[str, ...]] = field(default_factory=dict)
    task: Task = "classification"

    @property
    def learned_groups(self) -> frozenset[str]:
        """The groups that a model of this data has learned from, in train or val."""
        return frozenset(item.group for item in (*self.train, *self.val))


def dataset(snapshot: Snapshot) -> Dataset:
    """The snapshot's items by split. Raises InvalidInputError when nothing can be learned."""
    manifest, task = snapshot.manifest, _task_of(snapshot)
    shown = classes_of(snapshot, task)
    used = {class_id for class_ids in shown.values() for class_id in class_ids}
    learned = {class_id for row in snapshot.split("train") for class_id in shown[row.sha256]}
    # A class that nobody has labelled yet is no mistake; there is only nothing to learn of it. Nor
    # is one whose only images came into val or test: it must not keep the others from training.
    classes = [entry for entry in manifest.classes if entry.id in learned]
    places = {entry.id: place for place, entry in enumerate(classes)}
    parts = {split: _items(snapshot, split, shown, places, task) for split in SPLITS}
    _check(manifest.dataset, manifest.id, sorted(used), parts)
    return Dataset(
        name=manifest.dataset,
        snapshot=manifest.id,
        class_ids=tuple(places),
        class_names=tuple(entry.name for entry in classes),
        train=parts["train"],
        val=parts["val"],
        test=parts["test"],
        left_out=_left_out(snapshot, shown, used - learned),
        task=task,
    )


def _task_of(snapshot: Snapshot) -> Task:
    task = snapshot.manifest.task
    if task == "detection":
        raise InvalidInputError(
            f"dataset {snapshot.manifest.dataset} is one of {task}; this program trains "
            "classifiers, of images with one class each (classification) or with any number "
            "(multi_label)",
            field="snapshot",
        )
    return task


def _items(
    snapshot: Snapshot,
    split: str,
    shown: Mapping[str, tuple[str, ...]],
    places: Mapping[str, int],
    task: Task,
) -> tuple[Item, ...]:
    """The items of a split, by digest. `shown`: class ids by digest; `places`: those learned.

    An image of one class that is not learned is left out.
    """
    several = task == "multi_label"
    items: list[Item] = []
    for row in sorted(snapshot.split(split), key=lambda row: row.sha256):
        classes = sorted(places[name] for name in shown[row.sha256] if name in places)
        if not classes and not several:
            continue
        items.append(
            Item(
                sha256=row.sha256,
                label=SEVERAL if several else classes[0],
                group=row.group_id,
                attributes=tuple(sorted(row.attributes.items())),
                weight=row.weight,
                labels=tuple(classes) if several else (),
                source=row.source,
                probabilities=_probabilities(row, places),
            )
        )
    return tuple(items)


def _probabilities(row: SnapshotRow, places: Mapping[str, int]) -> tuple[tuple[int, float], ...]:
    """The row's soft label among the classes that are learned."""
    known = {places[name]: share for name, share in row.probabilities.items() if name in places}
    total = sum(known.values())
    return tuple((place, share / total) for place, share in sorted(known.items()))


def _left_out(
    snapshot: Snapshot, shown: Mapping[str, tuple[str, ...]], class_ids: Collection[str]
) -> dict[str, tuple[str, ...]]:
    """The splits that these classes have images in, by the classes' names."""
    return {
        entry.name: tuple(
            split
            for split in SPLITS
            if any(entry.id in shown[row.sha256] for row in snapshot.split(split))
        )
        for entry in snapshot.manifest.classes
        if entry.id in class_ids
    }


def classes_of(snapshot: Snapshot, task: Task) -> dict[str, tuple[str, ...]]:
    """The class ids of each image, by its sha256. Raises InvalidInputError for mixed kinds."""
    manifest = snapshot.manifest
    where = f"dataset {manifest.dataset}, snapshot {manifest.id[:19]}"
    if task == "multi_label":
        single = sum(row.class_id is not None for row in snapshot.rows)
        if single:
            raise InvalidInputError(
                f"{where}: its task is multi_label, and {single} of {len(snapshot.rows)} images "
                "are labelled as having one class: what else they show is not known. Make a "
                "snapshot of one kind of label",
                field="snapshot",
            )
        return {row.sha256: row.labels for row in snapshot.rows}
    mixed = sum(bool(row.labels) for row in snapshot.rows)
    if mixed:
        raise InvalidInputError(
            f"{where}: its task is classification, and {mixed} of {len(snapshot.rows)} images have "
            "labels of several classes; make a dataset of the task multi_label of them",
            field="snapshot",
        )
    found = {row.sha256: (row.class_id,) for row in snapshot.rows if row.class_id is not None}
    if len(found) < len(snapshot.rows):
        raise InvalidInputError(
            f"{where}: {len(snapshot.rows) - len(found)} images have no class", field="snapshot"
        )
    return dict(found)


def _check(
    name: str, snapshot: str, labelled: Sequence[str], parts: dict[str, tuple[Item, ...]]
) -> None:
    """`labelled` are all classes that have images in any split."""
    where = f"dataset {name}, snapshot {snapshot[:19]}"
    if len(labelled) < 2:
        only = f"only {labelled[0]!r}" if labelled else "none at all"
        raise InvalidInputError(
            f"{where}: labelled classes: {only}; a classifier needs at least 2. "
            "Label images of another class and make a new snapshot",
            field="snapshot",
        )
    for split, items in parts.items():
        if not items:
            raise InvalidInputError(
                f"{where}: no image in {split}; label more images (splits are drawn by group, so "
                "a small dataset can leave one empty) and make a new snapshot",
                field="snapshot",
            )
    if len(parts["train"]) < len(labelled):
        raise InvalidInputError(
            f"{where}: {len(parts['train'])} train images for {len(labelled)} classes; "
            "label at least a few images of every class",
            field="snapshot",
        )
    kinds = {item.classes for item in parts["train"]}
    learned = {place for classes in kinds for place in classes}
    if len(kinds) < 2 or len(learned) < 2:
        same = "the same classes" if len(learned) > 1 else "one class"
        if len(kinds) > len(learned):
            same += " or none"
        raise InvalidInputError(
            f"{where}: all train images are of {same}, {len(labelled)} are labelled "
            f"({', '.join(map(repr, labelled[:5]))}); label more images of the others",
            field="snapshot",
        )


class Blobs:
    """Encoded images by digest, kept in a folder. Safe to use from several threads."""

    def __init__(self, store: ObjectStore, folder: Path) -> None:
        self._cache = ImageCache(store, folder)

    def read(self, sha256: str) -> bytes:
        """The encoded bytes. Raises NotFoundError or CorruptError naming the image."""
        return self._cache.read(sha256)

    def decoded(self, sha256: str) -> Pixels:
        """The oriented RGB image of its own size. Raises CorruptError where it does not decode."""
        with _undecodable_named(sha256):
            return images.decode(self.read(sha256))

    def prepared(self, shas: Iterable[str], preprocessing: Preprocessing) -> list[Pixels]:
        """Decoded and preprocessed images, in order; decoding runs in threads.

        Raises CorruptError where one does not decode.
        """

        def one(sha256: str) -> Pixels:
            with _undecodable_named(sha256):
                return preprocessing.of_file(self.read(sha256))[1]

        with ThreadPoolExecutor() as threads:
            return list(threads.map(one, shas))

    def batches(
        self, shas: Sequence[str], preprocessing: Preprocessing
    ) -> Iterator[NDArray[np.uint8]]:
        """As `prepared`, (BATCH or fewer, height, width, 3) at a time, for a graph."""
        for start in range(0, len(shas), BATCH):
            yield np.stack(self.prepared(shas[start : start + BATCH], preprocessing))


@contextmanager
def _undecodable_named(sha256: str) -> Iterator[None]:
    try:
        yield
    except ImageError as error:
        raise CorruptError(
            f"image {sha256} cannot be decoded ({error}); make a snapshot without it"
        ) from error

"""The two kinds of training that are timed, each on real photographs in a store of its own."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from visionloop.demo import solar_cells
from visionloop.objectstore import ObjectStore, open_store
from visionloop.snapshot import SnapshotClass, SnapshotRepository, SnapshotRow, blob_key
from visionloop_training.config import TrainingConfig, load
from visionloop_training.data import Dataset, dataset

DATASET = "cells"


@dataclass(frozen=True, slots=True)
class Case:
    """A name, what it is, and its configuration."""

    name: str
    what: str
    preset: str
    settings: tuple[str, ...]

    def config(self, epochs: int) -> TrainingConfig:
        """For so many epochs."""
        return load(self.preset, overrides=(*self.settings, f"fit.epochs={epochs}"))


CASES = (
    Case(
        "demo",
        "efficientnet-lite0 at 224 px, frozen up to blocks.4: activations from the cache",
        "demo",
        (),
    ),
    Case(
        "pixels",
        "efficientnet-lite0 at 128 px, all of it trained: pixels from the cache, augmented anew "
        "for each epoch",
        "balanced",
        ("pixels.image_size=128", "fit.freeze=0"),
    ),
)


def write_store(folder: Path, images: int) -> ObjectStore:
    """A file store with a snapshot of the first `images` solar cells, a fifth of them in val."""
    store = open_store((folder / "store").as_uri())
    rows: dict[str, SnapshotRow] = {}
    for place, cell in enumerate(solar_cells.load()[:images]):
        data = cell.path.read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        store.put(blob_key(sha256), data)
        rows[sha256] = SnapshotRow(
            sha256=sha256,
            width=300,
            height=300,
            split=("train", "train", "train", "val", "test")[place % 5],
            group_id=sha256[:16],
            class_id=cell.label,
            label_source="import",
        )
    _write_snapshot(store, list(rows.values()))
    return store


def _write_snapshot(store: ObjectStore, rows: Sequence[SnapshotRow]) -> None:
    classes = [SnapshotClass(id=name, name=name) for name in solar_cells.CLASSES]
    SnapshotRepository(store).write(
        DATASET, rows, classes, {}, label_sequence=len(rows), parent=None
    )


def read(store: ObjectStore) -> Dataset:
    """As training reads it."""
    return dataset(SnapshotRepository(store).read(DATASET, "latest"))

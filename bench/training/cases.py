"""The kinds of training that are timed, each on real photographs in a store of its own."""

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

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
    images: int = 0  # pictures of its own; 0: so many solar cells as are asked for

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


# On a GPU the network is the one that everybody knows the speed of.
GPU_CASE = Case(
    "resnet50",
    "ResNet-50 at 224 px, all of it trained in bfloat16, channels last, batches of 256; pixels "
    "from the cache, augmented anew for each epoch",
    "best",
    (
        "backbone.name=resnet50",
        "backbone.weights=none",
        "pixels.image_size=224",
        "fit.batch_size=256",
        "fit.learning_rate=1e-3",
    ),
    images=6_400,
)


def solar(images: int) -> Iterator[tuple[str, bytes]]:
    """The first so many solar cells."""
    for cell in solar_cells.load()[:images]:
        yield cell.label, cell.path.read_bytes()


def crops(images: int) -> Iterator[tuple[str, bytes]]:
    """So many pieces of the two photographs that scikit-learn ships, 300 x 300, as JPEG files."""
    photographs = load_sample_images().images
    random = np.random.default_rng(0)
    for number in range(images):
        photograph = photographs[number % 2]
        top, left = (int(random.integers(0, size - 300)) for size in photograph.shape[:2])
        output = io.BytesIO()
        piece = Image.fromarray(photograph[top : top + 300, left : left + 300])
        piece.save(output, "JPEG", quality=85)
        yield solar_cells.CLASSES[number % 2], output.getvalue()


def write_store(folder: Path, pictures: Iterable[tuple[str, bytes]]) -> ObjectStore:
    """A file store with a snapshot of the pictures, a fifth of them in val."""
    store = open_store((folder / "store").as_uri())
    rows: dict[str, SnapshotRow] = {}
    for place, (label, data) in enumerate(pictures):
        sha256 = hashlib.sha256(data).hexdigest()
        store.put(blob_key(sha256), data)
        rows[sha256] = SnapshotRow(
            sha256=sha256,
            width=300,
            height=300,
            split=("train", "train", "train", "val", "test")[place % 5],
            group_id=sha256[:16],
            class_id=label,
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

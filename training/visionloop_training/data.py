"""A snapshot's images as training reads them: items with a class index, pixels by digest.

Blobs come through the node's image cache, verified against their digest; decoding and
resizing are `visionloop.images` and the bundle's own `Preprocessing`, so training sees what the
service will see. Everything that makes a snapshot untrainable is found before any work is done.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from visionloop import images
from visionloop.errors import CorruptError, ImageError, InvalidInputError
from visionloop.image_cache import ImageCache
from visionloop.objectstore import ObjectStore
from visionloop.preprocessing import Preprocessing
from visionloop.snapshot import SPLITS, Snapshot

Pixels = NDArray[np.uint8]  # (height, width, 3) RGB


@dataclass(frozen=True, slots=True)
class Item:
    """One labelled image."""

    sha256: str
    label: int  # place in `Dataset.class_ids`
    group: str
    attributes: tuple[tuple[str, str], ...]
    weight: float


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
    # Classes without a train image, with the splits that their images are in: nothing can be
    # learned of them, so those images are in none of the three.
    left_out: dict[str, tuple[str, ...]] = field(default_factory=dict)


def dataset(snapshot: Snapshot) -> Dataset:
    """The snapshot's items by split. Raises InvalidInputError when nothing can be learned."""
    manifest = snapshot.manifest
    if manifest.task != "classification":
        raise InvalidInputError(
            f"dataset {manifest.dataset} is one of {manifest.task}; this program trains "
            "classifiers, of images with one class each",
            field="snapshot",
        )
    class_of = {row.sha256: row.class_id for row in snapshot.rows if row.class_id is not None}
    if len(class_of) < len(snapshot.rows):
        raise InvalidInputError(
            f"dataset {manifest.dataset}, snapshot {manifest.id[:19]}: "
            f"{len(snapshot.rows) - len(class_of)} images have no class",
            field="snapshot",
        )
    used = set(class_of.values())
    learned = {class_of[row.sha256] for row in snapshot.split("train")}
    # A class that nobody has labelled yet is no mistake; there is only nothing to learn of it. Nor
    # is one whose only images came into val or test: it must not keep the others from training.
    classes = [entry for entry in manifest.classes if entry.id in learned]
    ids = tuple(entry.id for entry in classes)
    place = {class_id: index for index, class_id in enumerate(ids)}
    parts: dict[str, tuple[Item, ...]] = {}
    for split in SPLITS:
        parts[split] = tuple(
            Item(
                sha256=row.sha256,
                label=place[class_of[row.sha256]],
                group=row.group_id,
                attributes=tuple(sorted(row.attributes.items())),
                weight=row.weight,
            )
            for row in sorted(snapshot.split(split), key=lambda row: row.sha256)
            if class_of[row.sha256] in learned
        )
    _check(manifest.dataset, manifest.id, sorted(used), parts)
    return Dataset(
        name=manifest.dataset,
        snapshot=manifest.id,
        class_ids=ids,
        class_names=tuple(entry.name for entry in classes),
        train=parts["train"],
        val=parts["val"],
        test=parts["test"],
        left_out={
            name: tuple(
                split
                for split in SPLITS
                if any(class_of[row.sha256] == name for row in snapshot.split(split))
            )
            for name in sorted(used - learned)
        },
    )


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
    learned = {item.label for item in parts["train"]}
    if len(learned) < 2:
        raise InvalidInputError(
            f"{where}: all train images are of one class, {len(labelled)} are labelled "
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
        try:
            return images.decode(self.read(sha256))
        except ImageError as error:
            raise CorruptError(
                f"image {sha256} cannot be decoded ({error}); make a snapshot without it"
            ) from error

    def prepared(self, shas: Iterable[str], preprocessing: Preprocessing) -> list[Pixels]:
        """Decoded and preprocessed images, in order; decoding runs in threads."""
        with ThreadPoolExecutor() as threads:
            return list(threads.map(lambda sha: preprocessing(self.decoded(sha)), shas))

"""Real handwritten digits (scikit-learn's 1,797) as a labelled dataset in a store: small and quick.

    snapshot = write_digits(store, "digits", per_class={"0": 40, "1": 40})

Images are 32 x 32 PNGs made from the 8 x 8 scans. The splits are sticky: the n-th image of a class
is always in the same split, so a larger snapshot extends a smaller one.
"""

import hashlib
import io
from collections.abc import Mapping
from functools import cache

import numpy as np
import sklearn.datasets
from PIL import Image

from visionloop.errors import ConflictError
from visionloop.objectstore import ObjectStore
from visionloop.snapshot import (
    SnapshotClass,
    SnapshotManifest,
    SnapshotRepository,
    SnapshotRow,
    blob_key,
)

SIDE = 32
_SPLITS = ("train", "train", "train", "val", "test")


@cache
def pictures(digit: int) -> tuple[bytes, ...]:
    """Encoded images of a digit, distinct, in the order of the data set."""
    digits = sklearn.datasets.load_digits()
    found: dict[bytes, None] = {}
    for scan in digits.images[digits.target == digit]:
        pixels = np.rint(scan * (255 / 16)).astype(np.uint8)
        image = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        output = io.BytesIO()
        image.save(output, "PNG")
        found[output.getvalue()] = None
    return tuple(found)


def rows(
    per_class: Mapping[str, int], splits: tuple[str, ...] = _SPLITS
) -> tuple[list[SnapshotRow], dict[str, bytes]]:
    """Snapshot rows and their blobs by digest; keys of `per_class` are digits."""
    made: list[SnapshotRow] = []
    blobs: dict[str, bytes] = {}
    for name, count in per_class.items():
        for place, data in enumerate(pictures(int(name))[:count]):
            sha256 = hashlib.sha256(data).hexdigest()
            blobs[sha256] = data
            made.append(
                SnapshotRow(
                    sha256=sha256,
                    width=SIDE,
                    height=SIDE,
                    split=splits[place % len(splits)],
                    group_id=f"group-{name}-{place}",
                    class_id=name,
                    attributes={"half": "first" if place % 2 else "second"},
                    label_source="import",
                )
            )
    return made, blobs


def write_digits(
    store: ObjectStore,
    dataset: str,
    per_class: Mapping[str, int],
    splits: tuple[str, ...] = _SPLITS,
) -> SnapshotManifest:
    """Writes blobs and a snapshot that becomes the latest."""
    made, blobs = rows(per_class, splits)
    return _write(store, dataset, made, blobs, tuple(per_class), splits)


def write_swapped(
    store: ObjectStore,
    dataset: str,
    per_class: Mapping[str, int],
    shown: Mapping[str, str],
    each: int,
) -> SnapshotManifest:
    """`write_digits`, and `each` more images of a class that show the digit `shown[class]`."""
    made, blobs = rows(per_class)
    for name, digit in shown.items():
        others, pixels = rows({digit: each})
        blobs.update(pixels)
        made += [
            row.model_copy(update={"class_id": name, "group_id": f"swapped-{row.group_id}"})
            for row in others
        ]
    return _write(store, dataset, made, blobs, tuple(per_class), _SPLITS)


def _write(
    store: ObjectStore,
    dataset: str,
    made: list[SnapshotRow],
    blobs: Mapping[str, bytes],
    names: tuple[str, ...],
    splits: tuple[str, ...],
) -> SnapshotManifest:
    for sha256, data in blobs.items():
        try:
            store.put_if_absent(blob_key(sha256), data)
        except ConflictError:
            pass
    classes = [SnapshotClass(id=name, name=f"Digit {name}") for name in names]
    manifest, _ = SnapshotRepository(store).write(
        dataset, made, classes, {"splits": list(splits)}, label_sequence=len(made), parent=None
    )
    return manifest

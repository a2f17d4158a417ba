"""Drawn images with any of three things on them, each drawn by a coin of its own: multi-label data.

    manifest = write_shapes(store, "shapes", 200)

A red disc, a green square, a blue bar, in any place on a noisy ground, 64 x 64 pixels. The n-th
image is always the same, in the same split, so a larger snapshot extends a smaller one.
"""

import hashlib
import io

import numpy as np
from PIL import Image, ImageDraw

from visionloop.errors import ConflictError
from visionloop.objectstore import ObjectStore
from visionloop.snapshot import (
    About,
    SnapshotClass,
    SnapshotManifest,
    SnapshotRepository,
    SnapshotRow,
    blob_key,
    spooled,
)

SIDE = 64
CLASSES = ("disc", "square", "bar")
_SPLITS = ("train", "train", "train", "val", "test")


def picture(shown: tuple[str, ...], seed: int) -> bytes:
    """A PNG of these things."""
    random = np.random.default_rng(seed)
    ground = random.integers(90, 150, (SIDE, SIDE, 3), dtype=np.uint8)
    image = Image.fromarray(ground)
    draw = ImageDraw.Draw(image)
    for name in shown:
        x, y = (int(place) for place in random.integers(2, SIDE - 26, 2))
        if name == "disc":
            draw.ellipse((x, y, x + 24, y + 24), fill=(230, 30, 30))
        elif name == "square":
            draw.rectangle((x, y, x + 22, y + 22), fill=(30, 200, 40))
        else:
            draw.rectangle((x, 0, x + 10, SIDE), fill=(40, 60, 240))
    output = io.BytesIO()
    image.save(output, "PNG")
    return output.getvalue()


def shown_in(number: int) -> tuple[str, ...]:
    """What is on the n-th image."""
    coins = np.random.default_rng(10_000 + number).random(len(CLASSES)) < 0.5
    return tuple(name for name, coin in zip(CLASSES, coins, strict=True) if coin)


def rows(count: int) -> tuple[list[SnapshotRow], dict[str, bytes]]:
    """Snapshot rows and their blobs by digest."""
    made: list[SnapshotRow] = []
    blobs: dict[str, bytes] = {}
    for number in range(count):
        data = picture(shown_in(number), number)
        sha256 = hashlib.sha256(data).hexdigest()
        blobs[sha256] = data
        made.append(
            SnapshotRow(
                sha256=sha256,
                width=SIDE,
                height=SIDE,
                split=_SPLITS[number % len(_SPLITS)],
                group_id=f"group-{number}",
                labels=tuple(sorted(shown_in(number))),
                attributes={"half": "first" if number % 2 else "second"},
                label_source="human",
            )
        )
    return sorted(made, key=lambda row: row.sha256), blobs


def write_rows(
    store: ObjectStore, dataset: str, made: list[SnapshotRow], task: str = "multi_label"
) -> SnapshotManifest:
    """A snapshot of rows in order, as labeling writes it; it becomes the latest."""
    with spooled([SnapshotClass(id=name, name=name.title()) for name in CLASSES]) as content:
        content.take(made)
        about = About(label_sequence=len(made), parent=None, task=task)
        return SnapshotRepository(store).write_spooled(dataset, content, {}, about)[0]


def write_shapes(store: ObjectStore, dataset: str, count: int) -> SnapshotManifest:
    """Writes blobs and a snapshot."""
    made, blobs = rows(count)
    for sha256, data in blobs.items():
        try:
            store.put_if_absent(blob_key(sha256), data)
        except ConflictError:
            pass
    return write_rows(store, dataset, made)

"""Rows of a small snapshot, for tests of the format.

manifest, created = write(store, [*ROWS[:2], make_row(2, class_id="bad"), drawn(3, box("good", 0))])
"""

from hashlib import sha256

from visionloop.objectstore import ObjectStore
from visionloop.snapshot import SnapshotClass, SnapshotManifest, SnapshotRepository, SnapshotRow

CLASSES = [SnapshotClass(id="good", name="Good"), SnapshotClass(id="bad", name="Bad")]
POLICY: dict[str, object] = {"split_rule": "group-sticky/1", "split_ratios": {"train": 0.8}}


def digest(number: int) -> str:
    return sha256(f"{number}".encode()).hexdigest()


def make_row(number: int, **changes: object) -> SnapshotRow:
    return SnapshotRow.model_validate(
        {
            "sha256": digest(number),
            "width": 300,
            "height": 200,
            "split": ("train", "train", "val", "test")[number % 4],
            "group_id": f"g-{number}",
            "class_id": ("good", "bad")[number % 2],
            "attributes": {"module": "mono"},
            "label_source": "import",
            "source": f"cells/{number}.png",
            **changes,
        }
    )


def box(class_id: str, x: float, y: float = 0, side: float = 10) -> dict[str, object]:
    return {"class_id": class_id, "x": x, "y": y, "width": side, "height": side}


def drawn(number: int, *boxes: dict[str, object], **changes: object) -> SnapshotRow:
    return make_row(number, **{"class_id": None, "boxes": boxes, **changes})


ROWS = [make_row(number) for number in range(12)]


def write(
    store: ObjectStore, rows: list[SnapshotRow] = ROWS, *, label_sequence: int = 12
) -> tuple[SnapshotManifest, bool]:
    return SnapshotRepository(store).write(
        "cells", rows, CLASSES, POLICY, label_sequence=label_sequence, parent=None
    )

"""Labels as a CSV table with a row per image, safe to open in a spreadsheet.

Everything that is known stands in it: boxes, shapes, attributes and soft labels as JSON. `class_id`
and `class_name` hold all classes of the image, with a bar between several.
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from visionloop.snapshot_format import harmless_cell
from visionloop_labeling.exports import ExportedLabel, Labels, batches

COLUMNS: Final = (
    *("sha256", "class_id", "class_name", "split", "group", "author_kind", "author", "source"),
    *("labelled", "sequence", "disputed", "attributes", "width", "height", "boxes", "shapes"),
    *("label_attributes", "note", "weight", "probabilities"),
)
SEPARATOR: Final = "|"
_LINES: Final = 100


def csv_stream(labels: Labels) -> Iterator[bytes]:
    """The table, some lines at a time."""
    yield _text([COLUMNS])
    for some in batches(labels.images, _LINES):
        yield _text([_cells(label, labels.classes) for label in some])


def _cells(label: ExportedLabel, names: Mapping[str, str]) -> tuple[str, ...]:
    said = label.annotation
    plain = said.stored()
    classes = said.classes or ()
    cells = {
        "sha256": label.sha256,
        "class_id": SEPARATOR.join(classes),
        "class_name": SEPARATOR.join(names.get(key, key) for key in classes),
        "split": label.split,
        "group": label.group,
        "author_kind": label.author_kind.value,
        "author": label.author,
        "source": label.source,
        "labelled": label.labelled.isoformat(timespec="milliseconds") if label.labelled else "",
        "sequence": str(label.sequence) if label.sequence else "",
        "disputed": "true" if label.disputed else "false",
        "attributes": ";".join(f"{name}={v}" for name, v in sorted(label.attributes.items())),
        "width": str(label.width),
        "height": str(label.height),
        "boxes": _json(plain.get("boxes")),
        "shapes": _json(plain.get("shapes")),
        "label_attributes": _json(plain.get("attributes")),
        "note": said.note,
        "weight": "" if said.weight is None else repr(said.weight),
        "probabilities": _json(
            {names.get(key, key): share for key, share in said.probabilities.items()} or None
        ),
    }
    return tuple(harmless_cell(cells[column]) for column in COLUMNS)


def _json(value: Any) -> str:
    return "" if value is None else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _text(rows: list[tuple[str, ...]]) -> bytes:
    piece = io.StringIO(newline="")
    csv.writer(piece).writerows(rows)
    return piece.getvalue().encode()

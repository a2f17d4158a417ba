"""One image of a snapshot with what is said about it, and its form as bytes.

A row of an image with one class has had the same canonical form since the first snapshot: fields
that came later (several classes, boxes, shapes, attributes of the label, soft labels) are left out
of it where they are empty, so the ids of snapshots without them never change. In the same way a
part without such rows keeps its columns, and older snapshots go on sharing it.

Coordinates are absolute pixels of the oriented image, from its upper left corner. Notes for people
are not in a snapshot: a model learns nothing from them, and a new note is no new training set.
"""

import io
import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Final, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, TypeAdapter, ValidationError

from visionloop.errors import CorruptError
from visionloop.record import Record, Sha256

Text = Annotated[str, Field(max_length=2000)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Pixels = Annotated[float, Field(ge=0.0)]
Share = Annotated[float, Field(gt=0.0, le=1.0)]
Value = str | float  # of an attribute: a choice or a colour, or a number


class SnapshotBox(Record):
    """An axis-aligned box around one thing."""

    class_id: Name
    x: Pixels
    y: Pixels
    width: Pixels
    height: Pixels
    attributes: dict[Name, Value] = Field(default_factory=dict)


class SnapshotShape(Record):
    """The outline of one thing: a polygon's corners, or a mask as run lengths.

    `counts` are COCO's: lengths of runs of 0 and 1 in turn, down the columns of `size` (height,
    width), beginning with 0.
    """

    kind: Literal["polygon", "mask"]
    class_id: Name
    points: tuple[tuple[float, float], ...] = ()
    counts: tuple[Annotated[int, Field(ge=0)], ...] = ()
    size: tuple[int, int] | None = None


class SnapshotRow(Record):
    """One image with its label. `width` and `height` are pixels after EXIF orientation.

    `class_id` is the class of an image that has exactly one, `labels` the classes (sorted, maybe
    none) of one that may have several; what a missing box means is said by the manifest's task.
    `probabilities` are a soft label, beside `class_id`: how probable each class is, adding up to 1.
    `weight` is what the image counts in training.
    """

    sha256: Sha256
    width: Annotated[int, Field(ge=1)]
    height: Annotated[int, Field(ge=1)]
    split: Literal["train", "val", "test"]
    group_id: Name
    class_id: Name | None = None
    attributes: dict[Name, Text] = Field(default_factory=dict)  # that came with the image
    weight: Annotated[float, Field(ge=0.0)] = 1.0
    label_source: Literal["human", "import", "app", "model"]
    source: Text = ""
    labels: tuple[Name, ...] = ()
    boxes: tuple[SnapshotBox, ...] = ()
    shapes: tuple[SnapshotShape, ...] = ()
    label_attributes: dict[Name, Value] = Field(default_factory=dict)  # that the label gave
    probabilities: dict[Name, Share] = Field(default_factory=dict)

    @property
    def classes(self) -> frozenset[str]:
        """The ids of all classes that the row says are there; a soft label says they may be."""
        own = () if self.class_id is None else (self.class_id,)
        boxed = (box.class_id for box in self.boxes)
        outlined = (shape.class_id for shape in self.shapes)
        return frozenset((*own, *self.labels, *boxed, *outlined))

    @property
    def annotated(self) -> bool:
        """Whether it says anything else than one class."""
        later = self.labels or self.boxes or self.shapes or self.label_attributes
        return self.class_id is None or bool(later)

    def canonical(self) -> bytes:
        """What a snapshot's id is the digest of: one line of JSON."""
        plain = self.model_dump()
        for field in _LEFT_OUT_EMPTY:
            if not plain[field]:
                del plain[field]
        return canonical(plain)


_LEFT_OUT_EMPTY: Final = (
    *("class_id", "labels", "boxes", "shapes", "label_attributes", "probabilities"),
)


def canonical(value: object) -> bytes:
    """The one form of a JSON value, as a line. Raises TypeError or ValueError for anything else."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode() + b"\n"


_MAP: Final = pa.map_(pa.string(), pa.string())
_COLUMNS: Final = (
    pa.field("sha256", pa.string(), nullable=False),
    pa.field("width", pa.int64(), nullable=False),
    pa.field("height", pa.int64(), nullable=False),
    pa.field("split", pa.string(), nullable=False),
    pa.field("group_id", pa.string(), nullable=False),
    pa.field("class_id", pa.string(), nullable=False),
    pa.field("attributes", _MAP, nullable=False),
    pa.field("weight", pa.float64(), nullable=False),
    pa.field("label_source", pa.string(), nullable=False),
    pa.field("source", pa.string(), nullable=False),
)
# The values of these maps are JSON: a text or a number.
_BOX: Final = pa.struct(
    [
        ("class_id", pa.string()),
        *((name, pa.float64()) for name in ("x", "y", "width", "height")),
        ("attributes", _MAP),
    ]
)
_SHAPE: Final = pa.struct(
    [
        ("kind", pa.string()),
        ("class_id", pa.string()),
        ("points", pa.list_(pa.list_(pa.float64()))),
        ("counts", pa.list_(pa.int64())),
        ("size", pa.list_(pa.int64())),
    ]
)
_SCHEMA: Final = pa.schema(_COLUMNS)
_ANNOTATED_SCHEMA: Final = pa.schema(
    [
        *(field.with_nullable(True) if field.name == "class_id" else field for field in _COLUMNS),
        pa.field("labels", pa.list_(pa.string()), nullable=False),
        pa.field("boxes", pa.list_(_BOX), nullable=False),
        pa.field("shapes", pa.list_(_SHAPE), nullable=False),
        pa.field("label_attributes", _MAP, nullable=False),
    ]
)
_SOFT_SCHEMA: Final = _ANNOTATED_SCHEMA.append(
    pa.field("probabilities", pa.map_(pa.string(), pa.float64()), nullable=False)
)
_ROWS: Final = TypeAdapter(list[SnapshotRow])
_AT_ONCE: Final = 512  # rows that are taken out of a part together


def rows_to_parquet(rows: Sequence[SnapshotRow]) -> bytes:
    """One Parquet file, zstd, one column for each field that one of the rows uses."""
    schema = _ANNOTATED_SCHEMA if any(row.annotated for row in rows) else _SCHEMA
    if any(row.probabilities for row in rows):
        schema = _SOFT_SCHEMA
    sink = io.BytesIO()
    table = pa.Table.from_pylist([_columns(row) for row in rows], schema=schema)
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def stream_parquet(data: bytes, name: str) -> Iterator[SnapshotRow]:
    """The rows of a part, a few hundred at a time: one with a hundred boxes has 100 kB here.

    Raises CorruptError that names `name` with the row that is wrong, before the first one where
    it is no such file.
    """
    taken = 0
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        _check_schema(file.schema_arrow, name)
        for batch in file.iter_batches(batch_size=_AT_ONCE):
            yield from _rows(batch.to_pylist(), taken, name)
            taken += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise CorruptError(f"{name} is not a Parquet file: {error}") from None


def _check_schema(schema: pa.Schema, name: str) -> None:
    if not any(schema.equals(known) for known in (_SCHEMA, _ANNOTATED_SCHEMA, _SOFT_SCHEMA)):
        raise CorruptError(
            f"{name} has the columns {', '.join(schema.names)} and types this program does "
            "not know; install the version of Visionloop that wrote it"
        )


def _rows(stored: list[dict[str, Any]], before: int, name: str) -> list[SnapshotRow]:
    """Some rows of a part, behind so many others."""
    try:
        return _ROWS.validate_python([_fields(row) for row in stored])
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        row, *parts = first["loc"]
        place = ".".join(str(part) for part in (before + int(row), *parts))
        raise CorruptError(f"{name}: row {place}: {first['msg']}") from None
    except ValueError as error:  # of an attribute
        raise CorruptError(f"{name}: an attribute is not JSON: {error}") from None


def _columns(row: SnapshotRow) -> dict[str, Any]:
    plain = row.model_dump()
    plain["attributes"] = sorted(row.attributes.items())
    plain["probabilities"] = sorted(row.probabilities.items())
    if row.annotated:
        plain["label_attributes"] = list(_as_json(row.label_attributes))
        for box, values in zip(row.boxes, plain["boxes"], strict=True):
            values["attributes"] = list(_as_json(box.attributes))
    return plain


def _as_json(attributes: dict[str, Value]) -> Iterator[tuple[str, str]]:
    for name, value in sorted(attributes.items()):
        yield name, json.dumps(value, ensure_ascii=False)


def _fields(row: dict[str, Any]) -> dict[str, Any]:
    row["attributes"] = dict(row["attributes"])
    row["probabilities"] = dict(row.get("probabilities", ()))
    if "boxes" in row:
        row["label_attributes"] = _from_json(row["label_attributes"])
        for box in row["boxes"]:
            box["attributes"] = _from_json(box["attributes"])
    return row


def _from_json(attributes: Sequence[tuple[str, str]]) -> dict[str, Value]:
    return {name: json.loads(value) for name, value in attributes}

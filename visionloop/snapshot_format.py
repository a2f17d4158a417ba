"""What a dataset snapshot consists of: rows, classes, manifest, and their form as bytes.

A snapshot's id is a digest of what it says, not of files: rows in the order of their sha256, the
class list, the policy, each as canonical JSON. So the same labels give the same id on every
machine, whatever pyarrow writes. Rows travel as Parquet, one part for each range of sha256 that has
at most 50,000 rows: a changed row changes one part, snapshots share the others.
"""

import csv
import gzip
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Annotated, Final, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, TypeAdapter, ValidationError

from visionloop.errors import CorruptError, InvalidInputError
from visionloop.record import Record, Sha256

SPLITS: Final = ("train", "val", "test")
TRAIN_ONLY_SOURCES: Final = frozenset({"app", "model"})
MAX_PART_ROWS: Final = 50_000
DATASET_NAME_PATTERN: Final = r"[a-z0-9][a-z0-9_-]{0,62}"
SNAPSHOT_ID_PATTERN: Final = r"sha256-[0-9a-f]{64}"
CSV_COLUMNS: Final = (
    *("sha256", "split", "class_id", "class_name", "group_id", "width", "height", "weight"),
    *("label_source", "source", "attributes"),
)
# Spreadsheets run a cell that begins so as a formula; a leading apostrophe makes it text.
FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r", "\n")

Text = Annotated[str, Field(max_length=2000)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Count = Annotated[int, Field(ge=0)]


class SnapshotRow(Record):
    """One image with its label. `width` and `height` are pixels after EXIF orientation."""

    sha256: Sha256
    width: Annotated[int, Field(ge=1)]
    height: Annotated[int, Field(ge=1)]
    split: Literal["train", "val", "test"]
    group_id: Name
    class_id: Name
    attributes: dict[Name, Text] = Field(default_factory=dict)
    weight: Annotated[float, Field(ge=0.0)] = 1.0
    label_source: Literal["human", "import", "app", "model"]
    source: Text = ""


class SnapshotClass(Record):
    """A class that labels may name; its place in the list is kept."""

    id: Name
    name: Text


class Part(Record):
    """One Parquet object of rows. `key` ends in its sha256."""

    key: str
    rows: Annotated[int, Field(ge=1)]
    sha256: Sha256


class SnapshotManifest(Record):
    """The content of manifest.json: the commit marker and the table of contents."""

    format_version: Literal[1] = 1
    dataset: Annotated[str, Field(pattern=f"^{DATASET_NAME_PATTERN}$")]
    id: Annotated[str, Field(pattern=f"^{SNAPSHOT_ID_PATTERN}$")]
    created: datetime
    parent: str | None
    classes: list[SnapshotClass]
    policy: dict[str, object]
    parts: Annotated[list[Part], Field(min_length=1)]
    split_images: dict[str, Count]
    class_images: dict[str, dict[str, Count]]  # split -> class id -> images
    largest_group: Count  # images
    groups: Count
    leak_pairs: Count
    label_sequence: Count


def snapshot_id(
    rows: Iterable[SnapshotRow], classes: Sequence[SnapshotClass], policy: dict[str, object]
) -> str:
    """The digest of the content as `sha256-<64 hex digits>`. The order of rows does not matter."""
    head = {
        "format": "visionloop.snapshot/1",
        "classes": [entry.model_dump() for entry in classes],
        "policy": policy,
    }
    digest = hashlib.sha256(_canonical(head))
    for row in sorted(rows, key=lambda row: row.sha256):
        digest.update(_canonical(row.model_dump()))
    return f"sha256-{digest.hexdigest()}"


def plain_policy(policy: dict[str, object]) -> dict[str, object]:
    """The policy as JSON gives it back. Raises InvalidInputError when it cannot be JSON."""
    try:
        plain: dict[str, object] = json.loads(_canonical(policy))
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"the policy is not JSON: {error}", field="policy") from None
    return plain


def check_content(rows: Sequence[SnapshotRow], classes: Sequence[SnapshotClass]) -> None:
    """Raises InvalidInputError when rows and classes do not make a snapshot that can be trusted.

    Every image once, every class declared, no group in two splits, and no label of an app or a
    model where models are measured.
    """
    if not rows:
        raise InvalidInputError(
            "a snapshot needs at least one row; label some images", field="rows"
        )
    names = [entry.id for entry in classes]
    _refuse_doubles(names, "classes", "class id")
    _refuse_doubles([row.sha256 for row in rows], "rows", "image")
    split_of: dict[str, str] = {}
    known = set(names)
    for row in rows:
        if row.class_id not in known:
            raise InvalidInputError(
                f"image {row.sha256} has the class {row.class_id!r}, which classes does not list",
                field="rows",
            )
        if row.split != "train" and row.label_source in TRAIN_ONLY_SOURCES:
            raise InvalidInputError(
                f"image {row.sha256} is in {row.split} by a label of source {row.label_source!r}; "
                "such labels belong in train only",
                field="rows",
            )
        if split_of.setdefault(row.group_id, row.split) != row.split:
            raise InvalidInputError(
                f"group {row.group_id!r} is in {split_of[row.group_id]} and in {row.split}; "
                "a group of like images belongs in one split",
                field="rows",
            )


def counts_of(rows: Sequence[SnapshotRow]) -> dict[str, object]:
    """The counts that a manifest holds, by the names of its fields."""
    groups = Counter(row.group_id for row in rows)
    classes = {
        split: dict(sorted(Counter(row.class_id for row in rows if row.split == split).items()))
        for split in SPLITS
    }
    return {
        "split_images": {split: sum(classes[split].values()) for split in SPLITS},
        "class_images": classes,
        "largest_group": max(groups.values()),
        "groups": len(groups),
    }


def part_rows(rows: Sequence[SnapshotRow]) -> Iterator[list[SnapshotRow]]:
    """The rows of each part, in the order of sha256.

    Cut by leading hex digits, as many as it takes, so that where a row goes depends on its
    neighbours in number only, not on the rows before it.
    """
    yield from _cut(sorted(rows, key=lambda row: row.sha256), 0)


def _cut(rows: list[SnapshotRow], depth: int) -> Iterator[list[SnapshotRow]]:
    if len(rows) <= MAX_PART_ROWS:
        if rows:
            yield rows
        return
    for digit in "0123456789abcdef":
        yield from _cut([row for row in rows if row.sha256[depth] == digit], depth + 1)


_SCHEMA: Final = pa.schema(
    [
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("width", pa.int64(), nullable=False),
        pa.field("height", pa.int64(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("group_id", pa.string(), nullable=False),
        pa.field("class_id", pa.string(), nullable=False),
        pa.field("attributes", pa.map_(pa.string(), pa.string()), nullable=False),
        pa.field("weight", pa.float64(), nullable=False),
        pa.field("label_source", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
    ]
)
_ROWS: Final = TypeAdapter(list[SnapshotRow])


def rows_to_parquet(rows: Sequence[SnapshotRow]) -> bytes:
    """One Parquet file, zstd, one column for each field of a row."""
    plain = [{**row.model_dump(), "attributes": sorted(row.attributes.items())} for row in rows]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(plain, schema=_SCHEMA), sink, compression="zstd")
    return sink.getvalue()


def rows_from_parquet(data: bytes, name: str) -> list[SnapshotRow]:
    """The rows of a part. Raises CorruptError that names `name` for anything else."""
    try:
        table = pq.ParquetFile(pa.BufferReader(data)).read()
    except (pa.ArrowException, OSError) as error:
        raise CorruptError(f"{name} is not a Parquet file: {error}") from None
    if not table.schema.equals(_SCHEMA):
        raise CorruptError(
            f"{name} has the columns {', '.join(table.schema.names)} and types this program does "
            "not know; install the version of Visionloop that wrote it"
        )
    plain = table.to_pylist()
    for row in plain:
        row["attributes"] = dict(row["attributes"])
    try:
        return _ROWS.validate_python(plain)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise CorruptError(f"{name}: row {place}: {first['msg']}") from None


def labels_csv(rows: Sequence[SnapshotRow], classes: Sequence[SnapshotClass]) -> bytes:
    """The rows as gzipped CSV for people and spreadsheets; the same content, the same bytes."""
    names = {entry.id: entry.name for entry in classes}
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(CSV_COLUMNS)
    for row in sorted(rows, key=lambda row: row.sha256):
        cells = {
            **row.model_dump(),
            "class_name": names[row.class_id],
            "attributes": json.dumps(row.attributes, sort_keys=True, ensure_ascii=False),
        }
        writer.writerow([_cell(cells[column]) for column in CSV_COLUMNS])
    return gzip.compress(text.getvalue().encode(), compresslevel=6, mtime=0)


def _cell(value: object) -> object:
    if isinstance(value, str) and value.startswith(FORMULA_STARTS):
        return f"'{value}"
    return value


def _canonical(value: object) -> bytes:
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode() + b"\n"


def _refuse_doubles(values: Sequence[str], field: str, what: str) -> None:
    value, count = Counter(values).most_common(1)[0] if values else ("", 1)
    if count > 1:
        raise InvalidInputError(f"{what} {value!r} stands {count} times in {field}", field=field)

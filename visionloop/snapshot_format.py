"""What a dataset snapshot consists of: classes, manifest, id, parts and the table for people.

A snapshot's id is a digest of what it says, not of files: rows in the order of their sha256, the
class list, the policy, each as canonical JSON. So the same labels give the same id on every
machine, whatever pyarrow writes. Rows (`visionloop.snapshot_rows`) travel as Parquet, one part for
each range of sha256 that has at most 50,000 rows: a changed row changes one part, snapshots share
the others.
"""

import csv
import hashlib
import io
import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import Annotated, Final, Literal

from pydantic import Field

from visionloop.errors import InvalidInputError
from visionloop.record import Record, Sha256
from visionloop.snapshot_rows import (
    Name,
    SnapshotRow,
    Text,
    canonical,
)

__all__ = [
    "SPLITS",
    "About",
    "LargeGroup",
    "LeakReport",
    "Part",
    "SnapshotClass",
    "SnapshotManifest",
    "SnapshotRow",
    "Task",
    "class_weights",
    "csv_header",
    "csv_lines",
    "harmless_cell",
    "plain_policy",
    "snapshot_id",
    "sorted_parts",
]

SPLITS: Final = ("train", "val", "test")
TRAIN_ONLY_SOURCES: Final = frozenset({"app", "model"})
MAX_PART_ROWS: Final = 50_000
DATASET_NAME_PATTERN: Final = r"[a-z0-9][a-z0-9_-]{0,62}"
SNAPSHOT_ID_PATTERN: Final = r"sha256-[0-9a-f]{64}"
CSV_COLUMNS: Final = (
    *("sha256", "split", "class_id", "class_name", "group_id", "width", "height", "weight"),
    *("label_source", "source", "attributes", "labels", "boxes", "shapes", "label_attributes"),
    "probabilities",
)
# Spreadsheets run a cell that begins so as a formula; a leading apostrophe makes it text.
FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r", "\n")

Task = Literal["classification", "multi_label", "detection"]
Count = Annotated[int, Field(ge=0)]


class SnapshotClass(Record):
    """A class that labels may name; its place in the list is kept."""

    id: Name
    name: Text


class Part(Record):
    """One Parquet object of rows. `key` ends in its sha256."""

    key: str
    rows: Annotated[int, Field(ge=1)]
    sha256: Sha256


class LargeGroup(Record):
    """A group of images that share a split, and how many of its images have a label."""

    group_id: Name
    split: Literal["train", "val", "test"]
    images: Count


class LeakReport(Record):
    """What was done so that no image in train shows what one in val or test shows.

    `left_out` counts labelled images that are not in the snapshot, by reason; `pairs` counts what
    joined images of different splits, by what joins them; a large group may be a chain of images
    that merely look alike.
    """

    left_out: dict[str, Count] = Field(default_factory=dict)
    pairs: dict[str, Count] = Field(default_factory=dict)
    largest_groups: tuple[LargeGroup, ...] = ()


class About(Record):
    """What a manifest says of how its content came about, which gives no part of the id."""

    label_sequence: Count  # label events that it covers
    parent: str | None  # the snapshot that was the latest before
    leak_pairs: Count = 0
    task: Task = "classification"
    class_version: Count = 0  # changes of the classes (rename, merge, …) that it covers
    # "name:version" of a model -> images whose author saw its suggestion
    suggested_by: dict[str, Count] = Field(default_factory=dict)
    leaks: LeakReport = LeakReport()


class SnapshotManifest(About):
    """The content of manifest.json: the commit marker and the table of contents.

    Fields with a default are not in the manifests of the first snapshots.
    """

    format_version: Literal[1] = 1
    dataset: Annotated[str, Field(pattern=f"^{DATASET_NAME_PATTERN}$")]
    id: Annotated[str, Field(pattern=f"^{SNAPSHOT_ID_PATTERN}$")]
    created: datetime
    classes: list[SnapshotClass]
    policy: dict[str, object]
    parts: Annotated[list[Part], Field(min_length=1)]
    split_images: dict[str, Count]
    class_images: dict[str, dict[str, Count]]  # split -> class id -> images that show it
    # Of the classes that train has: the mean number of images of a class over its own.
    class_weights: dict[str, Annotated[float, Field(gt=0.0)]] = Field(default_factory=dict)
    label_sources: dict[str, dict[str, Count]] = Field(default_factory=dict)  # split -> source
    largest_group: Count  # images
    groups: Count
    boxes: Count = 0
    shapes: Count = 0


def snapshot_id(
    rows: Iterable[SnapshotRow], classes: Sequence[SnapshotClass], policy: dict[str, object]
) -> str:
    """The digest of the content as `sha256-<64 hex digits>`. The order of rows does not matter."""
    digest = hashlib.sha256(id_head(classes, policy))
    for row in sorted(rows, key=lambda row: row.sha256):
        digest.update(row.canonical())
    return f"sha256-{digest.hexdigest()}"


def id_head(classes: Sequence[SnapshotClass], policy: dict[str, object]) -> bytes:
    """What the id digests before the rows."""
    head = {
        "format": "visionloop.snapshot/1",
        "classes": [entry.model_dump() for entry in classes],
        "policy": policy,
    }
    return canonical(head)


def plain_policy(policy: dict[str, object]) -> dict[str, object]:
    """The policy as JSON gives it back. Raises InvalidInputError when it cannot be JSON."""
    try:
        plain: dict[str, object] = json.loads(canonical(policy))
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"the policy is not JSON: {error}", field="policy") from None
    return plain


def class_weights(images: dict[str, int]) -> dict[str, float]:
    """The weight of each class that has images: their mean number over the class's own."""
    present = {name: count for name, count in sorted(images.items()) if count}
    mean = sum(present.values()) / max(1, len(present))
    return {name: round(mean / count, 6) for name, count in present.items()}


def sorted_parts(rows: Iterable[SnapshotRow]) -> Iterator[list[SnapshotRow]]:
    """The parts of rows that come in the order of sha256; holds one part and a row more.

    Cut by leading hex digits, as many as it takes, so that where a row goes depends on its
    neighbours in number only, not on the rows before it.
    """
    yield from _parts_below(_Ahead(rows), "")


class _Ahead:
    """Rows in order, of which some have been looked at and put back."""

    def __init__(self, rows: Iterable[SnapshotRow]) -> None:
        self._rows = iter(rows)
        self._back: deque[SnapshotRow] = deque()

    def __iter__(self) -> Iterator[SnapshotRow]:
        while True:
            row = self._back.popleft() if self._back else next(self._rows, None)
            if row is None:
                return
            yield row

    def take(self, prefix: str, most: int) -> list[SnapshotRow]:
        """The next rows, at most so many, whose sha256 begins so."""
        taken = []
        for row in islice(self, most):
            if not row.sha256.startswith(prefix):
                self._back.appendleft(row)
                break
            taken.append(row)
        return taken

    def put_back(self, rows: Sequence[SnapshotRow]) -> None:
        """They come next again."""
        self._back.extendleft(reversed(rows))


def _parts_below(rows: _Ahead, prefix: str) -> Iterator[list[SnapshotRow]]:
    taken = rows.take(prefix, MAX_PART_ROWS + 1)
    if len(taken) <= MAX_PART_ROWS:
        if taken:
            yield taken
        return
    rows.put_back(taken)
    for digit in "0123456789abcdef":
        yield from _parts_below(rows, prefix + digit)


def csv_header() -> str:
    """The first line of the table for people."""
    return _csv([CSV_COLUMNS])


def csv_lines(rows: Iterable[SnapshotRow], names: dict[str, str]) -> str:
    """Its lines; `names` gives the name of a class id."""
    return _csv([_cells(row, names) for row in rows])


def _cells(row: SnapshotRow, names: dict[str, str]) -> list[str]:
    plain = row.model_dump()
    cells = {
        **plain,
        "class_id": row.class_id or "",
        "class_name": "" if row.class_id is None else names[row.class_id],
        "attributes": _json(row.attributes),
        **{
            field: _json(plain[field]) if plain[field] else ""
            for field in ("labels", "boxes", "shapes", "label_attributes", "probabilities")
        },
    }
    return [harmless_cell(str(cells[column])) for column in CSV_COLUMNS]


def _csv(rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def harmless_cell(cell: str) -> str:
    """The cell, made text where a spreadsheet would run it as a formula."""
    return f"'{cell}" if cell.startswith(FORMULA_STARTS) else cell

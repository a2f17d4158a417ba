"""The content of a snapshot while it is written or read: checked, counted, digested, row by row.

Rows come in the order of their sha256 and none is kept, so a million images take as much memory as
a part (50,000 rows) and 17 bytes each for the groups. A snapshot's id begins with its classes,
which are known only after the last row: so rows wait in a folder, in the form that is digested,
beside the parts and the table that will be uploaded if the id is a new one (about 600 bytes of disk
an image).
"""

import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Final

import numpy as np

from visionloop.disk_space import temporary_folder
from visionloop.errors import InvalidInputError
from visionloop.snapshot_format import (
    SPLITS,
    TRAIN_ONLY_SOURCES,
    SnapshotClass,
    class_weights,
    csv_header,
    csv_lines,
    id_head,
    sorted_parts,
)
from visionloop.snapshot_rows import SnapshotRow, rows_to_parquet

_GROUP_BYTES: Final = 16  # of the digest a group is known by here
_CHUNK: Final = 2**20  # bytes
_LINES: Final = 1000  # of the table, written at a time
_OFF: Final = 1e-2  # what a soft label, rounded class by class, may lack of 1 or have more


class ContentCheck:
    """What a snapshot may hold, and the counts of it.

    Every image once and in order, every class declared, no group in two splits, no label of an app
    or a model where models are measured, and soft labels beside a class, adding up to 1.
    """

    def __init__(self, classes: Sequence[SnapshotClass]) -> None:
        names = Counter(entry.id for entry in classes)
        name, count = names.most_common(1)[0] if names else ("", 1)
        if count > 1:
            raise InvalidInputError(
                f"class id {name!r} stands {count} times in classes", field="classes"
            )
        self._known = frozenset(names)
        self._last = ""
        self._groups = bytearray()
        self._splits = bytearray()
        self._images: Counter[str] = Counter()
        self._classes: Counter[tuple[str, str]] = Counter()
        self._sources: Counter[tuple[str, str]] = Counter()
        self._possible: set[str] = set()  # named by soft labels
        self._boxes = 0
        self._shapes = 0

    def take(self, row: SnapshotRow) -> None:
        """Checks and counts the next row. Raises InvalidInputError."""
        if row.sha256 <= self._last:
            how = "stands 2 times in rows" if row.sha256 == self._last else "comes out of order"
            raise InvalidInputError(f"image {row.sha256} {how}", field="rows")
        unknown = (row.classes | row.probabilities.keys()) - self._known
        if unknown:
            raise InvalidInputError(
                f"image {row.sha256} has the class {min(unknown)!r}, which classes does not list",
                field="rows",
            )
        _check_soft(row)
        if row.split != "train" and row.label_source in TRAIN_ONLY_SOURCES:
            raise InvalidInputError(
                f"image {row.sha256} is in {row.split} by a label of source {row.label_source!r}; "
                "such labels belong in train only",
                field="rows",
            )
        self._last = row.sha256
        self._groups += blake2b(row.group_id.encode(), digest_size=_GROUP_BYTES).digest()
        self._splits.append(SPLITS.index(row.split))
        self._images[row.split] += 1
        self._sources[row.split, row.label_source] += 1
        for class_id in row.classes:
            self._classes[row.split, class_id] += 1
        self._possible.update(row.probabilities)
        self._boxes += len(row.boxes)
        self._shapes += len(row.shapes)

    @property
    def used(self) -> set[str]:
        """The classes that rows have named."""
        return {class_id for _, class_id in self._classes} | self._possible

    def counts(self, group_at: Callable[[int], str]) -> dict[str, object]:
        """The counts that a manifest holds, by the names of its fields, after the last row.

        `group_at` gives the group of the nth row, for the message. Raises InvalidInputError.
        """
        sizes = self._group_sizes(group_at)
        classes = {split: _of(self._classes, split) for split in SPLITS}
        return {
            "split_images": {split: self._images[split] for split in SPLITS},
            "class_images": classes,
            "class_weights": class_weights(classes["train"]),
            "label_sources": {split: _of(self._sources, split) for split in SPLITS},
            "largest_group": int(sizes.max()),
            "groups": len(sizes),
            "boxes": self._boxes,
            "shapes": self._shapes,
        }

    def _group_sizes(self, group_at: Callable[[int], str]) -> "np.typing.NDArray[np.int64]":
        groups = np.frombuffer(bytes(self._groups), dtype=np.uint64).reshape(-1, 2)
        splits = np.frombuffer(bytes(self._splits), dtype=np.uint8)
        order = np.lexsort((groups[:, 0], groups[:, 1]))
        groups, splits = groups[order], splits[order]
        same = (groups[1:] == groups[:-1]).all(axis=1)
        crossing = np.flatnonzero(same & (splits[1:] != splits[:-1]))
        if len(crossing):
            at = int(crossing[0])
            first, second = sorted(splits[at : at + 2])
            raise InvalidInputError(
                f"group {group_at(int(order[at]))!r} is in {SPLITS[first]} and in "
                f"{SPLITS[second]}; a group of like images belongs in one split",
                field="rows",
            )
        starts = np.flatnonzero(np.concatenate(([True], ~same)))
        sizes: np.typing.NDArray[np.int64] = np.diff(np.append(starts, len(splits)))
        return sizes


def _check_soft(row: SnapshotRow) -> None:
    total = sum(row.probabilities.values())
    if row.probabilities and row.class_id is None:
        raise InvalidInputError(
            f"image {row.sha256} has a soft label and no class that it counts as", field="rows"
        )
    if row.probabilities and abs(total - 1.0) > _OFF:
        raise InvalidInputError(
            f"image {row.sha256} has a soft label whose probabilities add up to {total:g}; they "
            "must add up to 1",
            field="rows",
        )


def check_content(
    rows: Sequence[SnapshotRow], classes: Sequence[SnapshotClass]
) -> dict[str, object]:
    """The counts of rows in order. Raises InvalidInputError as `ContentCheck` does."""
    if not rows:
        raise InvalidInputError(
            "a snapshot needs at least one row; label some images", field="rows"
        )
    check = ContentCheck(classes)
    ordered = sorted(rows, key=lambda row: row.sha256)
    for row in ordered:
        check.take(row)
    return check.counts(lambda at: ordered[at].group_id)


@dataclass(frozen=True, slots=True)
class PartFile:
    """A part that waits for its upload."""

    path: Path
    rows: int
    sha256: str


class SpooledContent:
    """The rows of one snapshot, waiting in a folder until its id is known."""

    def __init__(self, folder: Path, classes: Sequence[SnapshotClass]) -> None:
        self._classes = {entry.id: entry for entry in classes}
        self._check = ContentCheck(classes)
        self._canonical = folder / "canonical.jsonl"
        self.table = folder / "labels.csv.gz"
        self._folder = folder
        self.parts: list[PartFile] = []
        self.counts: dict[str, object] = {}

    def take(self, rows: Iterable[SnapshotRow]) -> int:
        """Writes all rows, which come in the order of sha256; returns how many.

        Raises InvalidInputError.
        """
        names = {entry.id: entry.name for entry in self._classes.values()}
        with (
            self._canonical.open("wb") as canonical,
            self.table.open("wb") as raw,
            # Without name and time: the same content gives the same bytes.
            gzip.GzipFile("", "wb", 6, raw, mtime=0) as table,
        ):
            table.write(csv_header().encode())
            for part in sorted_parts(self._checked(rows)):
                canonical.writelines(row.canonical() for row in part)
                for start in range(0, len(part), _LINES):
                    table.write(csv_lines(part[start : start + _LINES], names).encode())
                self.parts.append(self._part(part))
        images = sum(part.rows for part in self.parts)
        if images:
            self.counts = self._check.counts(self._group_at)
        return images

    def used_classes(self) -> list[SnapshotClass]:
        """Of the classes that may occur those that do, in their order."""
        used = self._check.used
        return [entry for entry in self._classes.values() if entry.id in used]

    def identity(self, classes: Sequence[SnapshotClass], policy: dict[str, object]) -> str:
        """The snapshot's id."""
        digest = hashlib.sha256(id_head(classes, policy))
        with self._canonical.open("rb") as lines:
            while chunk := lines.read(_CHUNK):
                digest.update(chunk)
        return f"sha256-{digest.hexdigest()}"

    def _checked(self, rows: Iterable[SnapshotRow]) -> Iterator[SnapshotRow]:
        for row in rows:
            self._check.take(row)
            yield row

    def _part(self, rows: Sequence[SnapshotRow]) -> PartFile:
        data = rows_to_parquet(rows)
        digest = hashlib.sha256(data).hexdigest()
        path = self._folder / f"{digest}.parquet"
        path.write_bytes(data)
        return PartFile(path, len(rows), digest)

    def _group_at(self, place: int) -> str:
        with self._canonical.open("rb") as lines:
            for at, line in enumerate(lines):
                if at == place:
                    return str(json.loads(line)["group_id"])
        return ""


@contextmanager
def spooled(classes: Sequence[SnapshotClass]) -> Iterator[SpooledContent]:
    """Room for the content of a snapshot; `classes` are those that may occur.

    The folder is in TMPDIR, and gone when the block ends. Raises DiskFullError.
    """
    with temporary_folder("visionloop-snapshot-") as folder:
        yield SpooledContent(folder, classes)


def _of(counts: Counter[tuple[str, str]], split: str) -> dict[str, int]:
    return dict(sorted((name, count) for (of, name), count in counts.items() if of == split))

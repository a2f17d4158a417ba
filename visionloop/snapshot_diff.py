"""What changed from one snapshot to another.

Boxes have no names of their own, so those of an image are matched by overlap: among boxes of one
class the pair with the largest intersection over union (IoU) first, then boxes that are left by
overlap whatever their class. A pair below `SAME_BOX` is one box gone and another one come. Both
snapshots are streams and none of their rows is kept: of a million changes no more is in memory than
the counts and what is to be listed.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import Final

from visionloop.snapshot_rows import SnapshotBox, SnapshotRow

SAME_BOX: Final = 0.5  # IoU at which two boxes may be the same one
MOVED: Final = 1 - 1e-6  # IoU below which it was moved


@dataclass(frozen=True, slots=True)
class BoxMove:
    """A box that stands elsewhere now."""

    sha256: str
    class_id: str
    iou: float


@dataclass(frozen=True, slots=True)
class ClassChange:
    """Images of one class, or boxes, of class `before` that are `after` now ("" for none)."""

    before: str
    after: str
    count: int


@dataclass(slots=True)
class Counts:
    """How many there are of what a comparison lists, whole lists or not."""

    added: int = 0
    removed: int = 0
    relabelled: int = 0
    redrawn: int = 0
    reweighted: int = 0
    split_changed: int = 0
    group_changed: int = 0
    boxes_moved: int = 0
    class_changes: int = 0


@dataclass(frozen=True, slots=True)
class SnapshotDiff:
    """What the second snapshot has, lacks or says otherwise. Lists hold sha256, sorted.

    An image whose classes are others is relabelled, one whose boxes or shapes are others is
    redrawn, one that counts more or less in training or has another soft label is reweighted; one
    of them may be several. Where lists were bounded they hold the first, and of the
    changes of classes the most frequent; `counts` are always of all.
    """

    counts: Counts = field(default_factory=Counts)
    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    relabelled: list[str] = field(default_factory=list)
    redrawn: list[str] = field(default_factory=list)
    reweighted: list[str] = field(default_factory=list)
    split_changed: list[str] = field(default_factory=list)
    group_changed: list[str] = field(default_factory=list)
    boxes_moved: list[BoxMove] = field(default_factory=list)
    class_changes: list[ClassChange] = field(default_factory=list)
    boxes_added: int = 0
    boxes_removed: int = 0
    class_counts: dict[str, tuple[int, int]] = field(default_factory=dict)  # images before, after

    @property
    def complete(self) -> bool:
        """Whether the lists hold all there is."""
        return all(
            getattr(self.counts, one.name) == len(getattr(self, one.name)) for one in fields(Counts)
        )


def diff_rows(
    before: Iterable[SnapshotRow], after: Iterable[SnapshotRow], *, most: int | None = None
) -> SnapshotDiff:
    """What changed between rows in the order of sha256. No list is longer than `most`."""
    comparison = _Comparison(most)
    for old, new in _side_by_side(iter(before), iter(after)):
        comparison.take(old, new)
    return comparison.result()


def iou(a: SnapshotBox, b: SnapshotBox) -> float:
    """Intersection over union of two boxes, 0 to 1."""
    width = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
    height = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / (a.width * a.height + b.width * b.height - shared)


class _Comparison:
    def __init__(self, most: int | None) -> None:
        self._most = most
        self._found = SnapshotDiff()
        self._added = self._removed = 0
        self._counts: dict[str, list[int]] = {}
        self._changes: Counter[tuple[str, str]] = Counter()

    def take(self, old: SnapshotRow | None, new: SnapshotRow | None) -> None:
        for at, row in enumerate((old, new)):
            for class_id in () if row is None else row.classes:
                self._counts.setdefault(class_id, [0, 0])[at] += 1
        if old is None and new is not None:
            self._note("added", new.sha256)
        elif new is None and old is not None:
            self._note("removed", old.sha256)
        elif old is not None and new is not None and old != new:
            self._changed(old, new)

    def result(self) -> SnapshotDiff:
        found = self._found
        found.counts.class_changes = len(self._changes)
        frequent = sorted(pair for pair, _ in self._changes.most_common(self._most))
        return SnapshotDiff(
            counts=found.counts,
            added=found.added,
            removed=found.removed,
            relabelled=found.relabelled,
            redrawn=found.redrawn,
            reweighted=found.reweighted,
            split_changed=found.split_changed,
            group_changed=found.group_changed,
            boxes_moved=found.boxes_moved,
            class_changes=[
                ClassChange(before, after, self._changes[before, after])
                for before, after in frequent
            ],
            boxes_added=self._added,
            boxes_removed=self._removed,
            class_counts={name: (one[0], one[1]) for name, one in sorted(self._counts.items())},
        )

    def _changed(self, old: SnapshotRow, new: SnapshotRow) -> None:
        if old.split != new.split:
            self._note("split_changed", new.sha256)
        if old.group_id != new.group_id:
            self._note("group_changed", new.sha256)
        if (old.weight, old.probabilities) != (new.weight, new.probabilities):
            self._note("reweighted", new.sha256)
        if (old.boxes, old.shapes) != (new.boxes, new.shapes):
            self._note("redrawn", new.sha256)
            self._boxes(old, new)
        if (old.class_id, old.labels, old.classes) != (new.class_id, new.labels, new.classes):
            self._note("relabelled", new.sha256)
        if old.class_id != new.class_id:
            self._class(old.class_id, new.class_id)

    def _boxes(self, old: SnapshotRow, new: SnapshotRow) -> None:
        pairs = match(old.boxes, new.boxes)
        self._removed += len(old.boxes) - len(pairs)
        self._added += len(new.boxes) - len(pairs)
        for first, second, overlap in pairs:
            if overlap < MOVED:
                moved = BoxMove(new.sha256, new.boxes[second].class_id, round(overlap, 4))
                self._note("boxes_moved", moved)
            if old.boxes[first].class_id != new.boxes[second].class_id:
                self._class(old.boxes[first].class_id, new.boxes[second].class_id)

    def _note(self, name: str, value: object) -> None:
        """Counts one more of what is listed under this name, and lists it while there is room."""
        count = getattr(self._found.counts, name) + 1
        setattr(self._found.counts, name, count)
        if self._most is None or count <= self._most:
            getattr(self._found, name).append(value)

    def _class(self, old: str | None, new: str | None) -> None:
        self._changes[old or "", new or ""] += 1


def match(
    before: Iterable[SnapshotBox], after: Iterable[SnapshotBox]
) -> list[tuple[int, int, float]]:
    """Which box became which: places before and after, and their IoU."""
    olds, news = list(before), list(after)
    overlaps = [
        (old.class_id == new.class_id, iou(old, new), first, second)
        for first, old in enumerate(olds)
        for second, new in enumerate(news)
    ]
    overlaps = sorted((one for one in overlaps if one[1] >= SAME_BOX), reverse=True)
    taken_old: set[int] = set()
    taken_new: set[int] = set()
    pairs = []
    for _, overlap, first, second in overlaps:
        if first not in taken_old and second not in taken_new:
            taken_old.add(first)
            taken_new.add(second)
            pairs.append((first, second, overlap))
    return sorted(pairs)


def _side_by_side(
    before: Iterator[SnapshotRow], after: Iterator[SnapshotRow]
) -> Iterator[tuple[SnapshotRow | None, SnapshotRow | None]]:
    old, new = next(before, None), next(after, None)
    while old is not None or new is not None:
        if new is None or (old is not None and old.sha256 < new.sha256):
            yield old, None
            old = next(before, None)
        elif old is None or new.sha256 < old.sha256:
            yield None, new
            new = next(after, None)
        else:
            yield old, new
            old, new = next(before, None), next(after, None)

"""Comparing snapshots: all that changed is told; of large ones a bounded part is listed."""

import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from support.snapshot_rows import ROWS, box, digest, drawn, make_row, write

from visionloop.objectstore import ObjectStore
from visionloop.snapshot import SnapshotRepository, diff
from visionloop.snapshot_diff import ClassChange, diff_rows
from visionloop.snapshot_rows import (
    SnapshotBox,
    SnapshotRow,
    rows_to_parquet,
    stream_parquet,
)

MANY = 4_000  # images


def row(number: int, class_id: str = "a", boxes: int = 0) -> SnapshotRow:
    """Made unchecked, as there are many."""
    return SnapshotRow.model_construct(
        sha256=f"{number:064x}",
        width=300,
        height=200,
        split="train",
        group_id="g",
        class_id=class_id,
        attributes={},
        weight=1.0,
        label_source="import",
        source="",
        boxes=tuple(
            SnapshotBox.model_construct(
                class_id="a", x=float(n), y=0.0, width=5.0, height=5.0, attributes={}
            )
            for n in range(boxes)
        ),
    )


def peak_of(work: Callable[[], object]) -> tuple[object, int]:
    """What it gives, and how many bytes of Python's memory it took at once."""
    tracemalloc.start()
    try:
        found = work()
        return found, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_of_many_changes_no_more_is_held_than_is_listed() -> None:
    def every_second(first: int) -> Iterator[SnapshotRow]:
        return (row(n) for n in range(first, 2 * MANY, 2))

    changes, peak = peak_of(lambda: diff_rows(every_second(0), every_second(1), most=10))
    assert (changes.counts.added, changes.counts.removed) == (MANY, MANY)
    assert changes.added == [f"{n:064x}" for n in range(1, 20, 2)]
    assert not changes.complete
    assert peak < 150_000  # all of their digests are a million
    assert changes.class_counts == {"a": (MANY, MANY)}


def test_without_a_bound_everything_is_listed() -> None:
    changes = diff_rows((row(n) for n in range(5)), (row(n) for n in range(3, 5)))
    assert (len(changes.removed), changes.counts.removed, changes.complete) == (3, 3, True)


def test_of_changes_of_classes_the_most_frequent_are_listed() -> None:
    names = "abbbccbbc"
    before = [row(n, "x") for n in range(len(names))]
    after = [row(n, name) for n, name in enumerate(names)]
    changes = diff_rows(before, after, most=2)
    assert changes.class_changes == [ClassChange("x", "b", 5), ClassChange("x", "c", 3)]
    assert changes.counts.class_changes == 3


@pytest.mark.parametrize("rows", [1, 511, 512, 513])
def test_a_stream_gives_the_rows_of_the_part(rows: int) -> None:
    part = [row(number, boxes=1) for number in range(rows)]
    assert list(stream_parquet(rows_to_parquet(part), "part")) == part


def test_of_a_part_with_many_boxes_some_rows_are_held_at_a_time() -> None:
    data = rows_to_parquet([row(number, boxes=10) for number in range(1500)])
    held, all_of_them = peak_of(lambda: len(list(stream_parquet(data, "part"))))
    seen, a_few = peak_of(lambda: sum(1 for _ in stream_parquet(data, "part")))
    assert held == seen == 1500
    assert a_few < 0.6 * all_of_them


def test_diff(file_store: ObjectStore) -> None:
    repository = SnapshotRepository(file_store)
    before, _ = write(file_store, ROWS[:8])
    after, _ = write(
        file_store,
        [*ROWS[1:6], make_row(6, class_id="bad"), make_row(7, split="train"), make_row(8)],
    )
    changes = diff(repository.read("cells", before.id), repository.read("cells", after.id))
    assert (changes.added, changes.removed) == ([digest(8)], [digest(0)])
    assert (changes.relabelled, changes.split_changed) == ([digest(6)], [digest(7)])
    assert changes.class_counts == {"bad": (4, 5), "good": (4, 3)}
    same = repository.read("cells", after.id)
    assert not any((diff(same, same).added, diff(same, same).removed, diff(same, same).relabelled))


def test_a_weight_or_a_soft_label_that_changed_is_told(file_store: ObjectStore) -> None:
    repository = SnapshotRepository(file_store)
    before, _ = write(file_store, ROWS[:3])
    soft = make_row(1, probabilities={"good": 0.25, "bad": 0.75})
    after, _ = write(file_store, [make_row(0, weight=2.0), soft, ROWS[2]])
    changes = diff(repository.read("cells", before.id), repository.read("cells", after.id))
    assert (changes.counts.reweighted, changes.counts.relabelled) == (2, 0)
    assert changes.reweighted == sorted((digest(0), digest(1)))


def test_diff_follows_boxes_by_overlap() -> None:
    before = [
        drawn(0, box("good", 0), box("bad", 50)),
        drawn(1, box("good", 0)),
        drawn(2, box("good", 0), box("good", 4)),
        drawn(3),
    ]
    after = [
        drawn(0, box("bad", 50), box("good", 1)),  # moved by one, in another order
        drawn(1, box("bad", 0)),  # another class in the same place
        drawn(2, box("good", 4.5), box("good", 0)),  # each is the nearer one
        drawn(3, box("good", 80), label_source="human"),
    ]
    by_digest = sorted(range(4), key=digest)
    changes = diff_rows([before[n] for n in by_digest], [after[n] for n in by_digest])
    assert {(one.sha256, one.iou) for one in changes.boxes_moved} == {
        (digest(0), round(90 / 110, 4)),
        (digest(2), round(95 / 105, 4)),
    }
    assert changes.class_changes == [ClassChange("good", "bad", 1)]
    assert (changes.boxes_added, changes.boxes_removed) == (1, 0)
    assert set(changes.redrawn) == {digest(n) for n in range(4)}
    assert set(changes.relabelled) == {digest(1), digest(3)}
    far = diff_rows([drawn(5, box("good", 0))], [drawn(5, box("good", 8))])
    assert (far.boxes_moved, far.boxes_added, far.boxes_removed) == ([], 1, 1)

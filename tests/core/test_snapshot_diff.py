"""Comparing large snapshots: what is listed is bounded, what is counted is not, no row is kept."""

import tracemalloc
from collections.abc import Callable, Iterator

import pytest

from visionloop.snapshot_diff import ClassChange, diff_rows
from visionloop.snapshot_rows import (
    SnapshotBox,
    SnapshotRow,
    rows_from_parquet,
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
    held, all_of_them = peak_of(lambda: len(rows_from_parquet(data, "part")))
    seen, a_few = peak_of(lambda: sum(1 for _ in stream_parquet(data, "part")))
    assert held == seen == 1500
    assert a_few < 0.6 * all_of_them

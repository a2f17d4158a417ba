"""What a snapshot may hold, the id that it gives, and how rows of every kind survive Parquet."""

import csv
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from support.snapshot_rows import CLASSES, POLICY, ROWS, box, drawn, make_row, write

from visionloop.errors import InvalidInputError
from visionloop.objectstore import ObjectStore
from visionloop.snapshot import SnapshotClass, SnapshotRepository, SnapshotRow, snapshot_id
from visionloop.snapshot_content import check_content, spooled
from visionloop.snapshot_format import csv_header, csv_lines
from visionloop.snapshot_rows import rows_to_parquet, stream_parquet


class TestContent:
    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ([], "at least one row"),
            ([make_row(1), make_row(1)], "stands 2 times in rows"),
            ([make_row(1, class_id="ugly")], "'ugly', which classes does not list"),
            ([make_row(0, group_id="g"), make_row(2, group_id="g")], "'g' is in train and in val"),
            ([make_row(2, label_source="app")], "belong in train only"),
            ([make_row(3, label_source="model")], "belong in train only"),
        ],
    )
    def test_what_no_snapshot_may_hold(
        self, file_store: ObjectStore, rows: list[SnapshotRow], message: str
    ) -> None:
        with pytest.raises(InvalidInputError, match=message):
            write(file_store, rows)
        assert list(file_store.list()) == []

    def test_two_classes_with_one_id(self) -> None:
        with pytest.raises(InvalidInputError, match="class id 'good' stands 2 times"):
            check_content(ROWS, [*CLASSES, CLASSES[0]])

    @pytest.mark.parametrize("policy", [{"a": object()}, {"a": float("nan")}, {"a": b""}])
    def test_a_policy_that_is_not_json(
        self, file_store: ObjectStore, policy: dict[str, object]
    ) -> None:
        with pytest.raises(InvalidInputError, match="policy"):
            SnapshotRepository(file_store).write(
                "cells", ROWS, CLASSES, policy, label_sequence=1, parent=None
            )

    @pytest.mark.parametrize(
        "change",
        [
            {"sha256": "x"},
            {"width": 0},
            {"height": -1},
            {"split": "dev"},
            {"class_id": ""},
            {"weight": float("nan")},
            {"weight": -1.0},
            {"label_source": "rumour"},
            {"unknown": 1},
        ],
    )
    def test_rows_are_checked(self, change: dict[str, object]) -> None:
        with pytest.raises(ValidationError):
            make_row(1, **change)

    def test_everything_counts_for_the_id(self) -> None:
        plain = snapshot_id(ROWS, CLASSES, POLICY)
        changes: list[dict[str, object]] = [
            {"width": 301},
            {"split": "val"},
            {"group_id": "other"},
            {"class_id": "good"},
            {"attributes": {}},
            {"weight": 2.0},
            {"label_source": "human"},
            {"source": "elsewhere"},
        ]
        ids = {
            snapshot_id([make_row(1, **change), *ROWS[2:]], CLASSES, POLICY) for change in changes
        }
        ids |= {
            plain,
            snapshot_id(ROWS[:-1], CLASSES, POLICY),
            snapshot_id(ROWS, CLASSES[::-1], POLICY),
            snapshot_id(ROWS, CLASSES, {}),
        }
        assert len(ids) == len(changes) + 4

    def test_the_id_of_a_format_never_changes(self) -> None:
        assert snapshot_id(ROWS[:2], CLASSES, POLICY) == (
            "sha256-20886fcc4e70e0f84578901a7db8367b395da932ba93944877dd2e9ef7d312c6"
        )


text = st.text(max_size=20)
name = st.text(min_size=1, max_size=20)
some_rows = st.lists(
    st.builds(
        make_row,
        st.integers(0, 10**9),
        width=st.integers(1, 2**31),
        attributes=st.dictionaries(name, text, max_size=3),
        weight=st.floats(0, 1e308, allow_nan=False),
        class_id=name,
        source=text,
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda row: row.sha256,
)


class TestProperties:
    @settings(max_examples=60, deadline=None)
    @given(rows=some_rows, policy=st.dictionaries(text, st.integers() | text | st.booleans()))
    def test_any_rows_survive_parquet_and_any_order_has_one_id(
        self, rows: list[SnapshotRow], policy: dict[str, object]
    ) -> None:
        assert list(stream_parquet(rows_to_parquet(rows), "part")) == rows
        classes = [SnapshotClass(id=one, name=one) for one in {row.class_id for row in rows}]
        identity = snapshot_id(rows, classes, policy)
        assert snapshot_id(rows[::-1], classes, dict(reversed(policy.items()))) == identity
        turned = [
            row.model_copy(update={"attributes": dict(reversed(row.attributes.items()))})
            for row in rows
        ]
        assert snapshot_id(turned, classes, policy) == identity

    @settings(max_examples=60, deadline=None)
    @given(rows=some_rows)
    def test_no_cell_of_the_csv_begins_a_formula(self, rows: list[SnapshotRow]) -> None:
        names = {row.class_id: f"={row.class_id}" for row in rows}
        content = csv_header() + csv_lines(rows, names)
        table = list(csv.DictReader(io.StringIO(content, newline="")))
        for row, cells in zip(rows, table, strict=True):
            assert not any(
                cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in cells.values()
            )
            assert cells["sha256"] == row.sha256
            assert cells["class_name"] == f"'={row.class_id}"
            assert json.loads(cells["attributes"]) == row.attributes


class TestSoftLabels:
    SOFT = make_row(1, class_id="good", probabilities={"good": 0.75, "bad": 0.25})

    def test_they_survive_beside_rows_of_every_kind(self, store: ObjectStore) -> None:
        rows = [make_row(0), self.SOFT, drawn(2, box("good", 0)), make_row(3, weight=0.0)]
        manifest, _ = write(store, rows)
        read = SnapshotRepository(store).read("cells", manifest.id)
        assert read.rows == sorted(rows, key=lambda row: row.sha256)
        assert list(SnapshotRepository(store).stream(manifest)) == read.rows

    def test_a_class_that_is_only_possible_is_declared_and_shown_by_no_image(self) -> None:
        with pytest.raises(InvalidInputError, match="class 'bad', which classes does not list"):
            check_content([self.SOFT], CLASSES[:1])
        with spooled(CLASSES) as content:
            content.take([self.SOFT])
            assert content.used_classes() == CLASSES
            assert content.counts["class_images"] == {
                "train": {"good": 1}, "val": {}, "test": {},
            }  # fmt: skip

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"class_id": None}, "has a soft label and no class that it counts as"),
            ({"probabilities": {"good": 0.75, "bad": 0.23}}, "add up to 0.98; they must"),
            ({"probabilities": {"good": 0.75, "bad": 0.27}}, "add up to 1.02; they must"),
        ],
    )
    def test_one_that_says_too_little_or_too_much_is_refused(
        self, changes: dict[str, object], words: str
    ) -> None:
        row = self.SOFT.model_copy(update=changes)
        with pytest.raises(InvalidInputError, match=f"image {row.sha256} .*{words}"):
            check_content([row], CLASSES)

    def test_one_that_was_rounded_is_taken(self) -> None:
        thirds = {"good": 0.333, "bad": 0.333, "none": 0.333}
        classes = [*CLASSES, SnapshotClass(id="none", name="None")]
        check_content([self.SOFT.model_copy(update={"probabilities": thirds})], classes)

    def test_the_id_of_such_rows_never_changes(self) -> None:
        hard = self.SOFT.model_copy(update={"probabilities": {}})
        assert b"probabilities" not in hard.canonical()
        assert b'"probabilities":{"bad":0.25,"good":0.75}' in self.SOFT.canonical()

    def test_the_table_for_people_has_them(self) -> None:
        names = {one.id: one.name for one in CLASSES}
        [header, line] = csv.reader(io.StringIO(csv_header() + csv_lines([self.SOFT], names)))
        told = dict(zip(header, line, strict=True))
        assert json.loads(told["probabilities"]) == self.SOFT.probabilities


values = st.dictionaries(name, text | st.floats(allow_nan=False, allow_infinity=False), max_size=2)
lengths = st.floats(0, 1e6)
some_annotated = st.lists(
    st.builds(
        make_row,
        st.integers(0, 10**9),
        class_id=st.none() | name,
        labels=st.lists(name, max_size=3),
        boxes=st.lists(
            st.fixed_dictionaries(
                {"class_id": name, "x": lengths, "y": lengths, "width": lengths, "height": lengths},
                optional={"attributes": values},
            ),
            max_size=2,
        ),
        shapes=st.lists(
            st.fixed_dictionaries(
                {"kind": st.just("polygon"), "class_id": name},
                optional={"points": st.lists(st.tuples(lengths, lengths), max_size=3)},
            )
            | st.fixed_dictionaries(
                {
                    "kind": st.just("mask"),
                    "class_id": name,
                    "counts": st.lists(st.integers(0, 2**40), max_size=4),
                    "size": st.just((3, 4)),
                }
            ),
            max_size=2,
        ),
        label_attributes=values,
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda row: row.sha256,
)


class TestAnnotated:
    @settings(max_examples=60, deadline=None)
    @given(rows=some_annotated)
    def test_any_annotation_survives_parquet_with_its_digest(self, rows: list[SnapshotRow]) -> None:
        read = list(stream_parquet(rows_to_parquet(rows), "part"))
        assert read == rows
        assert [row.canonical() for row in read] == [row.canonical() for row in rows]

    def test_parts_without_annotations_keep_their_bytes(self) -> None:
        """So that snapshots of both kinds share them."""
        columns = pq.read_schema(pa.BufferReader(rows_to_parquet(ROWS))).names
        assert columns == [
            *("sha256", "width", "height", "split", "group_id", "class_id", "attributes"),
            *("weight", "label_source", "source"),
        ]

    def test_the_id_of_annotated_rows_never_changes(self) -> None:
        rows = [
            drawn(0, {**box("good", 1.5), "attributes": {"a": "b", "n": 2.0}}),
            make_row(1, labels=["bad", "good"], label_attributes={"tone": "#ff0000"}),
        ]
        assert snapshot_id(rows, CLASSES, POLICY) == (
            "sha256-49522cfec3d1a57c837b2fb0a120ef48d30630d27a3245210c9732f8cac7aabd"
        )

    def test_counts_of_boxes_and_of_images_that_show_a_class(self, store: ObjectStore) -> None:
        rows = [
            drawn(0, box("good", 0), box("good", 5), box("bad", 9)),
            drawn(1),
            make_row(2, class_id=None, labels=["good"]),
        ]
        manifest, _ = write(store, rows)
        assert manifest.split_images == {"train": 2, "val": 1, "test": 0}
        assert manifest.class_images["train"] == {"bad": 1, "good": 1}
        assert (manifest.boxes, manifest.shapes) == (3, 0)
        assert SnapshotRepository(store).read("cells", manifest.id).rows == sorted(
            rows, key=lambda row: row.sha256
        )

    def test_a_class_of_a_box_is_declared_as_well(self, file_store: ObjectStore) -> None:
        with pytest.raises(InvalidInputError, match="'ugly', which classes does not list"):
            write(file_store, [drawn(0, box("ugly", 0))])

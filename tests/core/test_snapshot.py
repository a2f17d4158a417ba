"""Snapshots on a folder and on a real S3 server: one id for one content, verified when read."""

import csv
import gzip
import io
import json
import multiprocessing
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import visionloop.snapshot_format
from visionloop.errors import (
    ConflictError,
    CorruptError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
)
from visionloop.objectstore import ObjectStore, open_store
from visionloop.snapshot import (
    SnapshotClass,
    SnapshotManifest,
    SnapshotRepository,
    SnapshotRow,
    blob_key,
    diff,
    snapshot_id,
)
from visionloop.snapshot_content import check_content, spooled
from visionloop.snapshot_diff import ClassChange, diff_rows
from visionloop.snapshot_format import (
    labels_csv,
    part_rows,
    rows_from_parquet,
    rows_to_parquet,
)
from visionloop.snapshot_latest import LatestPointer, LatestSnapshot

SPAWN = multiprocessing.get_context("spawn")
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


ROWS = [make_row(number) for number in range(12)]


def write(
    store: ObjectStore, rows: list[SnapshotRow] = ROWS, *, label_sequence: int = 12
) -> tuple[SnapshotManifest, bool]:
    return SnapshotRepository(store).write(
        "cells", rows, CLASSES, POLICY, label_sequence=label_sequence, parent=None
    )


class TestWriteAndRead:
    def test_round_trip(self, store: ObjectStore) -> None:
        repository = SnapshotRepository(store)
        manifest, created = write(store)
        assert created
        assert manifest.id == snapshot_id(ROWS, CLASSES, POLICY)
        assert manifest.split_images == {"train": 6, "val": 3, "test": 3}
        assert manifest.class_images["train"] == {"bad": 3, "good": 3}
        assert (manifest.groups, manifest.largest_group) == (12, 1)
        snapshot = repository.read("cells", manifest.id)
        assert snapshot.manifest == manifest
        assert snapshot.rows == sorted(ROWS, key=lambda row: row.sha256)
        assert {row.split for row in snapshot.split("val")} == {"val"}
        assert len(snapshot.split("val")) == 3
        assert (repository.datasets(), repository.list("cells")) == (["cells"], [manifest])
        assert repository.latest("cells") == manifest
        digits = manifest.id.removeprefix("sha256-")
        for name in ("latest", manifest.id[:15], digits[:4], digits):
            assert repository.read("cells", name).manifest == manifest

    def test_the_same_content_is_written_once(self, store: ObjectStore) -> None:
        first, _ = write(store)
        before = {stat.key: stat.etag for stat in store.list()}
        again, created = write(store, list(reversed(ROWS)))
        assert (again, created) == (first, False)
        assert {stat.key: stat.etag for stat in store.list()} == before

    def test_other_content_is_another_snapshot(self, store: ObjectStore) -> None:
        repository = SnapshotRepository(store)
        first, _ = write(store)
        second, created = write(store, [*ROWS[:-1], make_row(11, class_id="good")])
        assert created
        assert first.id != second.id
        assert [one.id for one in repository.list("cells")] == [first.id, second.id]
        assert repository.latest("cells") == second
        assert repository.read("cells", first.id).rows != repository.read("cells", second.id).rows

    def test_nothing_there(self, store: ObjectStore) -> None:
        repository = SnapshotRepository(store)
        assert (repository.datasets(), repository.list("cells")) == ([], [])
        for call in (
            lambda: repository.latest("cells"),
            lambda: repository.read("cells", "latest"),
        ):
            with pytest.raises(NotFoundError, match="visionloop snapshots create cells"):
                call()
        for name in ("sha256-" + "0" * 64, "abcd"):
            with pytest.raises(NotFoundError, match=f"no snapshot {name}"):
                repository.read("cells", name)

    @pytest.mark.parametrize("name", ["", "abc", "sha256-", "../../x", "ABCD", "latest "])
    def test_bad_ids(self, file_store: ObjectStore, name: str) -> None:
        with pytest.raises(InvalidInputError, match="neither latest nor an id"):
            SnapshotRepository(file_store).read("cells", name)

    def test_a_start_that_two_ids_share(self, file_store: ObjectStore) -> None:
        repository = SnapshotRepository(file_store)
        for name in ("sha256-abcd" + "0" * 60, "sha256-abcd" + "1" * 60):
            file_store.put(f"datasets/cells/snapshots/{name}/manifest.json", b"{}")
        with pytest.raises(InvalidInputError, match="2 snapshots of 'cells' start with abcd"):
            repository.read("cells", "abcd")

    @pytest.mark.parametrize("dataset", ["", "..", "a/b", "A", "-a", "a" * 64, "a\n"])
    def test_names_of_datasets(self, file_store: ObjectStore, dataset: str) -> None:
        repository = SnapshotRepository(file_store)
        for call in (
            lambda: repository.list(dataset),
            lambda: repository.latest(dataset),
            lambda: repository.read(dataset, "abcd"),
            lambda: repository.write(dataset, ROWS, CLASSES, POLICY, label_sequence=1, parent=None),
        ):
            with pytest.raises(InvalidInputError) as caught:
                call()
            assert caught.value.field == "dataset"

    def test_blob_key(self) -> None:
        assert blob_key("ab12" + "0" * 60) == "blobs/sha256/ab/12/ab12" + "0" * 60
        for bad in ("", "../" + "0" * 61, "AB" * 32, "0" * 63, "0" * 64 + "\n"):
            with pytest.raises(InvalidInputError):
                blob_key(bad)


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
        assert rows_from_parquet(rows_to_parquet(rows), "part") == rows
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
        classes = [SnapshotClass(id=one, name=f"={one}") for one in {r.class_id for r in rows}]
        content = gzip.decompress(labels_csv(rows, classes)).decode()
        table = list(csv.DictReader(io.StringIO(content, newline="")))
        for row, cells in zip(sorted(rows, key=lambda row: row.sha256), table, strict=True):
            assert not any(
                cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in cells.values()
            )
            assert cells["sha256"] == row.sha256
            assert cells["class_name"] == f"'={row.class_id}"
            assert json.loads(cells["attributes"]) == row.attributes


class TestParts:
    def test_a_changed_row_changes_one_part(
        self, file_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(visionloop.snapshot_format, "MAX_PART_ROWS", 20)
        rows = [make_row(number) for number in range(200)]
        assert all(len(part) <= 20 for part in part_rows(rows))
        first, _ = write(file_store, rows)
        second, _ = write(file_store, [*rows[:-1], make_row(199, class_id="good")])
        assert len(first.parts) > 10
        assert len({part.key for part in first.parts} ^ {part.key for part in second.parts}) == 2
        read = SnapshotRepository(file_store).read("cells", second.id).rows
        assert len(read) == 200

    def test_a_lost_part_is_written_again(self, file_store: ObjectStore) -> None:
        manifest, _ = write(file_store)
        part = manifest.parts[0]
        good = file_store.get(part.key).data
        file_store.put(part.key, good[:-1])
        file_store.delete(f"datasets/cells/snapshots/{manifest.id}/manifest.json")
        write(file_store)
        assert SnapshotRepository(file_store).read("cells", manifest.id).manifest.id == manifest.id


class TestDamage:
    def test_altered_torn_and_missing_parts(self, store: ObjectStore) -> None:
        manifest, _ = write(store)
        repository = SnapshotRepository(store)
        part = manifest.parts[0]
        good = store.get(part.key).data
        for bad in (good[:-1], good[:-1] + bytes([good[-1] ^ 1]), b""):
            store.put(part.key, bad)
            with pytest.raises(CorruptError, match="altered"):
                repository.read("cells", manifest.id)
        store.delete(part.key)
        with pytest.raises(CorruptError, match="missing"):
            repository.read("cells", manifest.id)
        store.put(part.key, good)
        assert repository.read("cells", manifest.id).manifest == manifest

    def test_content_that_does_not_give_the_id(self, file_store: ObjectStore) -> None:
        """A manifest whose digests are all right, put together by somebody else."""
        manifest, _ = write(file_store)
        data = rows_to_parquet([make_row(number, class_id="bad") for number in range(12)])
        other = sha256(data).hexdigest()
        file_store.put(f"datasets/cells/parts/{other}.parquet", data)
        document = json.loads(manifest.model_dump_json())
        document["parts"] = [
            {"key": f"datasets/cells/parts/{other}.parquet", "rows": 12, "sha256": other}
        ]
        key = f"datasets/cells/snapshots/{manifest.id}/manifest.json"
        file_store.put(key, json.dumps(document).encode())
        with pytest.raises(CorruptError, match="does not give this id"):
            SnapshotRepository(file_store).read("cells", manifest.id)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda one: one.update(format_version=2), "format version 2"),
            (lambda one: one.update(extra=1), "extra"),
            (lambda one: one.update(dataset="birds"), "the one of 'birds'"),
            (lambda one: one.update(id="sha256-" + "0" * 64), "the one of"),
            (lambda one: one["parts"][0].update(key="blobs/secret"), "is not datasets/cells/parts"),
            (lambda one: one["parts"][0].update(rows=3), "the manifest says 3"),
            (lambda one: one["parts"].clear(), "parts"),
            (lambda one: one["classes"].pop(), "does not list"),
        ],
    )
    def test_a_damaged_manifest(
        self, file_store: ObjectStore, change: Callable[[dict[str, object]], object], message: str
    ) -> None:
        manifest, _ = write(file_store)
        document = json.loads(manifest.model_dump_json())
        change(document)
        key = f"datasets/cells/snapshots/{manifest.id}/manifest.json"
        file_store.put(key, json.dumps(document).encode())
        with pytest.raises(CorruptError, match=message):
            SnapshotRepository(file_store).read("cells", manifest.id)


class Contested:
    """A store in which somebody else is always faster, or so many times."""

    def __init__(self, store: ObjectStore, times: int | None = None) -> None:
        self._store = store
        self._times = times

    def compare_and_swap(self, key: str, data: bytes, etag: str | None) -> str:
        if self._times != 0:
            self._times = None if self._times is None else self._times - 1
            raise ConflictError(f"{key} changed")
        return self._store.compare_and_swap(key, data, etag)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class TestLatest:
    def test_it_follows_the_labels_not_the_clock(self, file_store: ObjectStore) -> None:
        repository = SnapshotRepository(file_store)
        newer, _ = write(file_store, label_sequence=20)
        older, created = write(file_store, ROWS[:-1], label_sequence=10)  # a slow writer
        assert created
        assert repository.latest("cells").id == newer.id
        again, created = write(file_store, ROWS[:-1], label_sequence=30)  # the labels went back
        assert (again.id, created) == (older.id, False)
        assert repository.latest("cells").id == older.id

    def test_without_the_pointer(self, file_store: ObjectStore) -> None:
        repository = SnapshotRepository(file_store)
        write(file_store, label_sequence=10)
        newer, _ = write(file_store, ROWS[:-1], label_sequence=20)
        file_store.delete("datasets/cells/refs/latest.json")
        assert repository.latest("cells") == newer
        write(file_store, ROWS[:-1], label_sequence=20)
        assert json.loads(file_store.get("datasets/cells/refs/latest.json").data)["id"] == newer.id

    def test_a_pointer_that_was_not_moved(self, store: ObjectStore) -> None:
        """As after a crash between the manifest and the pointer."""
        repository = SnapshotRepository(store)
        write(store, label_sequence=10)
        pointer = store.get("datasets/cells/refs/latest.json").data
        newer, _ = write(store, ROWS[:-1], label_sequence=20)
        manifest_key = f"datasets/cells/snapshots/{newer.id}/manifest.json"
        store.put("datasets/cells/refs/latest.json", pointer)
        store.put(manifest_key, store.get(manifest_key).data)
        assert repository.latest("cells") == newer
        _, created = write(store, ROWS[:-1], label_sequence=20)
        assert not created
        assert json.loads(store.get("datasets/cells/refs/latest.json").data)["id"] == newer.id

    def test_a_pointer_that_is_never_left_alone(self, file_store: ObjectStore) -> None:
        """As where another program writes it, or a proxy loses what makes a write conditional."""
        clock, pauses = [0.0], list[float]()

        def sleep(seconds: float) -> None:
            pauses.append(seconds)
            clock[0] += seconds

        pointer = LatestPointer(Contested(file_store), "cells", now=lambda: clock[0], sleep=sleep)
        wanted = LatestSnapshot(id="sha256-" + "0" * 64, label_sequence=3)
        with pytest.raises(UnavailableError, match=r"refs/latest.json was changed before each of"):
            pointer.move(wanted)
        assert 5 < len(pauses) < 500
        assert clock[0] <= 30.0
        LatestPointer(Contested(file_store, times=4), "cells", sleep=sleep).move(wanted)
        assert json.loads(file_store.get("datasets/cells/refs/latest.json").data) == {
            "id": wanted.id,
            "label_sequence": 3,
        }

    def test_processes_that_write_at_once(self, store: ObjectStore, store_url: str) -> None:
        """Two write the same content, two others; all are there and the latest labels win."""
        counts = [6, 8, 10, 10]
        with SPAWN.Pool(4) as pool:
            created = pool.starmap(write_first_rows, [(store_url, count) for count in counts])
        repository = SnapshotRepository(store)
        assert created[:2] == [True, True]
        assert sorted(created[2:]) == [False, True]
        assert len(repository.list("cells")) == 3
        assert len(repository.read("cells", "latest").rows) == 10


def write_first_rows(url: str, count: int) -> bool:
    return write(open_store(url), ROWS[:count], label_sequence=count)[1]


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


class TestSoftLabels:
    SOFT = make_row(1, class_id="good", probabilities={"good": 0.75, "bad": 0.25})

    def test_they_survive_beside_rows_of_every_kind(self, store: ObjectStore) -> None:
        rows = [make_row(0), self.SOFT, drawn(2, box("good", 0)), make_row(3, weight=0.0)]
        manifest, _ = write(store, rows)
        read = SnapshotRepository(store).read("cells", manifest.id)
        assert read.rows == sorted(rows, key=lambda row: row.sha256)
        assert list(SnapshotRepository(store).stream(manifest)) == read.rows

    def test_a_class_that_is_only_possible_is_declared_and_shown_by_no_image(
        self, file_store: ObjectStore
    ) -> None:
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
        [header, line] = csv.reader(
            io.StringIO(gzip.decompress(labels_csv([self.SOFT], CLASSES)).decode())
        )
        told = dict(zip(header, line, strict=True))
        assert json.loads(told["probabilities"]) == self.SOFT.probabilities


def box(class_id: str, x: float, y: float = 0, side: float = 10) -> dict[str, object]:
    return {"class_id": class_id, "x": x, "y": y, "width": side, "height": side}


def drawn(number: int, *boxes: dict[str, object], **changes: object) -> SnapshotRow:
    return make_row(number, **{"class_id": None, "boxes": boxes, **changes})


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
        read = rows_from_parquet(rows_to_parquet(rows), "part")
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


class TestStream:
    def test_it_gives_what_read_gives(self, store: ObjectStore) -> None:
        repository = SnapshotRepository(store)
        manifest, _ = write(store)
        assert list(repository.stream(manifest)) == repository.read("cells", "latest").rows

    def test_damage_is_noticed(self, file_store: ObjectStore) -> None:
        repository = SnapshotRepository(file_store)
        manifest, _ = write(file_store)
        altered = manifest.model_copy(update={"policy": {"another": 1}})
        with pytest.raises(CorruptError, match="does not give this id"):
            list(repository.stream(altered))
        file_store.put(manifest.parts[0].key, b"")
        with pytest.raises(CorruptError, match="altered"):
            next(repository.stream(manifest))

    def test_rows_out_of_order_are_refused(self) -> None:
        with spooled(CLASSES) as content, pytest.raises(InvalidInputError, match="out of order"):
            content.take(sorted(ROWS, key=lambda row: row.sha256, reverse=True))

    def test_manifests_of_the_first_snapshots_are_read(self, file_store: ObjectStore) -> None:
        manifest, _ = write(file_store)
        document = json.loads(manifest.model_dump_json())
        for later in (
            *("task", "class_version", "suggested_by", "leaks", "class_weights", "label_sources"),
            *("boxes", "shapes"),
        ):
            del document[later]
        key = f"datasets/cells/snapshots/{manifest.id}/manifest.json"
        file_store.put(key, json.dumps(document).encode())
        read = SnapshotRepository(file_store).read("cells", manifest.id)
        assert (read.manifest.task, read.manifest.class_weights) == ("classification", {})

"""Snapshots on a folder and on a real S3 server: one id for one content, verified when read."""

import json
import multiprocessing
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest
from support.snapshot_rows import CLASSES, POLICY, ROWS, make_row, write

import visionloop.snapshot_format
from visionloop.errors import (
    ConflictError,
    CorruptError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
)
from visionloop.objectstore import ObjectStore, open_store
from visionloop.snapshot import SnapshotRepository, blob_key, snapshot_id
from visionloop.snapshot_content import spooled
from visionloop.snapshot_latest import LatestPointer, LatestSnapshot
from visionloop.snapshot_rows import rows_to_parquet

SPAWN = multiprocessing.get_context("spawn")


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


class TestParts:
    def test_a_changed_row_changes_one_part(
        self, file_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(visionloop.snapshot_format, "MAX_PART_ROWS", 20)
        rows = [make_row(number) for number in range(200)]
        first, _ = write(file_store, rows)
        second, _ = write(file_store, [*rows[:-1], make_row(199, class_id="good")])
        assert len(first.parts) > 10
        assert all(part.rows <= 20 for part in first.parts)
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

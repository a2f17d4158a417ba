"""Versions on a folder and on a real S3 server: whole or not at all, each number for one run."""

import json
import multiprocessing
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.alias_moves import Asked, promote
from support.file_bundles import publish_version, write_bundle
from support.small_disk import small_disk

from visionloop import publishing
from visionloop.bundle import BundleFile
from visionloop.errors import (
    ConflictError,
    CorruptError,
    DiskFullError,
    InvalidInputError,
    NotFoundError,
)
from visionloop.objectstore import ObjectStore, open_store
from visionloop.record import record_bytes
from visionloop.repository import ModelRepository, file_entry

SPAWN = multiprocessing.get_context("spawn")


class Stalled:
    """A store for a process that waits before its first upload while `meanwhile` happens."""

    def __init__(self, store: ObjectStore, meanwhile: Callable[[], None]) -> None:
        self._store = store
        self._meanwhile: Callable[[], None] | None = meanwhile
        self._lock = threading.Lock()

    def upload(self, path: Path, key: str) -> str:
        with self._lock:
            meanwhile, self._meanwhile = self._meanwhile, None
            if meanwhile is not None:
                meanwhile()
        return self._store.upload(path, key)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class TestVersions:
    def test_publish_read_fetch(
        self, repository: ModelRepository, store: ObjectStore, tmp_path: Path
    ) -> None:
        bundle = publish_version(repository, tmp_path / "run")
        assert (bundle.version, repository.versions("cells")) == (1, [1])
        assert repository.models() == ["cells"]
        assert repository.read("cells", 1) == bundle
        assert repository.fetch("cells", 1, tmp_path / "cache") == bundle
        for name in bundle.files:
            fetched = (tmp_path / "cache" / name).read_bytes()
            assert fetched == (tmp_path / "run" / name).read_bytes()
        assert json.loads((tmp_path / "cache" / "bundle.json").read_bytes())["version"] == 1
        assert {stat.key.removeprefix("models/cells/versions/1/") for stat in store.list()} == {
            *bundle.files,
            "claim.json",
            "content.json",
            "bundle.json",
        }

    def test_publishing_leaves_the_run_folder_as_it_was(
        self, local: ModelRepository, tmp_path: Path
    ) -> None:
        bundle = publish_version(local, tmp_path / "run")
        left = {str(p.relative_to(tmp_path / "run")) for p in (tmp_path / "run").rglob("*.*")}
        assert left == set(bundle.files)

    def test_a_claim_is_invisible_and_its_number_not_used_again(
        self, repository: ModelRepository, tmp_path: Path
    ) -> None:
        assert repository.claim("cells", "run-a") == 1
        assert (repository.models(), repository.versions("cells")) == ([], [])
        with pytest.raises(NotFoundError):
            repository.read("cells", 1)
        assert publish_version(repository, tmp_path / "b").version == 2
        assert repository.claim("cells", "run-c") == 3
        assert repository.versions("cells") == [2]

    def test_a_run_gets_its_own_claim_back(self, repository: ModelRepository) -> None:
        assert [repository.claim("cells", run) for run in ("a", "b", "a", "b", "c", "a")] == [
            *(1, 2, 1, 2, 3, 1)
        ]

    def test_a_version_is_published_once(self, local: ModelRepository, tmp_path: Path) -> None:
        first = publish_version(local, tmp_path / "run")
        again = write_bundle(tmp_path / "again", 1, run_id="run-run", content=b"other")
        with pytest.raises(ConflictError, match="published already"):
            local.publish(again, tmp_path / "again")
        assert local.fetch("cells", 1, tmp_path / "cache") == first

    def test_a_number_of_another_run_is_refused(
        self, local: ModelRepository, file_store: ObjectStore, tmp_path: Path
    ) -> None:
        local.claim("cells", "run-a")
        stolen = write_bundle(tmp_path, 1, run_id="run-b")
        with pytest.raises(ConflictError, match="claimed by run run-a, not by run-b"):
            local.publish(stolen, tmp_path)
        assert [stat.key for stat in file_store.list()] == ["models/cells/versions/1/claim.json"]

    def test_two_processes_of_one_run_do_not_mix_their_files(
        self, repository: ModelRepository, store: ObjectStore, tmp_path: Path
    ) -> None:
        number = repository.claim("cells", "run")
        slow = write_bundle(tmp_path / "slow", number, content=b"slow")
        other = write_bundle(tmp_path / "other", number, content=b"other")

        def meanwhile() -> None:
            with pytest.raises(ConflictError, match="with other files by another process of run"):
                repository.publish(other, tmp_path / "other")

        ModelRepository(Stalled(store, meanwhile)).publish(slow, tmp_path / "slow")
        assert repository.fetch("cells", number, tmp_path / "cache") == slow

    def test_a_process_that_has_the_same_files_may_go_on_beside(
        self, repository: ModelRepository, store: ObjectStore, tmp_path: Path
    ) -> None:
        number = repository.claim("cells", "run")
        slow = write_bundle(tmp_path / "slow", number)
        other = write_bundle(tmp_path / "other", number)
        stalled = Stalled(store, lambda: repository.publish(other, tmp_path / "other"))
        with pytest.raises(ConflictError, match="published already"):
            ModelRepository(stalled).publish(slow, tmp_path / "slow")
        assert repository.fetch("cells", number, tmp_path / "cache") == other

    def test_a_full_disk_takes_nothing_of_what_another_process_published(
        self, local: ModelRepository, file_store: ObjectStore, tmp_path: Path
    ) -> None:
        number = local.claim("cells", "run")
        slow = write_bundle(tmp_path / "slow", number)
        other = write_bundle(tmp_path / "other", number)

        def meanwhile() -> None:
            local.publish(other, tmp_path / "other")
            raise DiskFullError("no room")

        with pytest.raises(DiskFullError):
            ModelRepository(Stalled(file_store, meanwhile)).publish(slow, tmp_path / "slow")
        assert local.fetch("cells", number, tmp_path / "cache") == other

    def test_a_full_disk_takes_nothing_of_what_another_process_is_about_to_publish(
        self,
        local: ModelRepository,
        file_store: ObjectStore,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        number = local.claim("cells", "run")
        first = write_bundle(tmp_path / "first", number)
        second = write_bundle(tmp_path / "second", number)

        def no_room() -> None:
            raise DiskFullError("no room")

        def meanwhile() -> None:
            with pytest.raises(DiskFullError):
                ModelRepository(Stalled(file_store, no_room)).publish(second, tmp_path / "second")

        monkeypatch.setattr(publishing, "failpoint", lambda _: meanwhile())  # files are uploaded
        local.publish(first, tmp_path / "first")
        assert local.fetch("cells", number, tmp_path / "cache") == first

    def test_publishing_claims_a_free_number(self, local: ModelRepository, tmp_path: Path) -> None:
        local.publish(write_bundle(tmp_path, 5, run_id="run-a"), tmp_path)
        assert local.versions("cells") == [5]
        assert local.claim("cells", "run-b") == 6

    @pytest.mark.parametrize(
        "name",
        [
            "../x",
            "/etc/x",
            "a//b",
            "",
            "a\\b",
            "bundle.json",
            "claim.json",
            "content.json",
            "golden",
            "report/report.json/x",
        ],
    )
    def test_names_that_leave_the_folder_are_refused(
        self, local: ModelRepository, file_store: ObjectStore, tmp_path: Path, name: str
    ) -> None:
        bundle = write_bundle(tmp_path, 1)
        entry = BundleFile(size=0, sha256="0" * 64)
        bad = bundle.model_copy(update={"files": {**bundle.files, name: entry}})
        with pytest.raises(InvalidInputError):
            local.publish(bad, tmp_path)
        assert list(file_store.list()) == []
        file_store.put("models/cells/versions/1/bundle.json", record_bytes(bad))
        with pytest.raises(CorruptError, match=r"bundle\.json"):
            local.fetch("cells", 1, tmp_path / "cache")
        assert not (tmp_path / "cache").exists()

    def test_a_file_changed_before_publishing(
        self, local: ModelRepository, file_store: ObjectStore, tmp_path: Path
    ) -> None:
        bundle = write_bundle(tmp_path, 1)
        (tmp_path / "model.onnx").write_bytes(b"other")
        with pytest.raises(CorruptError, match=r"model\.onnx changed"):
            local.publish(bundle, tmp_path)
        (tmp_path / "model.onnx").unlink()
        with pytest.raises(NotFoundError, match=r"model\.onnx"):
            local.publish(bundle, tmp_path)
        assert list(file_store.list()) == []

    @pytest.mark.parametrize("model", ["", "A", "a/b", "..", "-a", "a" * 64, "a\n"])
    def test_names_of_models(self, local: ModelRepository, model: str) -> None:
        for call in (
            lambda: local.versions(model),
            lambda: local.read(model, 1),
            lambda: local.claim(model, "run"),
            lambda: local.aliases(model),
            lambda: local.resolve(model, ""),
            lambda: local.history(model),
        ):
            with pytest.raises(InvalidInputError) as caught:
                call()
            assert caught.value.field == "model"

    def test_what_a_version_holds_does_not_slow_the_listing(
        self, repository: ModelRepository, store: ObjectStore, tmp_path: Path
    ) -> None:
        publish_version(repository, tmp_path / "a")
        repository.claim("cells", "unfinished")
        publish_version(repository, tmp_path / "b")
        asked = Asked(store)
        observed = ModelRepository(asked)
        assert observed.versions("cells") == [1, 3]
        assert asked.calls == ["list_folders", "stat", "stat", "stat"]
        asked.calls.clear()
        assert observed.versions("cells", known=[1]) == [1, 3]
        assert asked.calls == ["list_folders", "stat", "stat"]  # of a version, and of a claim
        asked.calls.clear()
        assert observed.models() == ["cells"]
        assert asked.calls == ["list_folders", "list_folders", "stat"]

    def test_file_entry(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"abc")
        entry = file_entry(tmp_path / "file")
        assert (entry.size, entry.sha256[:16]) == (3, "ba7816bf8f01cfea")


class TestDamage:
    def test_altered_missing_and_torn_files(
        self, repository: ModelRepository, store: ObjectStore, tmp_path: Path
    ) -> None:
        bundle = publish_version(repository, tmp_path / "run")
        start = "models/cells/versions/1/"
        good = store.get(f"{start}model.onnx").data
        for number, bad in enumerate((good[:-1] + b"?", good[:-1])):
            store.put(f"{start}model.onnx", bad)
            cache = tmp_path / f"cache-{number}"
            with pytest.raises(CorruptError, match=r"model\.onnx"):
                repository.fetch("cells", 1, cache)
            assert not (cache / "bundle.json").exists()
            assert not (cache / "model.onnx").exists()
        store.delete(f"{start}model.onnx")
        with pytest.raises(CorruptError, match=r"model\.onnx is missing"):
            repository.fetch("cells", 1, tmp_path / "cache")
        store.put(f"{start}model.onnx", good)
        assert repository.fetch("cells", 1, tmp_path / "cache") == bundle

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda data: data[: len(data) // 2], "torn or not ours"),
            (lambda data: b"", "torn or not ours"),
            (lambda data: b"\xff\xfe", "torn or not ours"),
            (lambda data: b"[]", "torn or not ours"),
            (lambda data: data.replace(b'"format_version": 1', b'"format_version": 2'), "knows 1"),
            (lambda data: data.replace(b'\n  "version": 1', b'\n  "version": 9'), "version 9"),
            (lambda data: data.replace(b'"model": "cells"', b'"model": "birds"'), "birds"),
            (lambda data: data.replace(b'"graph"', b'"graf"'), "graf"),
        ],
    )
    def test_a_damaged_marker(
        self, local: ModelRepository, file_store: ObjectStore, tmp_path: Path, damage, message: str
    ) -> None:
        publish_version(local, tmp_path / "run")
        key = "models/cells/versions/1/bundle.json"
        damaged = damage(file_store.get(key).data)
        assert damaged != file_store.get(key).data
        file_store.put(key, damaged)
        for call in (
            lambda: local.read("cells", 1),
            lambda: local.fetch("cells", 1, tmp_path / "cache"),
            lambda: promote(local, 1),
        ):
            with pytest.raises(CorruptError, match=message):
                call()


class TestFetch:
    def test_good_files_are_kept_and_damaged_ones_fetched_again(
        self, local: ModelRepository, file_store: ObjectStore, tmp_path: Path
    ) -> None:
        publish_version(local, tmp_path / "run")
        cache = tmp_path / "cache"
        local.fetch("cells", 1, cache)
        kept = (cache / "golden/0.jpg").stat().st_mtime_ns
        good = (cache / "model.onnx").read_bytes()
        (cache / "model.onnx").write_bytes(bytes(len(good)))
        file_store.delete("models/cells/versions/1/golden/0.jpg")  # it need not be fetched
        local.fetch("cells", 1, cache)
        assert (cache / "model.onnx").read_bytes() == good
        assert (cache / "golden/0.jpg").stat().st_mtime_ns == kept

    def test_processes_fetch_into_one_folder(
        self, repository: ModelRepository, store_url: str, tmp_path: Path
    ) -> None:
        bundle = publish_version(repository, tmp_path / "run")
        with SPAWN.Pool(3) as pool:
            versions = pool.starmap(fetch_version, [(store_url, tmp_path / "cache")] * 3)
        assert versions == [1, 1, 1]
        assert {
            name: file_entry(tmp_path / "cache" / name) for name in bundle.files
        } == bundle.files
        assert list((tmp_path / "cache").rglob("*.partial")) == []


def fetch_version(url: str, folder: Path) -> int:
    return ModelRepository(open_store(url)).fetch("cells", 1, folder).version


def test_racing_runs_get_numbers_of_their_own(store_url: str) -> None:
    with SPAWN.Pool(3) as pool:
        claimed = pool.starmap(claim_twice, [(store_url, f"run-{n}") for n in range(3)])
    assert sorted(number for number, _ in claimed) == [1, 2, 3]
    assert all(first == again for first, again in claimed)


def claim_twice(url: str, run_id: str) -> tuple[int, int]:
    repository = ModelRepository(open_store(url))
    return repository.claim("cells", run_id), repository.claim("cells", run_id)


def test_a_store_without_room_keeps_nothing_of_a_version(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        store = open_store((disk.folder / "store").as_uri())
        repository = ModelRepository(store)
        bundle = publish_version(repository, tmp_path / "first")
        number = repository.claim("cells", "second")
        folder = tmp_path / "second"
        second = write_bundle(folder, number, run_id="second")
        disk.fill()
        with pytest.raises(DiskFullError, match="models/cells/versions/2/"):
            repository.publish(second, folder)
        left = [stat.key for stat in store.list("models/cells/versions/2/")]
        assert left == ["models/cells/versions/2/claim.json"]
        assert repository.versions("cells") == [bundle.version]
        disk.empty()
        repository.publish(second, folder)
        assert repository.versions("cells") == [1, 2]

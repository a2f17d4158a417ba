"""Versions and aliases on a folder and on a real S3 server: whole or not at all, one winner."""

import json
import multiprocessing
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.file_bundles import publish_version, write_bundle
from support.small_disk import small_disk

from visionloop.aliases import Aliases, AliasMove, Canary
from visionloop.bundle import BundleFile
from visionloop.errors import (
    ConflictError,
    CorruptError,
    DiskFullError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
)
from visionloop.objectstore import ObjectStore, open_store
from visionloop.record import record_bytes
from visionloop.repository import ModelRepository, file_entry

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def repository(store: ObjectStore) -> ModelRepository:
    return ModelRepository(store)


@pytest.fixture
def local(file_store: ObjectStore) -> ModelRepository:
    """On the file store only, where the store makes no difference."""
    return ModelRepository(file_store)


def promote(repository: ModelRepository, version: int, model: str = "cells") -> int:
    current = repository.aliases(model)
    return repository.promote(
        model, version, expected=current, who="test", why="because", metrics={"accuracy": 0.9}
    ).sequence


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

    def test_a_damaged_alias_file(self, local: ModelRepository, file_store: ObjectStore) -> None:
        file_store.put("models/cells/aliases.json", b"{")
        with pytest.raises(CorruptError, match=r"aliases\.json"):
            local.resolve("cells", "")


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


class Asked:
    """A store that remembers which of its methods were called."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        self.calls.append(name)
        return getattr(self._store, name)


def fetch_version(url: str, folder: Path) -> int:
    return ModelRepository(open_store(url)).fetch("cells", 1, folder).version


class TestAliases:
    def test_promote_and_resolve(self, repository: ModelRepository, tmp_path: Path) -> None:
        for name in ("a", "b"):
            publish_version(repository, tmp_path / name)
        assert repository.aliases("cells").aliases == Aliases()
        assert promote(repository, 1) == 1
        assert promote(repository, 2) == 2
        assert [repository.resolve("cells", v) for v in ("", "stable", "1", "2")] == [2, 2, 1, 2]
        first, second = repository.history("cells")
        assert (first.version, first.previous, first.sequence) == (1, None, 1)
        assert (second.version, second.previous, second.sequence) == (2, 1, 2)
        assert (second.who, second.why, second.metrics) == ("test", "because", {"accuracy": 0.9})
        assert repository.aliases("cells").aliases.last_move == second

    def test_what_is_not_there_is_said_with_what_is(
        self, local: ModelRepository, tmp_path: Path
    ) -> None:
        with pytest.raises(NotFoundError, match=r"no model 'cells' .* none yet"):
            local.resolve("cells", "")
        publish_version(local, tmp_path / "a")
        with pytest.raises(NotFoundError, match=r"no model 'birds' .* there are: cells"):
            local.resolve("birds", "stable")
        with pytest.raises(NotFoundError, match="visionloop models promote cells 1"):
            local.resolve("cells", "stable")
        with pytest.raises(NotFoundError, match="no canary"):
            local.resolve("cells", "canary")
        with pytest.raises(NotFoundError, match="no version 7; there are: 1"):
            local.resolve("cells", "7")
        for version in ("0", "-1", "latest", "1.0", " 1", "01", "9" * 40):
            with pytest.raises(InvalidInputError):
                local.resolve("cells", version)

    def test_only_a_whole_version_is_promoted(self, local: ModelRepository, tmp_path: Path) -> None:
        publish_version(local, tmp_path / "a")
        local.claim("cells", "other")
        for version in (2, 3):
            with pytest.raises(NotFoundError, match=f"no version {version}"):
                promote(local, version)
        assert local.aliases("cells").etag is None

    def test_a_stale_promotion_is_refused(
        self, repository: ModelRepository, tmp_path: Path
    ) -> None:
        for name in ("a", "b", "c"):
            publish_version(repository, tmp_path / name)
        promote(repository, 1)
        read_before_the_gate = repository.aliases("cells")
        promote(repository, 2)
        with pytest.raises(ConflictError, match=r"moved meanwhile \(test: stable is now version 2"):
            repository.promote("cells", 3, expected=read_before_the_gate, who="t", why="w")
        assert repository.resolve("cells", "") == 2
        assert [move.version for move in repository.history("cells")] == [1, 2]

    def test_promoting_what_is_stable_changes_nothing(
        self, local: ModelRepository, tmp_path: Path
    ) -> None:
        publish_version(local, tmp_path / "a")
        promote(local, 1)
        before = local.aliases("cells")
        assert promote(local, 1) == 1
        assert local.aliases("cells") == before

    def test_a_promoted_canary_ends(
        self, local: ModelRepository, file_store: ObjectStore, tmp_path: Path
    ) -> None:
        for name in ("a", "b", "c"):
            publish_version(local, tmp_path / name)
        canary = Aliases(stable=1, canary=Canary(version=2, percent=5.0))
        file_store.put("models/cells/aliases.json", record_bytes(canary))
        assert local.resolve("cells", "canary") == 2
        promote(local, 3)
        assert local.resolve("cells", "canary") == 2
        promote(local, 2)
        assert local.aliases("cells").aliases.canary is None

    def test_rollback_and_back(self, repository: ModelRepository, tmp_path: Path) -> None:
        for name in ("a", "b", "c"):
            publish_version(repository, tmp_path / name)
        with pytest.raises(NotFoundError, match="no stable version yet"):
            repository.rollback("cells", who="w", why="y")
        promote(repository, 1)
        with pytest.raises(RefusedError, match="nothing to roll back to"):
            repository.rollback("cells", who="w", why="y")
        promote(repository, 2)
        promote(repository, 3)
        move = repository.rollback("cells", who="on call", why="errors rose")
        assert (move.version, move.previous, move.who) == (2, 3, "on call")
        assert repository.resolve("cells", "") == 2
        assert repository.rollback("cells", who="w", why="y").version == 3
        assert [move.version for move in repository.history("cells")] == [1, 2, 3, 2, 3]
        assert [move.sequence for move in repository.history("cells")] == [1, 2, 3, 4, 5]

    def test_a_missing_history_entry_is_completed(
        self, repository: ModelRepository, store: ObjectStore, tmp_path: Path
    ) -> None:
        for name in ("a", "b"):
            publish_version(repository, tmp_path / name)
        promote(repository, 1)
        entry = "models/cells/history/00000001.json"
        written = store.get(entry).data
        store.delete(entry)
        assert [move.version for move in repository.history("cells")] == [1]
        assert store.get(entry).data == written
        store.delete(entry)
        promote(repository, 2)
        assert store.get(entry).data == written
        assert [move.version for move in repository.history("cells")] == [1, 2]


class TestCanary:
    def test_set_change_and_end(self, repository: ModelRepository, tmp_path: Path) -> None:
        for name in ("a", "b", "c"):
            publish_version(repository, tmp_path / name)
        promote(repository, 1)
        assert set_canary(repository, 2, 5).sequence == 2
        assert repository.resolve("cells", "canary") == 2
        assert repository.resolve("cells", "") == 1
        set_canary(repository, 2, 20)
        set_canary(repository, 3, 0.5)
        canary = repository.aliases("cells").aliases.canary
        assert canary == Canary(version=3, percent=0.5)
        ended = end_canary(repository)
        assert (ended.alias, ended.version, ended.previous, ended.percent) == (
            *("canary", None, 3, None),
        )
        with pytest.raises(NotFoundError, match="no canary"):
            repository.resolve("cells", "canary")
        moves = [(m.alias, m.version, m.previous, m.percent) for m in repository.history("cells")]
        assert moves == [
            ("stable", 1, None, None),
            ("canary", 2, None, 5.0),
            ("canary", 2, 2, 20.0),
            ("canary", 3, 2, 0.5),
            ("canary", None, 3, None),
        ]
        assert repository.aliases("cells").aliases.stable == 1

    def test_setting_what_is_set_changes_nothing(
        self, local: ModelRepository, tmp_path: Path
    ) -> None:
        for name in ("a", "b"):
            publish_version(local, tmp_path / name)
        promote(local, 1)
        first = set_canary(local, 2, 5)
        before = local.aliases("cells")
        assert set_canary(local, 2, 5) == first
        assert local.aliases("cells") == before

    @pytest.mark.parametrize("percent", [0, -1, 100, 150, float("nan"), float("inf")])
    def test_percent_lies_between_0_and_100(
        self, local: ModelRepository, tmp_path: Path, percent: float
    ) -> None:
        for name in ("a", "b"):
            publish_version(local, tmp_path / name)
        promote(local, 1)
        with pytest.raises(InvalidInputError, match="percent is") as caught:
            set_canary(local, 2, percent)
        assert caught.value.field == "percent"
        assert local.aliases("cells").aliases.canary is None

    def test_what_cannot_be_a_canary(
        self, local: ModelRepository, file_store: ObjectStore, tmp_path: Path
    ) -> None:
        with pytest.raises(NotFoundError, match="no model 'cells'"):
            set_canary(local, 1, 5)
        with pytest.raises(NotFoundError, match="no model 'cells'"):
            end_canary(local)
        publish_version(local, tmp_path / "a")
        with pytest.raises(RefusedError, match="visionloop models promote cells 1"):
            set_canary(local, 1, 5)
        promote(local, 1)
        with pytest.raises(RefusedError, match="version 1 of model 'cells' is stable already"):
            set_canary(local, 1, 5)
        with pytest.raises(NotFoundError, match="no version 2; there are: 1"):
            set_canary(local, 2, 5)
        with pytest.raises(RefusedError, match="no canary version that could be ended"):
            end_canary(local)
        publish_version(local, tmp_path / "b")
        file_store.put("models/cells/versions/2/bundle.json", b"{}")
        with pytest.raises(CorruptError):
            set_canary(local, 2, 5)
        assert [move.alias for move in local.history("cells")] == ["stable"]

    def test_a_canary_that_becomes_stable_ends(
        self, repository: ModelRepository, tmp_path: Path
    ) -> None:
        for name in ("a", "b", "c"):
            publish_version(repository, tmp_path / name)
        promote(repository, 1)
        set_canary(repository, 2, 5)
        promote(repository, 2)
        assert repository.aliases("cells").aliases == aliases_of(repository, stable=2)
        set_canary(repository, 3, 5)
        promote(repository, 1)  # the canary is another version, so it stays
        assert repository.resolve("cells", "canary") == 3

    def test_rolling_back_to_the_canary_ends_it_and_others_stay(
        self, local: ModelRepository, tmp_path: Path
    ) -> None:
        for name in ("a", "b", "c"):
            publish_version(local, tmp_path / name)
        promote(local, 1)
        promote(local, 2)
        set_canary(local, 3, 10)
        assert local.rollback("cells", who="w", why="y").version == 1
        assert local.aliases("cells").aliases.canary == Canary(version=3, percent=10)
        set_canary(local, 2, 10)
        assert local.previous_stable("cells") == 2
        assert local.rollback("cells", who="w", why="y").version == 2
        assert local.aliases("cells").aliases == aliases_of(local, stable=2)

    def test_what_was_stable_before_is_known_after_canary_moves(
        self, local: ModelRepository, tmp_path: Path
    ) -> None:
        for name in ("a", "b", "c"):
            publish_version(local, tmp_path / name)
        assert local.previous_stable("cells") is None
        promote(local, 1)
        assert local.previous_stable("cells") is None
        promote(local, 2)
        assert local.previous_stable("cells") == 1
        set_canary(local, 3, 10)
        assert local.previous_stable("cells") == 1
        end_canary(local)
        assert local.previous_stable("cells") == 1

    def test_a_rollback_reads_no_further_back_than_it_must(
        self, repository: ModelRepository, store: ObjectStore, tmp_path: Path
    ) -> None:
        """The history of a model that is retrained daily has thousands of entries."""
        for name in ("a", "b", "c"):
            publish_version(repository, tmp_path / name)
        for version in (1, 2, 1, 2):
            promote(repository, version)
        set_canary(repository, 3, 10)
        asked = Asked(store)
        observed = ModelRepository(asked)
        assert observed.previous_stable("cells") == 1
        # The aliases, once more with their newest move, and the entry before it.
        assert asked.calls == ["get", "get", "get"]
        asked.calls.clear()
        assert observed.rollback("cells", who="w", why="errors rose").version == 1
        assert "list" not in asked.calls
        assert len(asked.calls) < 10

    def test_an_entry_that_was_lost_is_passed_over(
        self, local: ModelRepository, file_store: ObjectStore, tmp_path: Path
    ) -> None:
        for name in ("a", "b", "c"):
            publish_version(local, tmp_path / name)
        promote(local, 1)
        promote(local, 2)
        set_canary(local, 3, 10)
        end_canary(local)
        file_store.delete("models/cells/history/00000003.json")
        assert local.previous_stable("cells") == 1
        file_store.delete("models/cells/history/00000002.json")
        with pytest.raises(CorruptError, match="no move of stable to version 2"):
            local.previous_stable("cells")

    def test_of_racing_movers_one_wins(self, repository: ModelRepository, tmp_path: Path) -> None:
        for number in range(1, 4):
            publish_version(repository, tmp_path / str(number))
        promote(repository, 1)
        set_canary(repository, 2, 5)
        expected = repository.aliases("cells")
        barrier = threading.Barrier(4)
        words = {"who": "t", "why": "race"}
        moves = [
            lambda: repository.set_canary("cells", 2, 50, expected=expected, **words),
            lambda: repository.set_canary("cells", 3, 5, expected=expected, **words),
            lambda: repository.end_canary("cells", expected=expected, **words),
            lambda: repository.promote("cells", 3, expected=expected, **words),
        ]

        def race(move: Callable[[], AliasMove]) -> AliasMove | None:
            barrier.wait()
            try:
                return move()
            except ConflictError:
                return None

        with ThreadPoolExecutor(4) as pool:
            [won] = [move for move in pool.map(race, moves) if move is not None]
        assert repository.history("cells")[2:] == [won]
        assert repository.aliases("cells").aliases.last_move == won
        with pytest.raises(ConflictError, match=r"moved meanwhile \(t: (stable|canary) "):
            moves[0]()

    def test_a_missing_history_entry_is_completed(
        self, local: ModelRepository, file_store: ObjectStore, tmp_path: Path
    ) -> None:
        for name in ("a", "b"):
            publish_version(local, tmp_path / name)
        promote(local, 1)
        move = set_canary(local, 2, 5)
        file_store.delete("models/cells/history/00000002.json")
        end_canary(local)
        assert local.history("cells")[1] == move


class TestPin:
    def test_a_pinned_stable_is_moved_by_name_only(
        self, repository: ModelRepository, tmp_path: Path
    ) -> None:
        for name in ("a", "b", "c"):
            publish_version(repository, tmp_path / name)
        promote(repository, 1)
        promote(repository, 2)
        pinned = pin(repository)
        assert (pinned.alias, pinned.version, pinned.previous) == ("pin", 2, None)
        words = r"stable of model 'cells' is pinned at version 2 by ada \(20..-..-..: the audit\)"
        with pytest.raises(RefusedError, match=words):
            promote(repository, 3)
        with pytest.raises(RefusedError, match=words):
            repository.rollback("cells", who="t", why="w")
        set_canary(repository, 3, 5)  # a canary leaves stable where it is
        assert repository.aliases("cells").aliases.pinned is not None
        move = repository.rollback("cells", who="t", why="w", unpin=True)
        assert (move.version, move.previous) == (1, 2)  # the pin does not count as a move of stable
        assert repository.aliases("cells").aliases.pinned is None
        assert repository.previous_stable("cells") == 2
        assert [m.alias for m in repository.history("cells")] == [
            *("stable", "stable", "pin", "canary", "stable"),
        ]

    def test_a_pin_meanwhile_stops_the_promotion(
        self, repository: ModelRepository, tmp_path: Path
    ) -> None:
        for name in ("a", "b"):
            publish_version(repository, tmp_path / name)
        promote(repository, 1)
        read_before_the_gate = repository.aliases("cells")
        pin(repository)
        with pytest.raises(ConflictError, match=r"moved meanwhile \(ada: pin is now version 1"):
            repository.promote("cells", 2, expected=read_before_the_gate, who="t", why="w")
        assert repository.resolve("cells", "") == 1

    def test_a_pin_ends(self, local: ModelRepository, tmp_path: Path) -> None:
        for name in ("a", "b"):
            publish_version(local, tmp_path / name)
        with pytest.raises(NotFoundError, match="no stable version yet"):
            pin(local)
        promote(local, 1)
        with pytest.raises(RefusedError, match="is not pinned"):
            unpin(local)
        pin(local)
        ended = unpin(local)
        assert (ended.alias, ended.version, ended.previous) == ("pin", None, 1)
        pin(local)
        current = local.aliases("cells")
        # Promoting what is stable moves nothing, so that a rollback goes where it did before.
        local.promote("cells", 1, expected=current, who="t", why="w", unpin=True)
        assert local.aliases("cells").aliases.pinned is None
        assert promote(local, 2) == 6

    def test_without_a_pin_older_programs_read_the_file(
        self, local: ModelRepository, file_store: ObjectStore, tmp_path: Path
    ) -> None:
        publish_version(local, tmp_path / "a")
        promote(local, 1)
        pin(local)
        assert b"the audit" in file_store.get("models/cells/aliases.json").data
        unpin(local)
        written = json.loads(file_store.get("models/cells/aliases.json").data)
        assert set(written) == {"stable", "canary", "sequence", "last_move"}


def pin(repository: ModelRepository) -> AliasMove:
    return repository.pin("cells", expected=repository.aliases("cells"), who="ada", why="the audit")


def unpin(repository: ModelRepository) -> AliasMove:
    return repository.unpin("cells", expected=repository.aliases("cells"), who="ada", why="over")


def set_canary(repository: ModelRepository, version: int, percent: float) -> AliasMove:
    return repository.set_canary(
        "cells",
        version,
        percent,
        expected=repository.aliases("cells"),
        who="test",
        why="to try it",
    )


def end_canary(repository: ModelRepository) -> AliasMove:
    current = repository.aliases("cells")
    return repository.end_canary("cells", expected=current, who="test", why="enough")


def aliases_of(repository: ModelRepository, *, stable: int) -> Aliases:
    """What aliases.json holds when only stable is set, by the newest move."""
    newest = repository.history("cells")[-1]
    return Aliases(stable=stable, sequence=newest.sequence, last_move=newest)


class TestRaces:
    def test_racing_promotions_have_one_winner(
        self, repository: ModelRepository, tmp_path: Path
    ) -> None:
        for number in range(1, 5):
            publish_version(repository, tmp_path / str(number))
        expected = repository.aliases("cells")
        barrier = threading.Barrier(4)

        def race(version: int) -> int | None:
            barrier.wait()
            try:
                repository.promote("cells", version, expected=expected, who="t", why=f"{version}")
            except ConflictError:
                return None
            return version

        with ThreadPoolExecutor(4) as pool:
            won = [version for version in pool.map(race, range(1, 5)) if version is not None]
        assert won == [repository.resolve("cells", "")]
        assert [move.version for move in repository.history("cells")] == won

    def test_processes_that_promote_in_turn_lose_no_move(
        self, repository: ModelRepository, store_url: str, tmp_path: Path
    ) -> None:
        for number in range(1, 4):
            publish_version(repository, tmp_path / str(number))
        with SPAWN.Pool(3) as pool:
            pool.starmap(promote_until_won, [(store_url, version) for version in (1, 2, 3)])
        history = repository.history("cells")
        assert sorted(move.version for move in history if move.version) == [1, 2, 3]
        assert [move.previous for move in history] == [None, *[m.version for m in history[:-1]]]

    def test_racing_runs_get_numbers_of_their_own(
        self, repository: ModelRepository, store_url: str, tmp_path: Path
    ) -> None:
        with SPAWN.Pool(3) as pool:
            claimed = pool.starmap(claim_twice, [(store_url, f"run-{n}") for n in range(3)])
        assert sorted(number for number, _ in claimed) == [1, 2, 3]
        assert all(first == again for first, again in claimed)


def promote_until_won(url: str, version: int) -> None:
    repository = ModelRepository(open_store(url))
    while True:
        try:
            promote(repository, version)
        except ConflictError:
            continue
        return


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

"""What stable means: moved on condition, kept in the history, one winner of every race."""

import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.alias_moves import promote
from support.file_bundles import publish_version, publish_versions

from visionloop.aliases import Aliases, Canary
from visionloop.errors import (
    ConflictError,
    CorruptError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
)
from visionloop.objectstore import ObjectStore, open_store
from visionloop.record import record_bytes
from visionloop.repository import ModelRepository

SPAWN = multiprocessing.get_context("spawn")


def test_promote_and_resolve(repository: ModelRepository, tmp_path: Path) -> None:
    publish_versions(repository, tmp_path, 2)
    assert repository.aliases("cells").aliases == Aliases()
    assert promote(repository, 1) == 1
    assert promote(repository, 2) == 2
    assert [repository.resolve("cells", v) for v in ("", "stable", "1", "2")] == [2, 2, 1, 2]
    first, second = repository.history("cells")
    assert (first.version, first.previous, first.sequence) == (1, None, 1)
    assert (second.version, second.previous, second.sequence) == (2, 1, 2)
    assert (second.who, second.why, second.metrics) == ("test", "because", {"accuracy": 0.9})
    assert repository.aliases("cells").aliases.last_move == second


def test_what_is_not_there_is_said_with_what_is(local: ModelRepository, tmp_path: Path) -> None:
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


def test_only_a_whole_version_is_promoted(local: ModelRepository, tmp_path: Path) -> None:
    publish_version(local, tmp_path / "a")
    local.claim("cells", "other")
    for version in (2, 3):
        with pytest.raises(NotFoundError, match=f"no version {version}"):
            promote(local, version)
    assert local.aliases("cells").etag is None


def test_a_stale_promotion_is_refused(repository: ModelRepository, tmp_path: Path) -> None:
    publish_versions(repository, tmp_path, 3)
    promote(repository, 1)
    read_before_the_gate = repository.aliases("cells")
    promote(repository, 2)
    with pytest.raises(ConflictError, match=r"moved meanwhile \(test: stable is now version 2"):
        repository.promote("cells", 3, expected=read_before_the_gate, who="t", why="w")
    assert repository.resolve("cells", "") == 2
    assert [move.version for move in repository.history("cells")] == [1, 2]


def test_promoting_what_is_stable_changes_nothing(local: ModelRepository, tmp_path: Path) -> None:
    publish_version(local, tmp_path / "a")
    promote(local, 1)
    before = local.aliases("cells")
    assert promote(local, 1) == 1
    assert local.aliases("cells") == before


def test_a_promoted_canary_ends(
    local: ModelRepository, file_store: ObjectStore, tmp_path: Path
) -> None:
    publish_versions(local, tmp_path, 3)
    canary = Aliases(stable=1, canary=Canary(version=2, percent=5.0))
    file_store.put("models/cells/aliases.json", record_bytes(canary))
    assert local.resolve("cells", "canary") == 2
    promote(local, 3)
    assert local.resolve("cells", "canary") == 2
    promote(local, 2)
    assert local.aliases("cells").aliases.canary is None


def test_rollback_and_back(repository: ModelRepository, tmp_path: Path) -> None:
    publish_versions(repository, tmp_path, 3)
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
    repository: ModelRepository, store: ObjectStore, tmp_path: Path
) -> None:
    publish_versions(repository, tmp_path, 2)
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


def test_a_damaged_alias_file(local: ModelRepository, file_store: ObjectStore) -> None:
    file_store.put("models/cells/aliases.json", b"{")
    with pytest.raises(CorruptError, match=r"aliases\.json"):
        local.resolve("cells", "")


def test_racing_promotions_have_one_winner(repository: ModelRepository, tmp_path: Path) -> None:
    publish_versions(repository, tmp_path, 4)
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
    repository: ModelRepository, store_url: str, tmp_path: Path
) -> None:
    publish_versions(repository, tmp_path, 3)
    with SPAWN.Pool(3) as pool:
        pool.starmap(promote_until_won, [(store_url, version) for version in (1, 2, 3)])
    history = repository.history("cells")
    assert sorted(move.version for move in history if move.version) == [1, 2, 3]
    assert [move.previous for move in history] == [None, *[m.version for m in history[:-1]]]


def promote_until_won(url: str, version: int) -> None:
    repository = ModelRepository(open_store(url))
    while True:
        try:
            promote(repository, version)
        except ConflictError:
            continue
        return

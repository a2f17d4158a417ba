"""A canary beside stable: set, changed, ended, and what moves of stable do to it."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.alias_moves import Asked, aliases_of, end_canary, promote, set_canary
from support.file_bundles import publish_version, publish_versions

from visionloop.aliases import AliasMove, Canary
from visionloop.errors import (
    ConflictError,
    CorruptError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
)
from visionloop.objectstore import ObjectStore
from visionloop.repository import ModelRepository


def test_set_change_and_end(repository: ModelRepository, tmp_path: Path) -> None:
    publish_versions(repository, tmp_path, 3)
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


def test_setting_what_is_set_changes_nothing(local: ModelRepository, tmp_path: Path) -> None:
    publish_versions(local, tmp_path, 2)
    promote(local, 1)
    first = set_canary(local, 2, 5)
    before = local.aliases("cells")
    assert set_canary(local, 2, 5) == first
    assert local.aliases("cells") == before


@pytest.mark.parametrize("percent", [0, -1, 100, 150, float("nan"), float("inf")])
def test_percent_lies_between_0_and_100(
    local: ModelRepository, tmp_path: Path, percent: float
) -> None:
    publish_versions(local, tmp_path, 2)
    promote(local, 1)
    with pytest.raises(InvalidInputError, match="percent is") as caught:
        set_canary(local, 2, percent)
    assert caught.value.field == "percent"
    assert local.aliases("cells").aliases.canary is None


def test_what_cannot_be_a_canary(
    local: ModelRepository, file_store: ObjectStore, tmp_path: Path
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


def test_a_canary_that_becomes_stable_ends(repository: ModelRepository, tmp_path: Path) -> None:
    publish_versions(repository, tmp_path, 3)
    promote(repository, 1)
    set_canary(repository, 2, 5)
    promote(repository, 2)
    assert repository.aliases("cells").aliases == aliases_of(repository, stable=2)
    set_canary(repository, 3, 5)
    promote(repository, 1)  # the canary is another version, so it stays
    assert repository.resolve("cells", "canary") == 3


def test_rolling_back_to_the_canary_ends_it_and_others_stay(
    local: ModelRepository, tmp_path: Path
) -> None:
    publish_versions(local, tmp_path, 3)
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
    local: ModelRepository, tmp_path: Path
) -> None:
    publish_versions(local, tmp_path, 3)
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
    repository: ModelRepository, store: ObjectStore, tmp_path: Path
) -> None:
    """The history of a model that is retrained daily has thousands of entries."""
    publish_versions(repository, tmp_path, 3)
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
    local: ModelRepository, file_store: ObjectStore, tmp_path: Path
) -> None:
    publish_versions(local, tmp_path, 3)
    promote(local, 1)
    promote(local, 2)
    set_canary(local, 3, 10)
    end_canary(local)
    file_store.delete("models/cells/history/00000003.json")
    assert local.previous_stable("cells") == 1
    file_store.delete("models/cells/history/00000002.json")
    with pytest.raises(CorruptError, match="no move of stable to version 2"):
        local.previous_stable("cells")


def test_of_racing_movers_one_wins(repository: ModelRepository, tmp_path: Path) -> None:
    publish_versions(repository, tmp_path, 3)
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
    local: ModelRepository, file_store: ObjectStore, tmp_path: Path
) -> None:
    publish_versions(local, tmp_path, 2)
    promote(local, 1)
    move = set_canary(local, 2, 5)
    file_store.delete("models/cells/history/00000002.json")
    end_canary(local)
    assert local.history("cells")[1] == move

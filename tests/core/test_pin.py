"""A pinned stable: only a move that names the pin moves it; without one, old programs read on."""

import json
from pathlib import Path

import pytest
from support.alias_moves import pin, promote, set_canary, unpin
from support.file_bundles import publish_version, publish_versions

from visionloop.errors import ConflictError, NotFoundError, RefusedError
from visionloop.objectstore import ObjectStore
from visionloop.repository import ModelRepository


def test_a_pinned_stable_is_moved_by_name_only(repository: ModelRepository, tmp_path: Path) -> None:
    publish_versions(repository, tmp_path, 3)
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


def test_a_pin_meanwhile_stops_the_promotion(repository: ModelRepository, tmp_path: Path) -> None:
    publish_versions(repository, tmp_path, 2)
    promote(repository, 1)
    read_before_the_gate = repository.aliases("cells")
    pin(repository)
    with pytest.raises(ConflictError, match=r"moved meanwhile \(ada: pin is now version 1"):
        repository.promote("cells", 2, expected=read_before_the_gate, who="t", why="w")
    assert repository.resolve("cells", "") == 1


def test_a_pin_ends(local: ModelRepository, tmp_path: Path) -> None:
    publish_versions(local, tmp_path, 2)
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
    local: ModelRepository, file_store: ObjectStore, tmp_path: Path
) -> None:
    publish_version(local, tmp_path / "a")
    promote(local, 1)
    pin(local)
    assert b"the audit" in file_store.get("models/cells/aliases.json").data
    unpin(local)
    written = json.loads(file_store.get("models/cells/aliases.json").data)
    assert set(written) == {"stable", "canary", "sequence", "last_move"}

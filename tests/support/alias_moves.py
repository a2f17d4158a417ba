"""Moves of the aliases of the model "cells", each from what the repository holds at that moment."""

from typing import Any

from visionloop.aliases import Aliases, AliasMove
from visionloop.objectstore import ObjectStore
from visionloop.repository import ModelRepository


def promote(repository: ModelRepository, version: int, model: str = "cells") -> int:
    """Makes the version stable; the sequence of the move."""
    current = repository.aliases(model)
    return repository.promote(
        model, version, expected=current, who="test", why="because", metrics={"accuracy": 0.9}
    ).sequence


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


class Asked:
    """A store that remembers which of its methods were called."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        self.calls.append(name)
        return getattr(self._store, name)

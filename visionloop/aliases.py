"""The names `stable` and `canary` of a model's versions, and the record of every move.

    models/<model>/aliases.json               the current values, moved by compare-and-swap
    models/<model>/history/<sequence>.json    one AliasMove for each move, written once

The swap of aliases.json is the one moment that counts; its history entry follows. A writer killed
in between loses nothing: aliases.json repeats its newest move, and whoever moves or reads the
history next writes the entry. The price is one more conditional write before each move.

Stable can be pinned. The pin is a part of aliases.json, so the swap that guards moves against one
another guards them against a pin that was set meanwhile, too. Every move of stable ends the pin,
and whoever moves a pinned stable must say that he means to.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from visionloop.errors import ConflictError, NotFoundError, PermissionDeniedError, RefusedError
from visionloop.failpoints import failpoint
from visionloop.objectstore import ObjectStore
from visionloop.objectstore.transfers import in_parallel
from visionloop.record import Record, parse_record, record_bytes


class AliasMove(Record):
    """One move of one alias: the audit entry, kept for ever.

    A move of stable to the canary's version ends the canary too, and any move of stable ends its
    pin. `percent` is the canary's share after a move of canary; `version` is None where a move
    ended it. The alias "pin" is the pin of stable: at `version`, or ended.
    """

    sequence: Annotated[int, Field(ge=1)]
    alias: str
    version: int | None
    previous: int | None
    percent: float | None = None
    who: str
    why: str
    metrics: dict[str, float] = Field(default_factory=dict)
    at: datetime


class Canary(Record):
    """A second version that gets `percent` of the requests; stable gets the others."""

    version: int
    percent: Annotated[float, Field(gt=0.0, lt=100.0)]


class Pin(Record):
    """Stable stays where it is until somebody says otherwise by name: no gate moves it."""

    who: str
    why: str
    at: datetime


class Aliases(Record):
    """The content of aliases.json. `last_move` repeats the newest history entry, so that a writer
    killed between this file and the history leaves nothing lost: the next one completes it.

    `pinned` is written only where there is a pin. A program that does not know pins refuses such a
    file instead of promoting over the pin; all other files it reads and writes as ever.
    """

    stable: int | None = None
    canary: Canary | None = None
    sequence: int = 0
    last_move: AliasMove | None = None
    pinned: Pin | None = None

    @model_serializer(mode="wrap")
    def _without_no_pin(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = serialize(self)
        if self.pinned is None:
            del fields["pinned"]
        return fields


@dataclass(frozen=True)
class CurrentAliases:
    """The aliases as they were read; a move is conditional on `etag` (None: never moved)."""

    aliases: Aliases
    etag: str | None


class AliasLog:
    """The aliases of one model. `model` is a checked name."""

    def __init__(self, store: ObjectStore, model: str) -> None:
        self._store = store
        self._model = model
        self._key = f"models/{model}/aliases.json"
        self._history = f"models/{model}/history/"

    def read(self) -> CurrentAliases:
        """The current aliases; empty ones when none was ever moved. Raises CorruptError."""
        try:
            stored = self._store.get(self._key)
        except NotFoundError:
            return CurrentAliases(Aliases(), None)
        return CurrentAliases(parse_record(Aliases, stored.data, self._key), stored.etag)

    def move_stable(
        self,
        version: int,
        *,
        expected: CurrentAliases,
        who: str,
        why: str,
        metrics: dict[str, float],
        unpin: bool = False,
    ) -> AliasMove:
        """Points stable at `version`, unless somebody moved an alias since `expected` was read.

        A canary of the same version ends, and so does a pin. Raises RefusedError when stable is
        pinned and `unpin` is not given, and ConflictError.
        """
        current = expected.aliases
        if current.pinned is not None and not unpin:
            raise RefusedError(f"{pinned_words(self._model, current)}; it was not moved")
        move = AliasMove(
            sequence=current.sequence + 1,
            alias="stable",
            version=version,
            previous=current.stable,
            who=who,
            why=why,
            metrics=metrics,
            at=datetime.now(UTC),
        )
        canary = current.canary
        if canary is not None and canary.version == version:
            canary = None
        self._swap(expected, Aliases(stable=version, canary=canary, **_newest(move)))
        return move

    def move_canary(
        self, canary: Canary | None, *, expected: CurrentAliases, who: str, why: str
    ) -> AliasMove:
        """Makes this the canary, or ends the one there is (None), as move_stable does."""
        current = expected.aliases
        move = AliasMove(
            sequence=current.sequence + 1,
            alias="canary",
            version=None if canary is None else canary.version,
            previous=None if current.canary is None else current.canary.version,
            percent=None if canary is None else canary.percent,
            who=who,
            why=why,
            at=datetime.now(UTC),
        )
        moved = Aliases(
            stable=current.stable, canary=canary, pinned=current.pinned, **_newest(move)
        )
        self._swap(expected, moved)
        return move

    def move_pin(self, *, pinned: bool, expected: CurrentAliases, who: str, why: str) -> AliasMove:
        """Pins stable where it is (it must be somewhere), or ends the pin, as move_stable does."""
        current, now = expected.aliases, datetime.now(UTC)
        move = AliasMove(
            sequence=current.sequence + 1,
            alias="pin",
            version=current.stable if pinned else None,
            previous=current.stable if current.pinned is not None else None,
            who=who,
            why=why,
            at=now,
        )
        pin = Pin(who=who, why=why, at=now) if pinned else None
        moved = Aliases(stable=current.stable, canary=current.canary, pinned=pin, **_newest(move))
        self._swap(expected, moved)
        return move

    def _swap(self, expected: CurrentAliases, moved: Aliases) -> None:
        """The one moment that counts. Raises ConflictError when another was faster."""
        self._complete_history(expected.aliases)
        try:
            self._store.compare_and_swap(self._key, record_bytes(moved), expected.etag)
        except ConflictError:
            raise self._moved_meanwhile() from None
        failpoint("aliases.moved")
        self._complete_history(moved)

    def newest(self, alias: str, version: int) -> AliasMove | None:
        """The newest move of `alias` to `version`; None where the history has none.

        Looked for from the newest entry on, one read each, and the newest of all is in aliases.json
        itself: a rollback is in a hurry, and a history of years has thousands of entries.
        """
        current = self.read().aliases
        move = current.last_move
        for sequence in range(current.sequence - 1, -1, -1):
            if move is not None and (move.alias, move.version) == (alias, version):
                return move
            move = self._entry(sequence) if sequence else None
        return None

    def history(self) -> list[AliasMove]:
        """All moves, oldest first, without a gap: a move whose entry is missing is completed."""
        current = self.read().aliases
        keys = [stat.key for stat in self._store.list(self._history)]
        found = in_parallel(self._read_move, [key for key in keys if key.endswith(".json")])
        moves = {move.sequence: move for move in found}
        if current.last_move is not None and current.sequence not in moves:
            moves[current.sequence] = current.last_move
            try:
                self._complete_history(current)
            except PermissionDeniedError:
                pass  # a reader without the right to write; the next writer does it
        return [moves[sequence] for sequence in sorted(moves)]

    def _complete_history(self, aliases: Aliases) -> None:
        """Writes the entry of the newest move unless it is there. Any number may try at once."""
        if aliases.last_move is None:
            return
        try:
            self._store.put_if_absent(
                self._entry_key(aliases.sequence), record_bytes(aliases.last_move)
            )
        except ConflictError:
            return

    def _entry_key(self, sequence: int) -> str:
        return f"{self._history}{sequence:08d}.json"

    def _entry(self, sequence: int) -> AliasMove | None:
        try:
            return self._read_move(self._entry_key(sequence))
        except NotFoundError:
            return None  # lost, or not written yet by the one who moved just now

    def _read_move(self, key: str) -> AliasMove:
        return parse_record(AliasMove, self._store.get(key).data, key)

    def _moved_meanwhile(self) -> ConflictError:
        last = self.read().aliases.last_move
        by = f" ({last.who}: {last.alias} {_now(last)})" if last is not None else ""
        return ConflictError(
            f"an alias of model {self._model!r} was moved meanwhile{by}; nothing was changed. Look "
            "at what is there now and try again"
        )


def pinned_words(model: str, aliases: Aliases) -> str:
    """Who pinned stable and why, for people who wanted to move it; "" when it is not pinned."""
    pin = aliases.pinned
    if pin is None:
        return ""
    return (
        f"stable of model {model!r} is pinned at version {aliases.stable} by {pin.who} "
        f"({pin.at:%Y-%m-%d}: {pin.why})"
    )


def _newest(move: AliasMove) -> dict[str, Any]:
    return {"sequence": move.sequence, "last_move": move}


def _now(move: AliasMove) -> str:
    return "was ended" if move.version is None else f"is now version {move.version}"

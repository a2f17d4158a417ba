"""What a search has tried so far, in the store: a search that was killed goes on after it.

    models/<model>/checkpoints/<search>/search.json

It is written when a trial begins (its settings, so that after a kill the same trial goes on from
its own checkpoint) and when it ends. `<search>` is a digest of all that decides the search. It
stays where the version that was made with the winner is not promoted: the same command then finds
the same settings, and by them that version's verdict, and spends no other half an hour on both.
"""

import logging
from typing import Annotated, Literal

from pydantic import Field

from visionloop.errors import CorruptError, NotFoundError, VisionloopError
from visionloop.objectstore import ObjectStore
from visionloop.record import Record, parse_record, record_bytes
from visionloop_training.search.space import Settings, Value

_log = logging.getLogger(__name__)


class Tried(Record):
    """One trial that is over. `score` is the calibrated log loss on val; less is better."""

    settings: dict[str, Value]
    outcome: Literal["done", "pruned", "failed"]
    score: float | None = None  # of one that is done
    val_accuracy: float | None = None  # or mean average precision (`targets.score`)
    reports: dict[int, float] = Field(default_factory=dict)  # val loss by quarter of the epochs
    seconds: Annotated[float, Field(ge=0.0)]
    words: str = ""  # why it failed


class SearchRecord(Record):
    """All trials in order, and the one that runs."""

    format_version: Literal[1] = 1
    kind: Literal["visionloop.search"] = "visionloop.search"
    tried: list[Tried] = Field(default_factory=list)
    running: dict[str, Value] | None = None
    over: Annotated[float, Field(ge=0.0)] | None = None  # the budget that it used up, in seconds
    published: Annotated[int, Field(ge=1)] | None = None  # the version with the winner's settings

    @property
    def seconds(self) -> float:
        """That were spent."""
        return sum(one.seconds for one in self.tried)

    @property
    def best(self) -> Tried | None:
        """Of the lowest score, the earlier of two alike; None while none is done."""
        done = [one for one in self.tried if one.score is not None]
        return min(done, key=lambda one: one.score or 0.0) if done else None

    def begun(self, settings: Settings) -> "SearchRecord":
        """With a trial running."""
        return self.model_copy(update={"running": settings, "published": None})

    def ended(self, tried: Tried) -> "SearchRecord":
        """With the running trial over."""
        return self.model_copy(update={"tried": [*self.tried, tried], "running": None})


class RecordFile:
    """Where a search's record is kept."""

    def __init__(self, store: ObjectStore, model: str, search: str) -> None:
        self._store = store
        self._key = f"models/{model}/checkpoints/{search}/search.json"

    def read(self) -> SearchRecord:
        """An empty one where there is none, or none that can be read."""
        try:
            return parse_record(SearchRecord, self._store.get(self._key).data, self._key)
        except NotFoundError:
            return SearchRecord()
        except CorruptError as error:
            _log.warning("the search begins anew: %s", error)
            return SearchRecord()

    def write(self, record: SearchRecord) -> None:
        """A store that fails is logged: the search goes on, and the next trial writes again."""
        try:
            self._store.put(self._key, record_bytes(record))
        except VisionloopError as error:
            _log.warning("the search's record is not saved: %s", error)

    def remove(self) -> None:
        """The search's model is in production."""
        try:
            self._store.delete(self._key)
        except VisionloopError as error:
            _log.warning("the search's record is left in the store: %s", error)

"""Snapshots by themselves: a dataset that has one gets the next when labels came and it is old.

Without this scheduled training would learn nothing of new labels until somebody cut a snapshot. The
first one is a person's (or a program's) to cut, who says by it that there is something to learn:
a run on a handful of labels would only fail. Labels that change nothing cost one cut, which moves
the pointer and makes no snapshot. What cannot be cut is tried again when the time has passed once
more, so a database that does not belong to the store is told of now and then, not all the time.

A look costs a small read of the store for each dataset; a cut of a million images takes minutes,
in which everybody goes on (see `snapshots`).
"""

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import select

from visionloop.errors import NotFoundError, RefusedError
from visionloop.objectstore import ObjectStore
from visionloop.snapshot_latest import LatestPointer
from visionloop_labeling import snapshots
from visionloop_labeling.database import Database
from visionloop_labeling.schema import Dataset

LOOK_SECONDS: Final = 60.0
_log = logging.getLogger(__name__)


class SnapshotSchedule:
    """Used by one thread; `work` blocks. `clock` says what time it is."""

    def __init__(
        self,
        database: Database,
        store: ObjectStore,
        every: timedelta,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._database = database
        self._store = store
        self._every = every
        self._clock = clock
        self._refused: dict[str, datetime] = {}  # dataset -> when

    def work(self) -> bool:
        """Cuts what is due. False: no work is left."""
        with self._database.read() as session:
            rows = session.execute(select(Dataset.name, Dataset.last_sequence)).tuples().all()
        for name, last_sequence in rows:
            if self._is_due(name, last_sequence):
                self._cut(name)
        return False

    def _is_due(self, name: str, last_sequence: int) -> bool:
        latest = LatestPointer(self._store, name).read()
        if latest is None:
            return False
        pointer, moved = latest
        since = max(moved, self._refused.get(name, moved))
        return last_sequence > pointer.label_sequence and self._clock() - since >= self._every

    def _cut(self, name: str) -> None:
        try:
            snapshots.cut(self._database, self._store, name)
        except (RefusedError, NotFoundError) as error:
            self._refused[name] = self._clock()
            _log.warning("no snapshot was cut: %s", error, extra={"dataset": name})

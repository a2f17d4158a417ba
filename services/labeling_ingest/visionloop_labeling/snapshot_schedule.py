"""Snapshots by themselves: a dataset that has one gets the next when labels came and it is old.

Without this scheduled training would learn nothing of new labels until somebody cut a snapshot. The
first one is a person's (or a program's) to cut, who says by it that there is something to learn:
a run on a handful of labels would only fail. Labels that change nothing cost one cut, which moves
the pointer and makes no snapshot. What cannot be cut holds up no other dataset and is tried again
when the time has passed once more, so a database that does not belong to the store is told of now
and then, not all the time.

A look costs a small read of the store for each dataset; a cut of a million images takes minutes,
in which everybody goes on (see `snapshots`).
"""

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import select

from visionloop.errors import (
    DeadlineExceededError,
    OverloadedError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
    VisionloopError,
)
from visionloop.objectstore import ObjectStore
from visionloop.snapshot_latest import LatestPointer
from visionloop_labeling import snapshots
from visionloop_labeling.database import Database
from visionloop_labeling.schema import Dataset

LOOK_SECONDS: Final = 60.0
# The store, the database or our rights in them: not the dataset's fault.
_OURS: Final = (
    UnavailableError,
    OverloadedError,
    DeadlineExceededError,
    PermissionDeniedError,
    UnauthenticatedError,
)
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
        self._tried: dict[str, datetime] = {}  # dataset -> when

    def work(self) -> bool:
        """Cuts what is due. False: no work is left.

        Raises what the store or the database raises when it is away; what is wrong with one dataset
        is logged.
        """
        with self._database.read() as session:
            rows = session.execute(select(Dataset.name, Dataset.last_sequence)).tuples().all()
        for name, last_sequence in rows:
            try:
                if not self._is_due(name, last_sequence):
                    continue
                snapshots.cut(self._database, self._store, name)
            except _OURS:
                raise
            except Exception as error:  # noqa: BLE001 - logged, with the trace of what is not ours
                trace = None if isinstance(error, VisionloopError) else error
                _log.warning(
                    "no snapshot was cut: %s", error, exc_info=trace, extra={"dataset": name}
                )
            self._tried[name] = self._clock()  # a cut that is behind moves no pointer
        return False

    def _is_due(self, name: str, last_sequence: int) -> bool:
        tried = self._tried.get(name)
        if tried is not None and self._clock() - tried < self._every:
            return False
        latest = LatestPointer(self._store, name).read()
        if latest is None:
            return False
        pointer, moved = latest
        # Also a database that is behind its store: the cut says that it does not belong to it.
        changed = last_sequence != pointer.label_sequence
        return changed and self._clock() - moved >= self._every

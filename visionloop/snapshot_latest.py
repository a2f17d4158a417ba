"""Which snapshot of a dataset is the current one: datasets/<ds>/refs/latest.json.

The pointer follows the labels, not the clock: each snapshot says how many label events it covers,
and the pointer never goes back to fewer. Of two writers the later state wins, whoever comes first.
Each round of writers has a winner, so one that loses for `PATIENCE_SECONDS` meets something else.
"""

import random
import time
from collections.abc import Callable
from datetime import datetime
from typing import Final

from pydantic import Field

from visionloop.errors import ConflictError, NotFoundError, UnavailableError
from visionloop.objectstore import ObjectStore
from visionloop.record import Record, parse_record, record_bytes
from visionloop.snapshot_format import SNAPSHOT_ID_PATTERN

PATIENCE_SECONDS: Final = 30.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0  # seconds; doubled, and drawn from 0 to it


class LatestSnapshot(Record):
    """The content of latest.json. A higher `label_sequence` is the later state of the labels."""

    id: str = Field(pattern=f"^{SNAPSHOT_ID_PATTERN}$")
    label_sequence: int = Field(ge=0)


class LatestPointer:
    """The pointer of one dataset. `dataset` is a checked name."""

    def __init__(
        self,
        store: ObjectStore,
        dataset: str,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._now = now
        self._sleep = sleep
        self._key = f"datasets/{dataset}/refs/latest.json"

    def read(self) -> tuple[LatestSnapshot, datetime] | None:
        """What it points at, and a time at or before its last move; None when it is not there."""
        try:
            moved = self._store.stat(self._key).modified
            return parse_record(LatestSnapshot, self._store.get(self._key).data, self._key), moved
        except NotFoundError:
            return None

    def move(self, wanted: LatestSnapshot) -> None:
        """Points at `wanted`, unless it points at a later state already.

        Raises UnavailableError where it was changed before every attempt for `PATIENCE_SECONDS`.
        """
        end, limit, attempts = self._now() + PATIENCE_SECONDS, _FIRST_PAUSE, 1
        while not self._moved(wanted):  # somebody else moved it: look again
            pause = random.uniform(0, limit)  # noqa: S311 - so that writers do not meet again
            if self._now() + pause > end:
                raise UnavailableError(
                    f"{self._store.url}/{self._key} was changed before each of {attempts} attempts "
                    f"to move it to {wanted.id[:19]} in {PATIENCE_SECONDS:g} s; does another "
                    "program write it? The snapshot is written: cut it again, and only that is "
                    "tried again"
                )
            self._sleep(pause)
            limit, attempts = min(2 * limit, _LONGEST_PAUSE), attempts + 1

    def _moved(self, wanted: LatestSnapshot) -> bool:
        """One attempt; True when there is nothing left to do."""
        etag = None
        try:
            stored = self._store.get(self._key)
        except NotFoundError:
            pass
        else:
            etag = stored.etag
            current = parse_record(LatestSnapshot, stored.data, self._key)
            if current == wanted or current.label_sequence > wanted.label_sequence:
                return True
        try:
            self._store.compare_and_swap(self._key, record_bytes(wanted), etag)
        except ConflictError:
            return False
        return True

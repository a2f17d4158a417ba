"""Which snapshot of a dataset is the current one: datasets/<ds>/refs/latest.json.

The pointer follows the labels, not the clock: each snapshot says how many label events it covers,
and the pointer never goes back to fewer. Of two writers the later state wins, whoever comes first.
"""

from datetime import datetime

from pydantic import Field

from visionloop.errors import ConflictError, NotFoundError
from visionloop.objectstore import ObjectStore
from visionloop.record import Record, parse_record, record_bytes
from visionloop.snapshot_format import SNAPSHOT_ID_PATTERN


class LatestSnapshot(Record):
    """The content of latest.json. A higher `label_sequence` is the later state of the labels."""

    id: str = Field(pattern=f"^{SNAPSHOT_ID_PATTERN}$")
    label_sequence: int = Field(ge=0)


class LatestPointer:
    """The pointer of one dataset. `dataset` is a checked name."""

    def __init__(self, store: ObjectStore, dataset: str) -> None:
        self._store = store
        self._key = f"datasets/{dataset}/refs/latest.json"

    def read(self) -> tuple[LatestSnapshot, datetime] | None:
        """What it points at, and a time at or before its last move; None when it is not there."""
        try:
            moved = self._store.stat(self._key).modified
            return parse_record(LatestSnapshot, self._store.get(self._key).data, self._key), moved
        except NotFoundError:
            return None

    def move(self, wanted: LatestSnapshot) -> None:
        """Points at `wanted`, unless it points at a later state already."""
        while not self._moved(wanted):
            continue  # somebody else moved it: look again

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

"""Looks whether database and store agree, and says where they do not.

Ingest writes the object first and the rows that name it afterwards, in one transaction (see
`ingest`), so a crash leaves at most an object without a row. Rows without an object come from
elsewhere: a store that lost data, a bucket rule that deletes, a database put back beside another
store. Such an image is marked `missing` until its bytes are sent again or are there again.

Nothing is ever deleted. An object that no row names may be of an image on its way, of a backup of
the database that somebody will put back, or of another database in the same prefix; snapshots may
name it. It is counted and named in the log, and people decide.

One step of a sweep takes one of the 256 folders of `blobs/sha256/`: it lists the objects there and
reads the rows, both a page at a time and in the same order. A whole sweep of a million images is
1,000 listings of S3.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import func, select, update
from sqlalchemy.orm import load_only

from visionloop.errors import NotFoundError
from visionloop.objectstore import ObjectStat, ObjectStore
from visionloop.snapshot import blob_key
from visionloop.telemetry import labeling as metrics
from visionloop_labeling.database import Database
from visionloop_labeling.schema import BLOB_MISSING, BLOB_STORED, Blob

FOLDERS: Final = 256
EVERY_SECONDS: Final = 86_400 / FOLDERS  # a day for a whole sweep
# An object that is younger may be of a row on its way.
GRACE: Final = timedelta(minutes=15)
_PAGE: Final = 1000
_NAMED: Final = 20  # in one line of the log
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found. `missing` images lost their object since the last sweep, `found` ones have it
    again; `unclaimed` objects have no row."""

    images: int = 0
    missing: int = 0
    found: int = 0
    unclaimed: int = 0
    unclaimed_bytes: int = 0

    def __add__(self, other: "Findings") -> "Findings":
        return Findings(
            self.images + other.images,
            self.missing + other.missing,
            self.found + other.found,
            self.unclaimed + other.unclaimed,
            self.unclaimed_bytes + other.unclaimed_bytes,
        )


class Reconciler:
    """Sweeps through the store, a folder a step. Used by one thread at a time."""

    def __init__(self, database: Database, store: ObjectStore, grace: timedelta = GRACE) -> None:
        self._database = database
        self._store = store
        self._grace = grace
        self._unclaimed: dict[int, int] = {}  # objects by folder, as of its last visit

    def work(self) -> bool:
        """The folder whose turn it is; for a loop of EVERY_SECONDS. Nothing more waits."""
        self.step(folder_in_turn(time.time(), EVERY_SECONDS))
        return False

    def sweep(self) -> Findings:
        """All folders, one after the other."""
        return sum((self.step(folder) for folder in range(FOLDERS)), Findings())

    def step(self, folder: int) -> Findings:
        """Compares one folder, 0 to 255. Raises UnavailableError."""
        now = datetime.now(UTC)
        images = unclaimed = unclaimed_bytes = 0
        lost: list[Blob] = []
        there_again: list[str] = []
        named: list[str] = []
        for blob, stat in _side_by_side(self._rows(folder), self._objects(folder)):
            images += blob is not None
            if blob is None and stat is not None:
                if now - stat.modified > self._grace:
                    unclaimed += 1
                    unclaimed_bytes += stat.size
                    named.append(stat.key)
            elif blob is not None and not _matches(blob, stat):
                lost.append(blob)
            elif blob is not None and blob.state == BLOB_MISSING:
                there_again.append(blob.sha256)
        found = self._mark(there_again, BLOB_STORED, "found")
        # The row may be younger than our listing, so look again before anything is said.
        lost = [blob for blob in lost if not _matches(blob, self._stat(blob.sha256))]
        newly_lost = [one.sha256 for one in lost if one.state == BLOB_STORED]
        missing = self._mark(newly_lost, BLOB_MISSING, "missing")
        self._report(folder, [blob_key(one.sha256) for one in lost], named)
        return Findings(images, missing, found, unclaimed, unclaimed_bytes)

    def _rows(self, folder: int) -> Iterator[Blob]:
        after = f"{folder:02x}"
        end = f"{folder + 1:02x}" if folder + 1 < FOLDERS else "g"
        while True:
            query = (
                select(Blob)
                .where(Blob.sha256 > after, Blob.sha256 < end)
                .order_by(Blob.sha256)
                .limit(_PAGE)
                .options(load_only(Blob.sha256, Blob.state, Blob.size))
            )
            with self._database.read() as session:
                page = session.scalars(query).all()
            yield from page
            if len(page) < _PAGE:
                return
            after = page[-1].sha256

    def _objects(self, folder: int) -> Iterator[ObjectStat]:
        return self._store.list(f"blobs/sha256/{folder:02x}/")

    def _stat(self, sha256: str) -> ObjectStat | None:
        try:
            return self._store.stat(blob_key(sha256))
        except NotFoundError:
            return None

    def _mark(self, sha256s: list[str], state: str, counted_as: str) -> int:
        for start in range(0, len(sha256s), _PAGE):
            page = sha256s[start : start + _PAGE]
            with self._database.write() as session:
                session.execute(
                    update(Blob).where(Blob.sha256.in_(page)).values(state=state),
                    execution_options={"synchronize_session": False},
                )
            metrics.RECONCILER_CHANGES.labels(counted_as).inc(len(page))
        return len(sha256s)

    def _report(self, folder: int, lost: list[str], unclaimed: list[str]) -> None:
        self._unclaimed[folder] = len(unclaimed)
        metrics.UNCLAIMED_OBJECTS.set(sum(self._unclaimed.values()))
        with self._database.read() as session:
            query = select(func.count()).select_from(Blob).where(Blob.state == BLOB_MISSING)
            metrics.MISSING_IMAGES.set(session.scalar(query) or 0)
        if lost:
            _log.error(
                "the store has lost images; send them again, or put the store back",
                extra={"images": len(lost), "keys": lost[:_NAMED]},
            )
        if unclaimed:
            _log.warning(
                "objects that no image of this database names",
                extra={"objects": len(unclaimed), "keys": unclaimed[:_NAMED]},
            )


def folder_in_turn(now: float, every_seconds: float) -> int:
    """The folder whose turn it is, so that all have theirs in 256 intervals, restarts or not.

    `now` in seconds since 1970.
    """
    return int(now // every_seconds) % FOLDERS


def _matches(blob: Blob, stat: ObjectStat | None) -> bool:
    return stat is not None and stat.size == blob.size


def _side_by_side(
    rows: Iterator[Blob], objects: Iterator[ObjectStat]
) -> Iterator[tuple[Blob | None, ObjectStat | None]]:
    """Both in the order of digests, each with the other where it has one."""
    row, stat = next(rows, None), next(objects, None)
    while row is not None or stat is not None:
        key = "" if row is None else blob_key(row.sha256)
        if stat is None or (row is not None and key < stat.key):
            yield row, None
            row = next(rows, None)
        elif row is None or stat.key < key:
            yield None, stat
            stat = next(objects, None)
        else:
            yield row, stat
            row, stat = next(rows, None), next(objects, None)

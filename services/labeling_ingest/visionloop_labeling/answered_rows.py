"""Which rows of recent batches may have receipts, without asking the database for each."""

import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from visionloop_labeling.database import Database
from visionloop_labeling.receipts import ImageRow
from visionloop_labeling.schema import Dataset, IngestBatch, IngestRow

_KEPT_BATCHES: Final = 4096  # whose highest ordinal is remembered


class AnsweredRows:
    """Up to which ordinal the rows of recent batches have receipts, so that most rows of an import
    need not be looked up one by one. Safe to use from several threads.

    It may be behind what other replicas have answered meanwhile, never before what is stored.
    """

    def __init__(self) -> None:
        self._highest: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._lock = threading.Lock()

    def may_have(self, database: Database, row: ImageRow) -> bool:
        """Whether the (checked) row may have been answered."""
        key = (row.dataset, row.batch)
        with self._lock:
            highest = self._highest.get(key)
        if highest is None:
            with database.read() as session:
                highest = _highest_ordinal(session, row)
            self._remember(key, highest)
        return row.ordinal <= highest

    def note(self, rows: Iterable[ImageRow]) -> None:
        """These rows have receipts now."""
        for row in rows:
            key = (row.dataset, row.batch)
            with self._lock:
                known = key in self._highest
            if known:
                self._remember(key, row.ordinal)

    def _remember(self, key: tuple[str, str], ordinal: int) -> None:
        with self._lock:
            self._highest[key] = max(ordinal, self._highest.get(key, ordinal))
            self._highest.move_to_end(key)
            if len(self._highest) > _KEPT_BATCHES:
                self._highest.popitem(last=False)


def _highest_ordinal(session: Session, row: ImageRow) -> int:
    query = (
        select(func.max(IngestRow.ordinal))
        .join(IngestBatch, IngestBatch.id == IngestRow.batch_id)
        .join(Dataset, Dataset.id == IngestBatch.dataset_id)
        .where(Dataset.name == row.dataset, IngestBatch.name == row.batch)
    )
    highest = session.scalar(query)
    return -1 if highest is None else highest

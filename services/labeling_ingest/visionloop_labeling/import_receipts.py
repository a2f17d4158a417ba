"""The receipts of an import, in the order of its rows, a page at a time."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import select

from visionloop_labeling.database import Database
from visionloop_labeling.import_jobs import Job
from visionloop_labeling.receipts import Outcome
from visionloop_labeling.schema import Dataset, IngestBatch, IngestRow

PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class RowReceipt:
    """What became of one row."""

    ordinal: int
    outcome: Outcome
    sha256: str
    reason: str
    message: str
    field: str
    source: str
    at: datetime


def page(
    database: Database, job: Job, after: int, outcome: Outcome | None, limit: int
) -> list[RowReceipt]:
    """At most `limit` receipts of rows behind the ordinal `after`, all or of one outcome."""
    query = (
        select(IngestRow)
        .join(IngestBatch, IngestBatch.id == IngestRow.batch_id)
        .join(Dataset, Dataset.id == IngestBatch.dataset_id)
        .where(
            Dataset.name == job.dataset, IngestBatch.name == job.batch, IngestRow.ordinal > after
        )
        .order_by(IngestRow.ordinal)
        .limit(limit)
    )
    if outcome is not None:
        query = query.where(IngestRow.outcome == outcome)
    with database.read() as session:
        return [
            RowReceipt(
                ordinal=row.ordinal,
                outcome=Outcome(row.outcome),
                sha256=row.sha256,
                reason=row.reason,
                message=row.message,
                field=row.field,
                source=row.source,
                at=row.at,
            )
            for row in session.scalars(query)
        ]

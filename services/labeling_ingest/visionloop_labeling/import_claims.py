"""Who works on an import job: a lease that its holder renews, and the checkpoint behind it.

When the holder dies, another replica claims the job and goes on at the checkpoint. Every row has
its ordinal, so rows that were made durable after the last checkpoint are answered from their
receipts: at any moment a kill costs time and nothing else. A holder who lost its lease (it slept,
or somebody cancelled the job) learns so at its next change of the job's row, which names the
holder; what it did meanwhile were rows with receipts, once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from visionloop_labeling import datasets
from visionloop_labeling.database import Database
from visionloop_labeling.import_jobs import UNFINISHED, JobState
from visionloop_labeling.receipts import Outcome, Receipt
from visionloop_labeling.schema import Dataset, ImportJob, IngestBatch, IngestRow

LEASE: Final = timedelta(seconds=60)
# Claims in a row that move no checkpoint, before a job is taken for one that kills its worker.
FRUITLESS_CLAIMS: Final = 5
# So many of them at most are of workers that lived and had to wait: an outage ends no job.
_PATIENT_CLAIMS: Final = FRUITLESS_CLAIMS - 2
_KEPT_MESSAGE: Final = 1000  # characters


@dataclass(frozen=True, slots=True)
class StagedFile:
    """The file of a job in the store."""

    key: str
    name: str
    sha256: str
    size: int  # bytes


class LeaseLostError(Exception):
    """The job is somebody else's now, or was cancelled."""


class Claim:
    """A job that this worker holds the lease of. Made by `claim`; all changes check the lease."""

    def __init__(self, database: Database, job: ImportJob, dataset: Dataset) -> None:
        self._database = database
        self._id = job.id
        self._holder = job.lease_holder
        self.job_id = job.id
        self.dataset_id = dataset.id
        self.dataset = dataset.name
        self.task = datasets.settings_of(dataset).task
        self.batch = job.batch
        self.kind = job.kind
        self.parameters: Mapping[str, Any] = job.parameters["said"]
        self.file = _staged(job)
        self.author = job.author
        self.checkpoint = job.checkpoint
        self.attempts = job.attempts
        self.counts: dict[str, int] = {}

    def recount(self) -> list[Receipt]:
        """Counts the receipts that are there and moves the checkpoint behind those that have no gap
        before them; gives the ones behind the stored checkpoint."""
        with self._database.read() as session:
            of_batch = (
                select(IngestRow.outcome, func.count())
                .join(IngestBatch, IngestBatch.id == IngestRow.batch_id)
                .where(IngestBatch.dataset_id == self.dataset_id, IngestBatch.name == self.batch)
            )
            grouped = session.execute(of_batch.group_by(IngestRow.outcome)).tuples()
            self.counts = {str(outcome): count for outcome, count in grouped}
            behind = of_batch.with_only_columns(IngestRow).where(
                IngestRow.ordinal >= self.checkpoint
            )
            receipts = [
                Receipt(self.batch, row.ordinal, Outcome(row.outcome), row.sha256)
                for row in session.scalars(behind)
            ]
        answered = {receipt.ordinal for receipt in receipts}
        while self.checkpoint in answered:
            self.checkpoint += 1
        return receipts

    def renew(self) -> None:
        """Keeps the lease. Raises LeaseLostError."""
        with self._database.write() as session:
            self._change(session, lease_until=datetime.now(UTC) + LEASE)

    def begin(self, session: Session, rows: int) -> None:
        """Notes how many rows there are, within the caller's transaction."""
        self._change(
            session, rows=rows, counts=dict(self.counts), checkpoint=self.checkpoint, message=""
        )

    def advance(self, session: Session, checkpoint: int) -> None:
        """Moves the checkpoint, and with it the counts, within the caller's transaction."""
        self.checkpoint = checkpoint
        self._change(
            session,
            checkpoint=checkpoint,
            counts=dict(self.counts),
            attempts=0,
            lease_until=datetime.now(UTC) + LEASE,
        )

    def finish(self, state: JobState, message: str) -> None:
        """Ends the job."""
        with self._database.write() as session:
            self._change(
                session,
                state=state,
                counts=dict(self.counts),
                message=message[:_KEPT_MESSAGE],
                finished=datetime.now(UTC),
                lease_until=None,
            )

    def release(self, message: str, pause: timedelta, *, away: bool = False) -> None:
        """Gives the job back; nobody claims it before the pause is over.

        With `away` the store, the ingest or the database is, and the job is not what is wrong:
        however often that happens, it is not given up.
        """
        attempts = min(self.attempts, _PATIENT_CLAIMS) if away else self.attempts
        with self._database.write() as session:
            self._change(
                session,
                message=message[:_KEPT_MESSAGE],
                attempts=attempts,
                lease_holder="",
                lease_until=datetime.now(UTC) + pause,
            )

    def _change(self, session: Session, **values: object) -> None:
        held = (ImportJob.id == self._id, ImportJob.lease_holder == self._holder)
        query = update(ImportJob).where(*held, ImportJob.state == JobState.RUNNING)
        changed: Any = session.execute(query.values(values))
        if changed.rowcount != 1:
            raise LeaseLostError


def claim(database: Database, holder: str) -> Claim | None:
    """The oldest job that nobody works on, now held by `holder`; None when there is none.

    `holder` is new for each worker. On SQLite nobody else can be working, so a lease that another
    holder left is void: it is of a process that was killed.
    """
    now = datetime.now(UTC)
    free = or_(ImportJob.lease_until.is_(None), ImportJob.lease_until < now)
    if database.single_process:
        free = or_(free, ImportJob.lease_holder.not_in(("", holder)))
    query = (
        select(ImportJob, Dataset)
        .join(Dataset, Dataset.id == ImportJob.dataset_id)
        .where(ImportJob.state.in_(UNFINISHED), free)
        .order_by(ImportJob.id)
        .limit(1)
    )
    if not database.single_process:
        query = query.with_for_update(skip_locked=True, of=ImportJob)
    with database.write() as session:
        row = session.execute(query).first()
        if row is None:
            return None
        job, dataset = row
        if job.attempts >= FRUITLESS_CLAIMS:
            job.state = JobState.FAILED
            job.finished = now
            job.message = (
                f"the import was begun {job.attempts} times and got no further than row "
                f"{job.checkpoint}; {job.message or 'its worker died each time'}"
            )[:_KEPT_MESSAGE]
            return None
        job.state = JobState.RUNNING
        job.lease_holder = holder
        job.lease_until = now + LEASE
        job.attempts += 1
        return Claim(database, job, dataset)


def _staged(job: ImportJob) -> StagedFile | None:
    told = job.parameters["file"]
    if told is None:
        return None
    return StagedFile(job.upload_key, told["name"], told["sha256"], told["size"])

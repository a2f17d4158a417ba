"""Import jobs: imports that the service works through by itself, told by rows of one table.

    queued ──claim──▶ running ──▶ done
       │                 │  └───▶ failed     (the source cannot be read, or kills every worker)
       └────cancel───────┴──────▶ cancelled

A job's upload lies in the store until the job ends. Whoever claims a job holds a lease on it and
renews it; when its holder dies, another replica claims the job and goes on at the checkpoint. Every
row has its ordinal, so rows that were made durable after the last checkpoint are answered from
their receipts: at any moment a kill costs time and nothing else. A holder who lost its lease (it
slept, or somebody cancelled the job) learns so at its next change of the job's row, which names the
holder; what it did meanwhile were rows with receipts, once.
"""

import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from visionloop.errors import ConflictError, NotFoundError, RefusedError
from visionloop.failpoints import failpoint
from visionloop.objectstore import ObjectStore
from visionloop_labeling import datasets, validation
from visionloop_labeling.database import Database
from visionloop_labeling.importers.parameters import Parameters
from visionloop_labeling.receipts import Outcome, Receipt
from visionloop_labeling.schema import Dataset, ImportJob, IngestBatch, IngestRow

STAGING: Final = "staging"
LEASE: Final = timedelta(seconds=60)
# Claims in a row that move no checkpoint, before a job is taken for one that kills its worker.
FRUITLESS_CLAIMS: Final = 5
ABANDONED: Final = timedelta(days=1)  # an upload that no job names
MAX_UNFINISHED: Final = 100  # jobs of one dataset
_KEPT_MESSAGE: Final = 1000  # characters


class JobState(StrEnum):
    """Where a job is."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def finished(self) -> bool:
        """Whether nothing will happen to it any more."""
        return self not in (JobState.QUEUED, JobState.RUNNING)


_UNFINISHED: Final = (JobState.QUEUED, JobState.RUNNING)


@dataclass(frozen=True, slots=True)
class Upload:
    """The file that came with an import, spooled on this machine's disk."""

    path: Path
    name: str
    sha256: str
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class StagedFile:
    """The file of a job in the store."""

    key: str
    name: str
    sha256: str
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class Job:
    """An import job as it is shown. `counts` are receipts by outcome."""

    key: str
    dataset: str
    batch: str
    kind: str
    parameters: Mapping[str, Any]
    file_name: str
    state: JobState
    rows: int | None
    checkpoint: int
    counts: Mapping[str, int]
    message: str
    author: str
    created: datetime
    finished: datetime | None

    @property
    def answered(self) -> int:
        """Rows with a receipt."""
        return sum(self.counts.values())


class LeaseLostError(Exception):
    """The job is somebody else's now, or was cancelled."""


def submit(
    database: Database,
    store: ObjectStore,
    *,
    dataset: str,
    kind: str,
    parameters: Parameters,
    upload: Upload | None,
    idempotency_key: str,
    author: str,
) -> Job:
    """Stages the upload and queues the import; the same key again gives the same job.

    Raises ConflictError when the key was used for something else.
    """
    name = validation.dataset_name(dataset)
    said = parameters.model_dump(mode="json")
    digest = _request_digest(kind, said, upload)
    idempotency_key = idempotency_key or str(uuid.uuid4())
    with database.read() as session:
        before = _repeated(session, datasets.find(session, name), idempotency_key, digest)
    if before is not None:
        return before
    staged = "" if upload is None else _stage(store, upload)
    with database.write() as session:
        found = datasets.find(session, name, lock=True)
        job = _repeated(session, found, idempotency_key, digest)
        if job is None:
            _check_unfinished(session, found)
            job = _add(
                session,
                found,
                kind=kind,
                parameters={"said": said, "file": _told(upload)},
                upload_key=staged,
                idempotency_key=idempotency_key,
                request_digest=digest,
                author=author,
            )
            staged = ""
    if staged:  # somebody sent the same at the same time and was first
        store.delete(staged)
    failpoint("import.queued")
    return job


def find(database: Database, dataset: str, key: str) -> Job:
    """One job. Raises NotFoundError."""
    with database.read() as session:
        found = datasets.find(session, validation.dataset_name(dataset))
        return _shown(found, _find(session, found, key))


def latest(database: Database, dataset: str, limit: int) -> list[Job]:
    """The dataset's jobs, newest first."""
    with database.read() as session:
        found = datasets.find(session, validation.dataset_name(dataset))
        query = (
            select(ImportJob)
            .where(ImportJob.dataset_id == found.id)
            .order_by(ImportJob.id.desc())
            .limit(limit)
        )
        return [_shown(found, job) for job in session.scalars(query)]


def cancel(database: Database, dataset: str, key: str) -> Job:
    """Ends a job; the rows it has answered stay. Raises RefusedError when it has ended."""
    with database.write() as session:
        found = datasets.find(session, validation.dataset_name(dataset))
        job = _find(session, found, key, lock=True)
        state = JobState(job.state)
        if state is not JobState.CANCELLED:
            if state.finished:
                raise RefusedError(f"the import {key} is {state}; there is nothing to cancel")
            job.state = JobState.CANCELLED
            job.finished = datetime.now(UTC)
        return _shown(found, job)


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

    def release(self, message: str, pause: timedelta) -> None:
        """Gives the job back; nobody claims it before the pause is over."""
        with self._database.write() as session:
            self._change(
                session,
                message=message[:_KEPT_MESSAGE],
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
        .where(ImportJob.state.in_(_UNFINISHED), free)
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


def discard_uploads(database: Database, store: ObjectStore) -> bool:
    """Removes one upload of a job that has ended; whether there was one."""
    query = select(ImportJob.id, ImportJob.upload_key).where(
        ImportJob.state.not_in(_UNFINISHED), ImportJob.upload_key != ""
    )
    with database.read() as session:
        found = session.execute(query.limit(1)).first()
    if found is None:
        return False
    store.delete(found.upload_key)
    failpoint("import.discarded")
    with database.write() as session:
        session.execute(update(ImportJob).where(ImportJob.id == found.id).values(upload_key=""))
    return True


def discard_abandoned(database: Database, store: ObjectStore) -> int:
    """Removes uploads of which no job came: their sender or we died in between. How many."""
    oldest = datetime.now(UTC) - ABANDONED
    removed = 0
    for found in store.list(f"{STAGING}/"):
        if found.modified >= oldest:
            continue
        with database.read() as session:
            named = session.scalar(select(ImportJob.id).where(ImportJob.upload_key == found.key))
        if named is None:
            store.delete(found.key)
            removed += 1
    return removed


def _stage(store: ObjectStore, upload: Upload) -> str:
    key = f"{STAGING}/{uuid.uuid4()}"
    store.upload(upload.path, key)
    failpoint("import.staged")
    return key


def _add(session: Session, dataset: Dataset, **values: Any) -> Job:
    key = str(uuid.uuid4())
    job = ImportJob(
        key=key,
        dataset_id=dataset.id,
        batch=f"import:{key}",
        state=JobState.QUEUED,
        counts={},
        created=datetime.now(UTC),
        **values,
    )
    session.add(job)
    session.flush()
    return _shown(dataset, job)


def _check_unfinished(session: Session, dataset: Dataset) -> None:
    query = select(func.count()).where(
        ImportJob.dataset_id == dataset.id, ImportJob.state.in_(_UNFINISHED)
    )
    if (session.scalar(query) or 0) >= MAX_UNFINISHED:
        raise RefusedError(
            f'dataset "{dataset.name}" has {MAX_UNFINISHED} imports that have not ended; wait for '
            "some, or cancel some"
        )


def _repeated(session: Session, dataset: Dataset, key: str, digest: str) -> Job | None:
    query = select(ImportJob).where(
        ImportJob.dataset_id == dataset.id, ImportJob.idempotency_key == key
    )
    job = session.scalar(query)
    if job is None:
        return None
    if job.request_digest != digest:
        raise ConflictError(
            f"the Idempotency-Key was used for another import ({job.key}); use a new one for each"
        )
    return _shown(dataset, job)


def _find(session: Session, dataset: Dataset, key: str, *, lock: bool = False) -> ImportJob:
    query = select(ImportJob).where(ImportJob.dataset_id == dataset.id, ImportJob.key == key)
    job = session.scalar(query.with_for_update() if lock else query)
    if job is None:
        raise NotFoundError(f'dataset "{dataset.name}" has no import {key[:40]!a}')
    return job


def _shown(dataset: Dataset, job: ImportJob) -> Job:
    told = job.parameters["file"]
    return Job(
        key=job.key,
        dataset=dataset.name,
        batch=job.batch,
        kind=job.kind,
        parameters=job.parameters["said"],
        file_name="" if told is None else told["name"],
        state=JobState(job.state),
        rows=job.rows,
        checkpoint=job.checkpoint or 0,
        counts=dict(job.counts),
        message=job.message or "",
        author=job.author,
        created=job.created,
        finished=job.finished,
    )


def _staged(job: ImportJob) -> StagedFile | None:
    told = job.parameters["file"]
    if told is None:
        return None
    return StagedFile(job.upload_key, told["name"], told["sha256"], told["size"])


def _told(upload: Upload | None) -> dict[str, object] | None:
    if upload is None:
        return None
    return {"name": upload.name, "sha256": upload.sha256, "size": upload.size}


def _request_digest(kind: str, said: Mapping[str, Any], upload: Upload | None) -> str:
    asked = [kind, sorted(said.items()), None if upload is None else upload.sha256]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()

"""Import jobs: imports that the service works through by itself, told by rows of one table.

    queued ──claim──▶ running ──▶ done
       │                 │  └───▶ failed     (the source cannot be read, or kills every worker)
       └────cancel───────┴──────▶ cancelled

A job's upload lies in the store until the job ends; `import_claims` is how replicas share the work.
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

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from visionloop.errors import ConflictError, NotFoundError, RefusedError
from visionloop.failpoints import failpoint
from visionloop.objectstore import ObjectStore
from visionloop_labeling import datasets, validation
from visionloop_labeling.database import Database
from visionloop_labeling.importers.parameters import Parameters
from visionloop_labeling.schema import Dataset, ImportJob

STAGING: Final = "staging"
ABANDONED: Final = timedelta(days=1)  # an upload that no job names
MAX_UNFINISHED: Final = 100  # jobs of one dataset


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


UNFINISHED: Final = (JobState.QUEUED, JobState.RUNNING)


@dataclass(frozen=True, slots=True)
class Upload:
    """The file that came with an import, spooled on this machine's disk."""

    path: Path
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

    Raises ConflictError when the key was used for something else, RefusedError when too many
    imports of the dataset have not ended.
    """
    name = validation.dataset_name(dataset)
    said = parameters.model_dump(mode="json")
    digest = _request_digest(kind, said, upload)
    idempotency_key = idempotency_key or str(uuid.uuid4())
    with database.read() as session:
        found = datasets.find(session, name)
        before = _repeated(session, found, idempotency_key, digest)
        if before is not None:
            return before
        _check_unfinished(session, found)  # the upload may be large
    staged = "" if upload is None else _stage(store, upload)
    wanted = {
        "kind": kind,
        "parameters": {"said": said, "file": _told(upload)},
        "upload_key": staged,
        "idempotency_key": idempotency_key,
        "request_digest": digest,
        "author": author,
    }
    taken = True  # as long as that is not known
    try:
        job, taken = _queued(database, name, wanted)
    except (ConflictError, RefusedError):
        taken = False
        raise
    finally:
        if staged and not taken:  # refused, or somebody sent the same meanwhile and was first
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


def discard_uploads(database: Database, store: ObjectStore) -> bool:
    """Removes one upload of a job that has ended; whether there was one."""
    query = select(ImportJob.id, ImportJob.upload_key).where(
        ImportJob.state.not_in(UNFINISHED), ImportJob.upload_key != ""
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


def _queued(database: Database, dataset: str, wanted: Mapping[str, Any]) -> tuple[Job, bool]:
    """The job, and whether it is new: else somebody sent the same before.

    Raises ConflictError and RefusedError, and then there is none.
    """
    with database.write() as session:
        found = datasets.find(session, dataset, lock=True)
        key, digest = wanted["idempotency_key"], wanted["request_digest"]
        before = _repeated(session, found, key, digest)
        if before is not None:
            return before, False
        _check_unfinished(session, found)
        return _add(session, found, **wanted), True


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
        ImportJob.dataset_id == dataset.id, ImportJob.state.in_(UNFINISHED)
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


def _told(upload: Upload | None) -> dict[str, object] | None:
    if upload is None:
        return None
    return {"name": upload.name, "sha256": upload.sha256, "size": upload.size}


def _request_digest(kind: str, said: Mapping[str, Any], upload: Upload | None) -> str:
    asked = [kind, sorted(said.items()), None if upload is None else upload.sha256]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()

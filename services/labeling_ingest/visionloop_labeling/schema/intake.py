"""Receipts of rows, import jobs, and the ledger of objects that were synchronised."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, Integer, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from visionloop_labeling.schema.base import RowId, Table, UtcDateTime


class IngestBatch(Table):
    """A named import; with a row's ordinal it is the idempotency key."""

    __tablename__ = "ingest_batch"
    __table_args__ = (UniqueConstraint("dataset_id", "name"),)

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("dataset.id"))
    name: Mapped[str] = mapped_column(String(200))
    created: Mapped[datetime] = mapped_column(UtcDateTime)


class IngestRow(Table):
    """The stored receipt of one row, with the digest of what was asked."""

    __tablename__ = "ingest_row"

    batch_id: Mapped[int] = mapped_column(ForeignKey("ingest_batch.id"), primary_key=True)
    ordinal: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    request_digest: Mapped[str] = mapped_column(String(64))
    outcome: Mapped[str] = mapped_column(String(11))  # accepted duplicate rejected quarantined
    sha256: Mapped[str] = mapped_column(String(64))
    reason: Mapped[str] = mapped_column(String(40))
    message: Mapped[str] = mapped_column(String(1000))
    field: Mapped[str] = mapped_column(String(80))
    source: Mapped[str] = mapped_column(String(1000))
    at: Mapped[datetime] = mapped_column(UtcDateTime)


class ImportJob(Table):
    """An import that the service works through: an archive, a list of URLs, a prefix in a store.

    Whoever holds the lease works on it; rows before `checkpoint` have their receipts.
    """

    __tablename__ = "import_job"
    __table_args__ = (
        UniqueConstraint("dataset_id", "idempotency_key"),
        Index(None, "state", "id"),
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    key: Mapped[str] = mapped_column(String(36), unique=True)  # its name outside: a UUID
    dataset_id: Mapped[int] = mapped_column(ForeignKey("dataset.id"))
    batch: Mapped[str] = mapped_column(String(200))  # of its receipts
    kind: Mapped[str] = mapped_column(String(16))  # see importers.KINDS
    parameters: Mapped[dict[str, Any]] = mapped_column(JSON)
    upload_key: Mapped[str] = mapped_column(String(200), default="")  # staged bytes in the store
    idempotency_key: Mapped[str] = mapped_column(String(200))
    request_digest: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(9))  # queued running done failed cancelled
    checkpoint: Mapped[int] = mapped_column(BigInteger, default=0)  # ordinals below are answered
    rows: Mapped[int | None] = mapped_column(BigInteger)  # in all, once it is known
    counts: Mapped[dict[str, int]] = mapped_column(JSON, default=dict)  # receipts by outcome
    message: Mapped[str] = mapped_column(String(1000), default="")
    author: Mapped[str] = mapped_column(String(200))
    lease_holder: Mapped[str] = mapped_column(String(80), default="")
    lease_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    created: Mapped[datetime] = mapped_column(UtcDateTime)
    finished: Mapped[datetime | None] = mapped_column(UtcDateTime)


class SourceObject(Table):
    """The ledger of a synchronised prefix: an object that was taken is not fetched again.

    A job notes what it lists first, and then fetches what it noted: `id` is the row's ordinal.
    """

    __tablename__ = "source_object"
    __table_args__ = (
        UniqueConstraint("dataset_id", "source", "key", "etag"),
        Index(None, "job_id", "outcome", "id"),
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("dataset.id"))
    source: Mapped[str] = mapped_column(String(400))  # s3://bucket
    key: Mapped[str] = mapped_column(String(1024))
    etag: Mapped[str] = mapped_column(String(200))
    job_id: Mapped[int] = mapped_column(ForeignKey("import_job.id"))  # that fetches it
    outcome: Mapped[str] = mapped_column(String(11), default="")  # of its receipt; empty: waits
    sha256: Mapped[str] = mapped_column(String(64), default="")
    at: Mapped[datetime] = mapped_column(UtcDateTime)

"""Rows, receipts, and the book of receipts that makes sending a row again harmless.

A row's key is (dataset, batch, ordinal). The first answer to a key is kept with a digest of what
was asked: the same row again is answered from the book, another row under the same key is refused
as a conflict. Only a refusal may be replaced, by the corrected row.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum

from sqlalchemy import select
from sqlalchemy.orm import Session

from visionloop.errors import ConflictError, InvalidInputError, VisionloopError
from visionloop_labeling import validation
from visionloop_labeling.labels import AuthorKind
from visionloop_labeling.schema import Dataset, IngestBatch, IngestRow
from visionloop_labeling.validation import Inspection


class Outcome(StrEnum):
    """What became of a row."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class ImageRow:
    """A row as a caller sends it; nothing in it is trusted."""

    dataset: str
    batch: str
    ordinal: int
    image: bytes
    label: str | None = None
    group: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    author_kind: str = AuthorKind.APP
    author: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Receipt:
    """The durable answer to one row."""

    batch: str
    ordinal: int
    outcome: Outcome
    sha256: str = ""
    reason: str = ""
    message: str = ""
    field: str = ""
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class Prepared:
    """A row that has been checked: either inspected or refused. `digest` is of what was asked."""

    row: ImageRow
    digest: str
    inspection: Inspection | None
    refusal: VisionloopError | None

    @property
    def key(self) -> tuple[str, int]:
        """The idempotency key within the dataset."""
        return self.row.batch, self.row.ordinal


class ReceiptBook:
    """The stored receipts of one dataset, as one transaction sees them."""

    def __init__(self, session: Session, dataset: Dataset) -> None:
        self._session = session
        self._dataset = dataset
        self._batches: dict[str, IngestBatch] = {}

    def find(self, prepared: Prepared) -> Receipt | None:
        """The answer to this key, or None when the row is new or corrects a refused one."""
        row = prepared.row
        if not _has_usable_key(row):
            return None
        stored = self._session.scalar(
            select(IngestRow)
            .join(IngestBatch, IngestBatch.id == IngestRow.batch_id)
            .where(
                IngestBatch.dataset_id == self._dataset.id,
                IngestBatch.name == row.batch,
                IngestRow.ordinal == row.ordinal,
            )
        )
        if stored is None or _corrects(prepared, stored):
            return None
        return _replay(prepared, stored)

    def keep(self, prepared: Prepared, receipt: Receipt) -> None:
        """Writes the receipt of a row; one without a usable key cannot be kept."""
        if not _has_usable_key(prepared.row):
            return
        kept = IngestRow(
            batch_id=self._batch(prepared.row.batch).id,
            ordinal=prepared.row.ordinal,
            request_digest=prepared.digest,
            outcome=receipt.outcome,
            sha256=receipt.sha256,
            reason=receipt.reason,
            message=receipt.message[:1000],
            field=receipt.field,
            source=prepared.row.source[: validation.MAX_SOURCE],
            at=datetime.now(UTC),
        )
        # merge, because a refused row may be replaced by its corrected self.
        self._session.merge(kept)
        self._session.flush()

    def _batch(self, name: str) -> IngestBatch:
        if name not in self._batches:
            batch = self._session.scalar(
                select(IngestBatch).where(
                    IngestBatch.dataset_id == self._dataset.id, IngestBatch.name == name
                )
            )
            if batch is None:
                batch = IngestBatch(
                    dataset_id=self._dataset.id, name=name, created=datetime.now(UTC)
                )
                self._session.add(batch)
                self._session.flush()
            self._batches[name] = batch
        return self._batches[name]


def refused(prepared: Prepared, refusal: VisionloopError | None) -> Receipt:
    """The receipt of a refused row."""
    row = prepared.row
    error = refusal or InvalidInputError("the row has no image")
    return Receipt(
        row.batch,
        row.ordinal,
        Outcome.REJECTED,
        reason=error.reason,
        message=str(error),
        field=error.field if isinstance(error, InvalidInputError) else "dataset",
    )


def _replay(prepared: Prepared, stored: IngestRow) -> Receipt:
    if stored.request_digest != prepared.digest:
        refusal = ConflictError(
            f'row {prepared.row.ordinal} of batch "{prepared.row.batch}" was {stored.outcome} '
            f"before with other content (image {stored.sha256}); number the rows of an import "
            "once, or begin a new batch"
        )
        return replace(refused(prepared, refusal), field="ordinal")
    return Receipt(
        prepared.row.batch,
        prepared.row.ordinal,
        Outcome(stored.outcome),
        stored.sha256,
        stored.reason,
        stored.message,
        stored.field,
        replayed=True,
    )


def _has_usable_key(row: ImageRow) -> bool:
    try:
        return validation.text(row.batch, "batch") == row.batch and row.ordinal == (
            validation.ordinal(row.ordinal)
        )
    except InvalidInputError:
        return False


def request_digest(row: ImageRow) -> str:
    """A digest of everything a row asks for."""
    asked = [
        hashlib.sha256(row.image).hexdigest(),
        row.label,
        row.group,
        sorted(row.attributes.items()),
        row.author_kind,
        row.author,
        row.source,
    ]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def _corrects(prepared: Prepared, stored: IngestRow) -> bool:
    return stored.outcome == Outcome.REJECTED and stored.request_digest != prepared.digest

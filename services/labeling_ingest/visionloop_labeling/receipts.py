"""Rows, receipts, and the book of receipts that makes sending a row again harmless.

A row's key is (dataset, batch, ordinal). The first answer to a key is kept with a digest of what
was asked: the same row again is answered from the book, another row under the same key is refused
as a conflict. Only a refusal may be replaced: a refused row is looked at anew each time it comes.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from visionloop.errors import ConflictError, InvalidInputError, VisionloopError
from visionloop_labeling import validation
from visionloop_labeling.annotation import MAX_NOTE, Draft
from visionloop_labeling.inspection import Inspection
from visionloop_labeling.labels import AuthorKind
from visionloop_labeling.schema import Dataset, IngestBatch, IngestRow, plain

_KEPT_MESSAGE: Final = 1000  # characters


class Outcome(StrEnum):
    """What became of a row."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    REJECTED = "rejected"
    # It looks like an image and cannot be decoded: its bytes are kept aside for people.
    QUARANTINED = "quarantined"


class Way(StrEnum):
    """How a row came in."""

    GRPC = "grpc"
    HTTP = "http"
    IMPORT = "import"  # of a job that reads a file, a list of addresses or a bucket
    FEEDBACK = "feedback"  # with an app's word on a prediction


@dataclass(frozen=True, slots=True)
class ImageRow:
    """A row as a caller sends it; nothing in it is trusted but the way it came.

    Importers leave `image` empty for an image that the dataset has and name it by `sha256`; what
    they cannot read comes with its `refusal`, so that it gets a receipt as well; a `remark` says in
    the receipt what they changed on the way. `label` is short for an annotation of one class.
    """

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
    sha256: str = ""
    refusal: InvalidInputError | None = None
    remark: str = ""
    annotation: Draft | None = None
    way: Way = field(kw_only=True)

    def draft(self) -> Draft | None:
        """What the row says its image shows, if anything."""
        if self.annotation is None and self.label is not None:
            return Draft(classes=(self.label,))
        return self.annotation

    def checked_annotation(self) -> Draft | None:
        """The annotation, if it can be used. Raises InvalidInputError."""
        if self.annotation is not None:
            if self.label is not None:
                raise InvalidInputError(
                    "the row has a label and an annotation; put the class into the annotation",
                    field="annotation",
                )
            for name in self.annotation.class_names():
                validation.text(name, "annotation")
            validation.text(self.annotation.note, "note", limit=MAX_NOTE, required=False)
        return self.annotation


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
    """A row that has been checked: answered before, inspected, or refused.

    `digest` is of what was asked, `sha256` of the image. With `quarantine` the refused image's
    bytes are kept aside.
    """

    row: ImageRow
    digest: str
    sha256: str
    inspection: Inspection | None = None
    refusal: VisionloopError | None = None
    quarantine: bool = False
    answer: Receipt | None = None

    @property
    def unseen(self) -> bool:
        """Whether nothing is known of its image yet."""
        return self.inspection is None and self.refusal is None and self.answer is None

    def refused(self, refusal: VisionloopError | None = None) -> Receipt:
        """The receipt that says why not."""
        why = self.refusal or refusal or InvalidInputError("the row has no image", field="image")
        receipt = refused(self.row, why)
        if not self.quarantine:
            return receipt
        return replace(receipt, outcome=Outcome.QUARANTINED, sha256=self.sha256, field="image")


@dataclass(slots=True)
class _Kept:
    """A receipt of this transaction that is not written yet: a row of `IngestRow`."""

    batch_id: int
    ordinal: int
    request_digest: str = ""
    outcome: str = ""
    sha256: str = ""
    reason: str = ""
    message: str = ""
    field: str = ""
    source: str = ""
    at: datetime | None = None


_COLUMNS: Final = tuple(one.name for one in fields(_Kept))


class ReceiptBook:
    """The receipts of one dataset for a group of rows, within one transaction.

    `write` writes what was kept, at the end.
    """

    def __init__(self, session: Session, dataset: Dataset, rows: Iterable[Prepared]) -> None:
        self._session = session
        self._dataset = dataset
        self._batches: dict[str, IngestBatch] = {}
        self._stored: dict[tuple[str, int], IngestRow | _Kept] = {}
        ordinals = defaultdict[str, list[int]](list)
        for prepared in rows:
            if has_usable_key(prepared.row):
                ordinals[prepared.row.batch].append(prepared.row.ordinal)
        for name, wanted in ordinals.items():
            self._load(name, wanted)

    def find(self, prepared: Prepared) -> Receipt | None:
        """The answer to this key, or None when the row is new or corrects a refused one."""
        stored = self._stored.get((prepared.row.batch, prepared.row.ordinal))
        return None if stored is None else answer_from(stored, prepared.row, prepared.digest)

    def keep(self, prepared: Prepared, receipt: Receipt) -> Receipt:
        """Notes the receipt of a row; one without a usable key cannot be kept.

        Returns it, as a repetition when the same row had the same answer before.
        """
        row = prepared.row
        if not has_usable_key(row):
            return receipt
        stored = self._stored.get((row.batch, row.ordinal))
        if stored is None:
            stored = _Kept(self._batch(row.batch).id, row.ordinal)
            self._stored[row.batch, row.ordinal] = stored
        answer = (prepared.digest, receipt.outcome, receipt.reason)
        replayed = (stored.request_digest, stored.outcome, stored.reason) == answer
        stored.request_digest = prepared.digest
        stored.outcome = receipt.outcome
        stored.sha256 = receipt.sha256
        stored.reason = receipt.reason
        stored.message = receipt.message[:_KEPT_MESSAGE]
        stored.field = receipt.field
        stored.source = _kept_source(row)
        stored.at = datetime.now(UTC)
        return replace(receipt, replayed=replayed)

    def write(self) -> None:
        """Writes the receipts that are new, all in one statement."""
        kept = [one for one in self._stored.values() if isinstance(one, _Kept)]
        if kept:
            rows = [{name: getattr(one, name) for name in _COLUMNS} for one in kept]
            self._session.execute(insert(plain(IngestRow)), rows)

    def _load(self, name: str, ordinals: list[int]) -> None:
        batch = self._session.scalar(
            select(IngestBatch).where(
                IngestBatch.dataset_id == self._dataset.id, IngestBatch.name == name
            )
        )
        if batch is None:
            return
        self._batches[name] = batch
        query = select(IngestRow).where(
            IngestRow.batch_id == batch.id, IngestRow.ordinal.in_(ordinals)
        )
        for stored in self._session.scalars(query):
            self._stored[name, stored.ordinal] = stored

    def _batch(self, name: str) -> IngestBatch:
        if name not in self._batches:
            batch = IngestBatch(dataset_id=self._dataset.id, name=name, created=datetime.now(UTC))
            self._session.add(batch)
            self._session.flush()
            self._batches[name] = batch
        return self._batches[name]


def find_stored(session: Session, row: ImageRow) -> IngestRow | None:
    """The stored receipt under a row's key, whatever it was for."""
    query = (
        select(IngestRow)
        .join(IngestBatch, IngestBatch.id == IngestRow.batch_id)
        .join(Dataset, Dataset.id == IngestBatch.dataset_id)
        .where(
            Dataset.name == row.dataset,
            IngestBatch.name == row.batch,
            IngestRow.ordinal == row.ordinal,
        )
    )
    return session.scalar(query)


def answer_from(stored: IngestRow | _Kept, row: ImageRow, digest: str) -> Receipt | None:
    """What the stored receipt says to this row; None when there is none that binds.

    A refusal does not: the row may have been corrected, or what it broke (a limit that an operator
    raised since) may be gone. It is looked at anew.
    """
    if stored.outcome in (Outcome.REJECTED, Outcome.QUARANTINED):
        return None
    if stored.request_digest == digest:
        return Receipt(
            row.batch,
            row.ordinal,
            Outcome(stored.outcome),
            stored.sha256,
            stored.reason,
            stored.message,
            stored.field,
            replayed=True,
        )
    refusal = ConflictError(
        f'row {row.ordinal} of batch "{row.batch}" was {stored.outcome} before with other content '
        f"(image {stored.sha256}); number the rows of an import once, or begin a new batch"
    )
    return replace(refused(row, refusal), field="ordinal")


def refused(row: ImageRow, refusal: VisionloopError) -> Receipt:
    """The receipt of a refused row."""
    return Receipt(
        row.batch,
        row.ordinal,
        Outcome.REJECTED,
        reason=refusal.reason,
        message=str(refusal),
        field=refusal.field if isinstance(refusal, InvalidInputError) else "dataset",
    )


def has_usable_key(row: ImageRow) -> bool:
    """Whether a receipt can be kept under the row's batch and ordinal."""
    try:
        validation.ordinal(row.ordinal)
        return validation.text(row.batch, "batch") == row.batch
    except InvalidInputError:
        return False


def _kept_source(row: ImageRow) -> str:
    # A refused row's source was not checked, and a database takes neither NUL nor half characters:
    # one such row would fail the transaction of the rows beside it.
    try:
        limit = validation.MAX_SOURCE
        return validation.text(row.source, "source", limit=limit, required=False)
    except InvalidInputError:
        return ""


def request_digest(row: ImageRow, sha256: str) -> str:
    """A digest of everything a row asks for; `sha256` is of its image."""
    asked: list[object] = [
        sha256,
        row.label,
        row.group,
        sorted(row.attributes.items()),
        row.author_kind,
        row.author,
        row.source,
    ]
    if row.annotation is not None:
        asked.append(row.annotation.stored())
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()

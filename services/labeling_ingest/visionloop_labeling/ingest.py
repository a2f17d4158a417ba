"""Images in: from a row as a caller sends it to a receipt that may be relied on.

Delivery is at least once, effects are once, by three keys: (dataset, batch, ordinal) of a row, the
UUID of a label event, the sha256 of an image. A group of rows goes through in this order, and a
crash after any step is repaired by sending the rows again:

  1. objects  the bytes are put if absent, under their digest; "already there" is success
              (crash: an object that no row names; it waits for the row that comes again)
  2. effects  one transaction: blobs, items, groups, labels, splits, quarantine (its bytes, too,
              for those may be deleted), receipts
              (crash: all there, the caller unsure; the same key gives the stored receipt)
  3. receipts

So there is no state between "not there" and "there", and nothing for a restart to repair. An object
is never deleted: whether a snapshot, another database or a backup needs it cannot be known here.
The price is the room of images that were sent and never again after a crash; `reconcile` counts
them. The transaction and its fsync are shared by the group. Refused rows get a receipt of their own
and never hold up the good ones; what was refused may be sent again, corrected, under its key.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import groupby
from typing import Final

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from visionloop.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
    VisionloopError,
)
from visionloop.failpoints import failpoint
from visionloop.images import Limits, Refusal
from visionloop.objectstore import ObjectStore
from visionloop.snapshot import blob_key
from visionloop.telemetry import labeling as metrics
from visionloop_labeling import datasets, labels, quarantine, validation
from visionloop_labeling.answered_rows import AnsweredRows
from visionloop_labeling.database import Database, insert_missing
from visionloop_labeling.duplicates import pack_hash
from visionloop_labeling.effects import Effects
from visionloop_labeling.inspection import Inspection
from visionloop_labeling.inspectors import Inspected, Inspector, OwnProcess
from visionloop_labeling.neighbours import Neighbours
from visionloop_labeling.receipts import (
    ImageRow,
    Outcome,
    Prepared,
    Receipt,
    Way,
    answer_from,
    find_stored,
    refused,
    request_digest,
)
from visionloop_labeling.schema import (
    BLOB_STORED,
    Blob,
    Dataset,
    Item,
)

# Their waits for the disk become one: file systems sync what comes together in one go.
_STORE_THREADS: Final = 16
# Looks like an image, and nobody can tell what it shows. Everything else is refused and forgotten.
_QUARANTINED: Final = frozenset(
    (Refusal.TRUNCATED, Refusal.CORRUPT, "decoder_crashed", "decode_timeout")
)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stored:
    """Rows of one dataset whose images are in the store; `new` are those it did not know of.

    With `receipts` there is nothing to write.
    """

    dataset: str
    rows: Sequence[Prepared]
    new: Mapping[str, Prepared] = field(default_factory=dict)  # by digest
    receipts: Sequence[Receipt] | None = None


class Ingest:
    """The ingest of one program. Safe to use from several threads."""

    def __init__(
        self,
        database: Database,
        store: ObjectStore,
        limits: Limits,
        inspector: Inspector | None = None,
    ) -> None:
        """Without an inspector, images are decoded in this process."""
        self._database = database
        self._store = store
        self._inspector = inspector or OwnProcess(limits)
        self._neighbours = Neighbours()
        self._answered = AnsweredRows()
        self._pool = ThreadPoolExecutor(_STORE_THREADS, thread_name_prefix="blob-store")

    def close(self) -> None:
        """Waits for running uploads."""
        self._pool.shutdown()

    def prepare(self, row: ImageRow) -> Prepared:
        """Checks a row and decodes its image, unless it has been answered before. Writes nothing.

        A bad row is returned with its refusal, not raised. Raises UnavailableError.
        """
        return self.prepare_all([row])[0]

    def prepare_all(self, rows: Sequence[ImageRow]) -> list[Prepared]:
        """The same for several rows, whose images may be looked at by one process in turn."""
        checked = [self._checked(row) for row in rows]
        unseen = [one for one in checked if one.unseen]
        inspected = self._inspector.inspect_all([one.row.image for one in unseen])
        seen = {id(one): _with(one, found) for one, found in zip(unseen, inspected, strict=True)}
        return [seen.get(id(one), one) for one in checked]

    def _checked(self, row: ImageRow) -> Prepared:
        """A row as far as it goes without looking at its image."""
        sha256 = row.sha256
        if row.image or not sha256:
            sha256 = hashlib.sha256(row.image).hexdigest()
        digest = request_digest(row, sha256)
        try:
            row = _check(row)
            answer = self._answer(row, digest)
            if answer is not None:
                return Prepared(row, digest, sha256, answer=answer)
            if row.refusal is not None:
                return Prepared(row, digest, sha256, refusal=row.refusal)
            return Prepared(row, digest, sha256, self._known(row))
        except InvalidInputError as refusal:
            return Prepared(row, digest, sha256, refusal=refusal)

    def commit(self, rows: Sequence[Prepared]) -> list[Receipt]:
        """Makes the rows durable and answers each, in order.

        Raises UnavailableError when the store or database cannot be reached: then rows without a
        receipt may be sent again, whatever became of them.
        """
        return self.write(self.store(rows))

    def store(self, rows: Sequence[Prepared]) -> list[Stored]:
        """The first half of `commit`: the images are in the store. Raises as it does."""
        runs = groupby(rows, key=lambda prepared: prepared.row.dataset)
        return [self._store_run(name, list(run)) for name, run in runs]

    def write(self, stored: Sequence[Stored]) -> list[Receipt]:
        """The second half: what the rows bring about is in the database. Raises as `commit`."""
        receipts: list[Receipt] = []
        for run in stored:
            answers = self._write_run(run)
            for prepared, receipt in zip(run.rows, answers, strict=True):
                _measure(prepared.row.way, receipt)
            receipts += answers
        return receipts

    def _answer(self, row: ImageRow, digest: str) -> Receipt | None:
        """The stored answer, if there is one. Only saves looking at the image: the commit asks
        again, and then nothing can come in between."""
        if not self._answered.may_have(self._database, row):
            return None
        with self._database.read() as session:
            stored = find_stored(session, row)
        return None if stored is None else answer_from(stored, row, digest)

    def _known(self, row: ImageRow) -> Inspection | None:
        """What is known of the image that a row without bytes names."""
        if row.image or not row.sha256:
            return None
        sha256 = validation.sha256(row.sha256)
        query = (
            select(Blob)
            .join(Item, Item.sha256 == Blob.sha256)
            .join(Dataset, Dataset.id == Item.dataset_id)
            .where(Dataset.name == row.dataset, Blob.sha256 == sha256, Blob.state == BLOB_STORED)
        )
        with self._database.read() as session:
            blob = session.scalar(query)
        if blob is None:
            raise InvalidInputError(
                f'dataset "{row.dataset}" has no image {sha256}; send its bytes', field="sha256"
            )
        return Inspection(
            pixel_sha256=blob.pixel_sha256,
            media_type=blob.media_type,
            width=blob.width,
            height=blob.height,
            quality=None,
            fingerprint=None,
        )

    def _store_run(self, dataset_name: str, rows: list[Prepared]) -> Stored:
        answers = [row.answer for row in rows if row.answer is not None]
        if len(answers) == len(rows):
            return Stored(dataset_name, rows, receipts=answers)
        wanted = {row.sha256: row for row in rows if row.inspection is not None}
        try:
            with self._database.read() as session:
                datasets.find(session, validation.dataset_name(dataset_name))
                new = _not_stored(session, wanted)
        except (NotFoundError, InvalidInputError) as refusal:
            receipts = [refused(row.row, row.refusal or refusal) for row in rows]
            return Stored(dataset_name, rows, receipts=receipts)
        with _store_reachable():
            self._store_all(blob_key, new, "ingest.blob_stored")
        return Stored(dataset_name, rows, new)

    def _write_run(self, stored: Stored) -> Sequence[Receipt]:
        if stored.receipts is not None:
            return stored.receipts
        with self._database.write() as session:
            dataset = datasets.find(session, stored.dataset, lock=True)
            self._put_aside(session, stored.rows)
            neighbourhood = self._neighbours.of(session, dataset)
            _note_blobs(session, stored.new)
            effects = Effects(session, dataset, neighbourhood, stored.rows)
            receipts = effects.write()
            failpoint("ingest.effects")
        failpoint("ingest.committed")
        self._answered.note(row.row for row in stored.rows)
        effects.measure()
        return receipts

    def _put_aside(self, session: Session, rows: Sequence[Prepared]) -> None:
        """Bytes for the quarantine, which nobody deletes until they have their rows."""
        aside = {row.sha256: row for row in rows if row.quarantine and row.answer is None}
        if aside:
            quarantine.hold(session, aside)
            with _store_reachable():
                self._store_all(quarantine.quarantine_key, aside, "ingest.quarantined")

    def _store_all(
        self, key_of: Callable[[str], str], images: Mapping[str, Prepared], passed: str
    ) -> None:
        """All at once; a thread is given several, or handing over would cost as much as putting."""
        objects = [(key_of(sha256), row.row.image) for sha256, row in images.items()]
        shares = [objects[first::_STORE_THREADS] for first in range(_STORE_THREADS)]
        for stored in self._pool.map(self._put_all, [share for share in shares if share]):
            for _ in range(stored):
                failpoint(passed)

    def _put_all(self, objects: Sequence[tuple[str, bytes]]) -> int:
        for key, image in objects:
            self._put(key, image)
        return len(objects)

    def _put(self, key: str, image: bytes) -> None:
        try:
            self._store.put_if_absent(key, image)
        except ConflictError:
            # The key is the content's digest, so what is there is what we would write, unless the
            # store lost some of it. A receipt promises the image, so look.
            if self._store.get(key).data != image:
                _log.error("an image in the store was damaged; written anew", extra={"key": key})
                self._store.put(key, image)


@contextmanager
def _store_reachable() -> Iterator[None]:
    """A store that fails is our trouble, not the caller's, who may only send the rows again.

    What the store says stays in the log: it names folders, buckets and users.
    """
    try:
        yield
    except VisionloopError as error:
        _log.error("the object store failed", extra={"error": str(error)})
        raise UnavailableError(
            "the object store does not take images right now (the service's log says why); send "
            "the rows without a receipt again"
        ) from error


def _with(unseen: Prepared, inspected: Inspected) -> Prepared:
    """A checked row with what its image is, or why it is refused."""
    if isinstance(inspected, Inspection):
        return replace(unseen, inspection=inspected)
    return replace(unseen, refusal=inspected, quarantine=inspected.reason in _QUARANTINED)


def _measure(way: Way, receipt: Receipt) -> None:
    metrics.INGEST_IMAGES.labels(way, "replayed" if receipt.replayed else receipt.outcome).inc()
    if receipt.outcome is Outcome.REJECTED:
        metrics.INGEST_REJECTED.labels(receipt.reason).inc()
    elif receipt.outcome is Outcome.QUARANTINED:
        metrics.INGEST_QUARANTINED.labels(receipt.reason).inc()


def _check(row: ImageRow) -> ImageRow:
    return replace(
        row,
        dataset=validation.dataset_name(row.dataset),
        batch=validation.text(row.batch, "batch"),
        ordinal=validation.ordinal(row.ordinal),
        label=None if row.label is None else validation.text(row.label, "label"),
        annotation=None if row.annotation is None else row.checked_annotation(),
        group=validation.text(row.group, "group", required=False),
        attributes=validation.attributes(row.attributes),
        author_kind=labels.author_kind_named(row.author_kind),
        author=validation.text(row.author, "author", required=False),
        source=validation.text(row.source, "source", limit=validation.MAX_SOURCE, required=False),
    )


def _not_stored(session: Session, wanted: Mapping[str, Prepared]) -> dict[str, Prepared]:
    stored = set(
        session.scalars(
            select(Blob.sha256).where(Blob.sha256.in_(wanted), Blob.state == BLOB_STORED)
        )
    )
    return {sha256: row for sha256, row in wanted.items() if row.row.image and sha256 not in stored}


def _note_blobs(session: Session, new: Mapping[str, Prepared]) -> None:
    """The objects of these images are there now."""
    if not new:
        return
    # In one order for all writers, or two of them could wait for each other.
    order = sorted(new)
    noted = [_blob(sha256, new[sha256]) for sha256 in order]
    insert_missing(session, Blob, noted)
    lost = (Blob.sha256.in_(order), Blob.state != BLOB_STORED)
    session.execute(update(Blob).where(*lost).values(state=BLOB_STORED))


def _blob(sha256: str, prepared: Prepared) -> dict[str, object]:
    inspection = prepared.inspection
    if inspection is None or inspection.quality is None:
        raise ValueError("only an image that was looked at is a blob")
    prints = inspection.fingerprint
    return {
        "sha256": sha256,
        "state": BLOB_STORED,
        "size": len(prepared.row.image),
        "media_type": inspection.media_type,
        "width": inspection.width,
        "height": inspection.height,
        "pixel_sha256": inspection.pixel_sha256,
        "phash": b"" if prints is None else pack_hash(prints.hashes[0]),
        "thumbnail": b"" if prints is None else prints.thumbnail.tobytes(),
        "quality": inspection.quality.stored(),
        "created": datetime.now(UTC),
    }

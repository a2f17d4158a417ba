"""Images put aside: they look like images, and decoding them failed, crashed or took too long.

Their bytes are kept at `quarantine/sha256/ab/cd/<hex>`, apart from the images that are served and
trained on, with what came with them. A person looks why (a broken camera, a truncated upload, an
attack), and throws them away or has them looked at again: after an update of the decoder, or with
higher limits. The same image that comes in whole some other way, or is accepted later, leaves the
quarantine by itself.

Several datasets may have the same bytes here, and unlike images these are deleted. So they are put
and deleted within the transaction of the row that names them, by one writer at a time (`hold`): a
row whose bytes somebody else deletes at that moment could never be looked at again.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from visionloop.errors import CorruptError, NotFoundError
from visionloop.objectstore import ObjectStore
from visionloop_labeling import datasets, validation
from visionloop_labeling.annotation import Draft
from visionloop_labeling.database import Database
from visionloop_labeling.receipts import ImageRow, Prepared, Way
from visionloop_labeling.schema import Dataset, Quarantined

FOLDER: Final = "quarantine/"
_KEPT_MESSAGE: Final = 1000  # characters
_LOCKS: Final = 0x71_75_61_72  # "quar": Postgres' advisory locks on bytes in quarantine


@dataclass(frozen=True, slots=True)
class PutAside:
    """An image in quarantine, as people see it."""

    sha256: str
    size: int  # bytes
    reason: str
    message: str
    source: str
    author: str
    at: datetime
    row: dict[str, Any]


def quarantine_key(sha256: str) -> str:
    """Where the bytes of an image in quarantine are stored."""
    return f"{FOLDER}sha256/{sha256[:2]}/{sha256[2:4]}/{sha256}"


def hold(session: Session, sha256s: Iterable[str]) -> None:
    """Until the transaction ends nobody else puts these bytes aside or deletes them, in whichever
    dataset. The dataset is locked."""
    if session.get_bind().dialect.name != "postgresql":
        return  # there is one writer
    # In one order for all writers, or two of them could wait for each other. 28 bits: 0x80000000 is
    # an int4 of Postgres, and SQLAlchemy takes it for more than one.
    for key in sorted({int(one[:7], 16) for one in sha256s}):
        session.execute(select(func.pg_advisory_xact_lock(_LOCKS, key)))


def keep(session: Session, dataset: Dataset, prepared: Prepared) -> None:
    """Notes an image whose bytes were put aside. The dataset is locked."""
    found = _find(session, dataset, prepared.sha256)
    if found is None:
        found = Quarantined(dataset_id=dataset.id, sha256=prepared.sha256)
        session.add(found)
    why, row = prepared.refusal, prepared.row
    found.size = len(row.image)
    found.reason = "" if why is None else why.reason
    found.message = str(why)[:_KEPT_MESSAGE]
    found.row = {
        "label": row.label,
        "annotation": None if row.annotation is None else row.annotation.stored(),
        "group": row.group,
        "attributes": dict(row.attributes),
        "author_kind": str(row.author_kind),
    }
    found.source = row.source
    found.author = row.author
    found.at = datetime.now(UTC)
    session.flush()


def release(session: Session, dataset: Dataset, sha256s: list[str]) -> None:
    """Images of the dataset are no longer in quarantine. The dataset is locked."""
    session.execute(
        delete(Quarantined).where(
            Quarantined.dataset_id == dataset.id, Quarantined.sha256.in_(sha256s)
        )
    )


def page(
    session: Session, dataset_name: str, *, after: str = "", limit: int = 100
) -> list[PutAside]:
    """Images in quarantine by digest, those behind `after`. Raises NotFoundError."""
    dataset = datasets.find(session, validation.dataset_name(dataset_name))
    query = (
        select(Quarantined)
        .where(Quarantined.dataset_id == dataset.id, Quarantined.sha256 > after)
        .order_by(Quarantined.sha256)
        .limit(limit)
    )
    return [_shown(found) for found in session.scalars(query)]


def remove(database: Database, store: ObjectStore, dataset_name: str, sha256: str) -> None:
    """Throws an image away; its bytes as well, unless another dataset has it in quarantine.

    Raises NotFoundError, and what the store raises: then it is still there.
    """
    digest = validation.sha256(sha256)
    with database.write() as session:
        dataset = datasets.find(session, validation.dataset_name(dataset_name), lock=True)
        session.delete(_found(session, dataset, digest))
        session.flush()
        hold(session, [digest])
        others = session.scalar(select(Quarantined.id).where(Quarantined.sha256 == digest).limit(1))
        if others is None:
            store.delete(quarantine_key(digest))


def row_of(database: Database, store: ObjectStore, dataset_name: str, sha256: str) -> ImageRow:
    """The image as a row that may be submitted again. Raises NotFoundError, CorruptError."""
    digest = validation.sha256(sha256)
    with database.read() as session:
        dataset = datasets.find(session, validation.dataset_name(dataset_name))
        kept = _shown(_found(session, dataset, digest))
    try:
        image = store.get(quarantine_key(digest)).data
    except NotFoundError as error:
        raise CorruptError(
            f"the store has lost the bytes of {digest}; throw it away and send the image again"
        ) from error
    return ImageRow(
        dataset=dataset_name,
        batch=f"quarantine:{digest}",
        ordinal=0,
        image=image,
        label=kept.row["label"],
        annotation=_draft(kept.row),
        group=kept.row["group"],
        attributes=kept.row["attributes"],
        author_kind=kept.row["author_kind"],
        author=kept.author,
        source=kept.source,
        way=Way.HTTP,  # somebody asks for it there
    )


def _draft(row: dict[str, Any]) -> Draft | None:
    stored = row.get("annotation")
    return None if stored is None else Draft.model_validate(stored)


def _find(session: Session, dataset: Dataset, sha256: str) -> Quarantined | None:
    query = select(Quarantined).where(
        Quarantined.dataset_id == dataset.id, Quarantined.sha256 == sha256
    )
    return session.scalar(query)


def _found(session: Session, dataset: Dataset, sha256: str) -> Quarantined:
    found = _find(session, dataset, sha256)
    if found is None:
        raise NotFoundError(f'dataset "{dataset.name}" has no image {sha256} in quarantine')
    return found


def _shown(found: Quarantined) -> PutAside:
    return PutAside(
        sha256=found.sha256,
        size=found.size,
        reason=found.reason,
        message=found.message,
        source=found.source,
        author=found.author,
        at=found.at,
        row=found.row,
    )

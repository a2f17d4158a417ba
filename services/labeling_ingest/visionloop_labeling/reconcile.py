"""Putting right what a crash left between "intent" and "effects" (see `ingest`).

A blob still pending has no item, no label and no receipt: its sender was told nothing and sends it
again. So the object is removed (unless it was in the store before our intent) and then the intent.
With SQLite no other process can be at work, so everything pending is a leftover; with Postgres only
what is older than `GRACE` is, and the row stays locked while its object goes, so that a sender who
comes back at that very moment waits and starts over.
"""

import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from visionloop.objectstore import ObjectStore
from visionloop.snapshot import blob_key
from visionloop_labeling.database import Database
from visionloop_labeling.schema import BLOB_PENDING, Blob

GRACE: Final = timedelta(minutes=15)
_PAGE: Final = 64
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Repairs:
    """What was found and put right."""

    intents: int = 0
    objects: int = 0


def reconcile(database: Database, store: ObjectStore) -> Repairs:
    """Removes leftovers; safe to run at any time and to be killed in."""
    done = Repairs()
    while True:
        with database.write() as session:
            page = _leftovers(session, database)
            objects = sum(not blob.foreign for blob in page)
            for blob in page:
                if not blob.foreign:
                    store.delete(blob_key(blob.sha256))
                session.delete(blob)
        done = Repairs(done.intents + len(page), done.objects + objects)
        if len(page) < _PAGE:
            break
    if done.intents:
        _log.warning(
            "removed what an interrupted ingest left; its senders have no receipt and send again",
            extra={"intents": done.intents},
        )
    return done


def _leftovers(session: Session, database: Database) -> list[Blob]:
    query = select(Blob).where(Blob.state == BLOB_PENDING).limit(_PAGE)
    if not database.single_process:
        query = query.where(Blob.created < datetime.now(UTC) - GRACE)
        query = query.with_for_update(skip_locked=True)
    return list(session.scalars(query))

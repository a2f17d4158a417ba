"""A prefix of an S3 bucket, taken in without copying by hand, and again whenever somebody asks.

The ledger (`source_object`) has a row for each object and version (etag) that was ever seen. A job
first notes what the listing shows and the ledger has not, and those notes are its rows: the ids are
their ordinals, so a job that is killed goes on where it was whatever the bucket did meanwhile, and
two syncs of one prefix share the work instead of doubling it. The next sync lists again (one
request for a thousand objects) and fetches only what is new or changed.

Only prefixes that the operator named at start can be asked for; the service's own credentials read
them.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import Final

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from visionloop.errors import (
    ConfigurationError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
    VisionloopError,
)
from visionloop.images import Limits
from visionloop.objectstore import ObjectStat, ObjectStore, open_store
from visionloop_labeling.database import Database, insert_missing
from visionloop_labeling.import_jobs import JobState
from visionloop_labeling.importers import names
from visionloop_labeling.importers.entries import Entry, SourceError, Step
from visionloop_labeling.importers.parameters import S3Parameters
from visionloop_labeling.receipts import Outcome, Receipt
from visionloop_labeling.schema import ImportJob, SourceObject

_PAGE: Final = 500
_FORBIDDEN: Final = (ConfigurationError, PermissionDeniedError, UnauthenticatedError)
_log = logging.getLogger(__name__)
_MAX_KEY: Final = 1024  # characters that the ledger keeps


class S3Importer:
    """The new objects of a prefix, in the order in which they were noted."""

    def __init__(
        self,
        parameters: S3Parameters,
        *,
        allowed: Sequence[str],
        database: Database,
        dataset_id: int,
        job_id: int,
        limits: Limits,
        keep_going: Callable[[], None] = lambda: None,
    ) -> None:
        """`allowed` are URLs of prefixes; `keep_going` raises when the listing should end."""
        url, self._store = _opened(parameters.url, allowed)
        self._bucket, _, folder = url.removeprefix("s3://").partition("/")
        self._folder = f"{folder}/" if folder else ""
        self._parameters = parameters
        self._database = database
        self._dataset_id = dataset_id
        self._job_id = job_id
        self._limits = limits
        self._passed_over = self._note(keep_going)
        self.rows = self._count()

    @property
    def remark(self) -> str:
        if not self._passed_over:
            return ""
        return f"{self._passed_over} objects that are no images by their names were passed over"

    def steps(self, start: int) -> Iterator[Step]:  # noqa: ARG002 - as all importers have it
        """What waits, wherever the checkpoint is: the ledger knows better."""
        after = -1
        while page := self._waiting(after):
            for noted in page:
                yield noted.id, self._source(noted), partial(self._entry, noted)
            after = page[-1].id

    def settle(self, session: Session, receipts: Sequence[Receipt]) -> None:
        """Notes in the ledger what became of its objects."""
        for receipt in receipts:
            session.execute(
                update(SourceObject)
                .where(SourceObject.id == receipt.ordinal)
                .values(outcome=receipt.outcome, sha256=receipt.sha256, at=datetime.now(UTC))
            )

    def close(self) -> None:
        """Nothing is held."""

    def _entry(self, noted: SourceObject) -> Entry:
        source = self._source(noted)
        key = noted.key.removeprefix(self._folder)
        data, etag = _fetched(self._store, key, self._limits)
        if etag != noted.etag:
            raise SourceError(
                f"{names.shown(noted.key)} changed while it was being synchronised; the next sync "
                "takes it as it is now",
                reason="changed",
            )
        folder, slash, _ = key.partition("/")
        return Entry(source, data, label=folder if slash and self._parameters.classes else None)

    def _source(self, noted: SourceObject) -> str:
        return f"s3://{self._bucket}/{noted.key}"

    def _note(self, keep_going: Callable[[], None]) -> int:
        """Lists the prefix into the ledger; how many objects are no images."""
        listing, passed_over = self._store.list(""), 0
        while page := _page(listing):
            keep_going()
            images = [one for one in page if _is_taken(one)]
            passed_over += len(page) - len(images)
            if images:
                with self._database.write() as session:
                    insert_missing(session, SourceObject, [self._row(one) for one in images])
        self._adopt()
        return passed_over

    def _row(self, listed: ObjectStat) -> dict[str, object]:
        return {
            "dataset_id": self._dataset_id,
            "source": f"s3://{self._bucket}",
            "key": self._folder + listed.key,
            "etag": listed.etag,
            "job_id": self._job_id,
            "outcome": "",
            "sha256": "",
            "at": datetime.now(UTC),
        }

    def _adopt(self) -> None:
        """What earlier jobs left (they failed, or were cancelled) becomes this one's, and what they
        refused, too, when that is asked for."""
        outcomes = [
            "",
            *((Outcome.REJECTED, Outcome.QUARANTINED) if self._parameters.retry_refused else ()),
        ]
        ended = select(ImportJob.id).where(
            ImportJob.dataset_id == self._dataset_id,
            ImportJob.state.in_((JobState.DONE, JobState.FAILED, JobState.CANCELLED)),
        )
        with self._database.write() as session:
            session.execute(
                update(SourceObject)
                .where(
                    SourceObject.dataset_id == self._dataset_id,
                    SourceObject.source == f"s3://{self._bucket}",
                    SourceObject.key.startswith(self._folder, autoescape=True),
                    SourceObject.outcome.in_(outcomes),
                    SourceObject.job_id.in_(ended),
                )
                .values(job_id=self._job_id, outcome="")
                .execution_options(synchronize_session=False)
            )

    def _count(self) -> int:
        query = select(func.count()).where(SourceObject.job_id == self._job_id)
        with self._database.read() as session:
            return session.scalar(query) or 0

    def _waiting(self, after: int) -> list[SourceObject]:
        query = (
            select(SourceObject)
            .where(
                SourceObject.job_id == self._job_id,
                SourceObject.outcome == "",
                SourceObject.id > after,
            )
            .order_by(SourceObject.id)
            .limit(_PAGE)
        )
        with self._database.read() as session:
            return list(session.scalars(query))


def _page(listing: Iterator[ObjectStat]) -> list[ObjectStat]:
    try:
        return list(islice(listing, _PAGE))
    except (NotFoundError, *_FORBIDDEN) as error:
        raise _unreadable(error) from error


def _unreadable(error: VisionloopError) -> SourceError:
    # What the bucket says stays in the log: it names endpoints and keys.
    _log.error("a bucket cannot be read", extra={"error": str(error)})
    return SourceError(
        "the bucket is not there, or this service's credentials may not read it (its log says "
        "which); ask the operator",
        reason="unreadable_bucket",
        field="parameters.url",
    )


def _fetched(store: ObjectStore, key: str, limits: Limits) -> tuple[bytes, str]:
    """An object's bytes and etag. Raises SourceError; UnavailableError passes."""
    try:
        size = store.stat(key).size
        if size > limits.max_bytes:
            raise SourceError(
                f"{names.shown(key)} has {size:,} bytes; the limit is {limits.max_bytes:,}",
                reason="too_many_bytes",
            )
        found = store.get(key)
    except NotFoundError:
        raise SourceError(
            f"{names.shown(key)} is not in the bucket any more", reason="no_such_image"
        ) from None
    except _FORBIDDEN as error:
        raise _unreadable(error) from error
    return found.data, found.etag


def _is_taken(listed: ObjectStat) -> bool:
    return names.is_image(listed.key) and len(listed.key) <= _MAX_KEY


def _opened(url: str, allowed: Sequence[str]) -> tuple[str, ObjectStore]:
    """A prefix that lies in an allowed one: its URL and its store."""
    wanted = url.rstrip("/")
    for prefix in allowed if wanted.startswith("s3://") else ():
        plain = prefix.rstrip("/")
        if wanted == plain or wanted.startswith(f"{plain}/"):
            try:
                return wanted, open_store(wanted)
            except VisionloopError as error:
                raise SourceError(str(error), reason="bad_url", field="parameters.url") from None
    raise SourceError(
        f"{names.shown(url)} may not be imported from; an operator allows prefixes at the "
        "service's start (--import-from s3://bucket/prefix)",
        reason="forbidden_prefix",
        field="parameters.url",
    )

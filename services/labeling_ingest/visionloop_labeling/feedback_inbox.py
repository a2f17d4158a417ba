"""Draining the feedback that inference left in the store: what apps say of predictions.

A feedback names its prediction, the prediction its model version, the version's bundle the dataset
it was trained on: that is where it goes. "It shows a crack" (or several things, or none of the
classes) becomes an app's label, which people's labels outrank; "wrong" flags the image for review.
An image that the dataset does not have is taken in on the way, through the same door as all others.

Each feedback takes effect once: its UUID is the event's, its object is deleted only after the
commit, so a crash anywhere is repaired by doing it again. It counts as of the time when it was
said, for the inbox has no order and some wait for long (`fold`). What cannot take effect (an
unknown model, class or image) is moved to inbox/refused/ beside an object that says why, and never
holds up the rest; `retry` takes it again once the cause is gone (`refused_feedback`). An image that
is named but not there yet is waited for.
"""

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from visionloop.bundle import ClassifierBundle, MultiLabelBundle
from visionloop.errors import (
    CorruptError,
    DeadlineExceededError,
    InvalidInputError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    RefusedError,
    UnauthenticatedError,
    UnavailableError,
    VisionloopError,
)
from visionloop.failpoints import failpoint
from visionloop.feedback import FOLDER, Feedback, feedback_key, parse_feedback
from visionloop.objectstore import ObjectStore
from visionloop.repository import ModelRepository
from visionloop.snapshot import blob_key
from visionloop.telemetry import labeling as metrics
from visionloop_labeling import datasets, feedback_classes, labels, refused_feedback, validation
from visionloop_labeling.annotation import Annotation
from visionloop_labeling.database import Database
from visionloop_labeling.ingest import Ingest
from visionloop_labeling.labels import (
    AuthorKind,
    EventKind,
    LabelLog,
    Statement,
)
from visionloop_labeling.receipts import ImageRow, Outcome, Way
from visionloop_labeling.schema import BLOB_STORED, Blob, Item, LabelEvent

GROUP: Final = 64  # objects in a turn
# How long an image may take to arrive after the feedback that names it.
PATIENCE: Final = timedelta(hours=1)
RETAKE_SECONDS: Final = 20.0  # of one call; somebody waits for it
_AGAIN_SECONDS: Final = 60.0
_AFTER_FAULT_SECONDS: Final = 600.0
_AS_SAID: Final[Mapping[str, str]] = MappingProxyType({})  # every class is called as the app did
# The store, the database or our rights in them: not the feedback's fault.
_OURS: Final = (
    UnavailableError,
    OverloadedError,
    DeadlineExceededError,
    PermissionDeniedError,
    UnauthenticatedError,
)
_log = logging.getLogger(__name__)


class FeedbackInbox:
    """The inbox of one store. One thread drains it, as other replicas may; any may retry."""

    def __init__(self, database: Database, store: ObjectStore, ingest: Ingest) -> None:
        self._database = database
        self._store = store
        self._ingest = ingest
        self._models = ModelRepository(store)
        self._origin_of = lru_cache(maxsize=1024)(self._find_origin)
        self._later: dict[str, float] = {}  # keys that wait, until when on the monotonic clock

    def drain(self) -> bool:
        """Takes up to GROUP feedbacks out of the inbox; whether more may wait.

        Raises what the store or the database raises when it is away; nothing is lost by that.
        """
        for taken, key in enumerate(self._waiting(), start=1):
            metrics.FEEDBACK_DRAINED.labels(self._take(key)).inc()
            if taken == GROUP:
                return True
        return False

    def retry(self, name: str, meant: Mapping[str, str] = _AS_SAID) -> str:
        """Takes a feedback again that was put aside; what became of it: labelled, outdated,
        reported or repeated.

        `meant` says by which id or name the dataset has what the app called otherwise. Raises
        NotFoundError, and RefusedError where it still cannot take effect: it stays then.
        """
        key = FOLDER + name
        data = refused_feedback.content(self._store, name)
        try:
            outcome = self._effect(key, parse_feedback(data, key), meant)
        except _OURS:
            raise
        except VisionloopError as error:
            raise RefusedError(f"it cannot be used yet: {error}") from error
        refused_feedback.remove(self._store, name)
        metrics.FEEDBACK_DRAINED.labels(outcome).inc()
        extra = {"key": key, "outcome": outcome, "meant": dict(meant)}
        _log.info("a feedback was taken again", extra=extra)
        return outcome

    def retry_all(self, after: str = "") -> "Retaken":
        """Takes what was put aside again, in the order of names behind `after`, one at least, and
        for RETAKE_SECONDS.

        Raises what the store or the database raises when it is away; what was taken is taken then.
        """
        began = time.monotonic()
        taken = left = 0
        for name in sorted(name for name in refused_feedback.names(self._store) if name > after):
            try:
                self.retry(name)
                taken += 1
            except NotFoundError:
                pass  # another replica's, just now
            except RefusedError:
                left += 1
            except _OURS:
                raise
            except Exception:  # noqa: BLE001 - logged with its trace
                # A fault of ours must not keep back those behind it.
                _log.exception("a feedback could not be taken again", extra={"key": FOLDER + name})
                left += 1
            if time.monotonic() - began >= RETAKE_SECONDS:
                return Retaken(taken, left, next=name)
        return Retaken(taken, left, next="")

    def _waiting(self) -> Iterator[str]:
        listed: set[str] = set()
        for stat in self._store.list(FOLDER):
            listed.add(stat.key)
            if self._later.get(stat.key, 0.0) <= time.monotonic():
                yield stat.key
        self._later = {key: until for key, until in self._later.items() if key in listed}

    def _take(self, key: str) -> str:
        """What became of one feedback."""
        try:
            data = self._store.get(key).data
        except NotFoundError:
            return "repeated"  # another replica has just taken it
        feedback: Feedback | None = None
        try:
            feedback = parse_feedback(data, key)
            outcome = self._effect(key, feedback)
            if outcome != "repeated":
                waited = datetime.now(UTC) - feedback.header.received
                metrics.FEEDBACK_LAG.observe(waited.total_seconds())
            return outcome
        except _ImageNotThereError:
            self._later[key] = time.monotonic() + _AGAIN_SECONDS
            return "deferred"
        except _OURS:
            raise
        except VisionloopError as error:
            self._put_aside(key, data, error, feedback)
            self._store.delete(key)
            return "refused"
        except Exception:  # noqa: BLE001 - logged with its trace
            # A fault of ours must not keep back those behind it, nor lose this one.
            _log.exception(
                "a feedback could not be taken; it stays in the inbox", extra={"key": key}
            )
            self._later[key] = time.monotonic() + _AFTER_FAULT_SECONDS
            return "deferred"

    def _effect(self, key: str, feedback: Feedback, meant: Mapping[str, str] = _AS_SAID) -> str:
        header, prediction = feedback.header, feedback.prediction
        if key != feedback_key(header.id):
            raise CorruptError(f"{key} is the feedback {header.id}; somebody renamed it")
        if not header.image.sha256.startswith(prediction.digest):
            raise _RefusalError("other_image", "its image is not the one that was predicted")
        dataset, several = self._origin_of(prediction.model, prediction.version)
        _check_verdict(feedback, several)
        self._take_in(dataset, feedback)
        failpoint("feedback.taken_in")
        outcome = self._record(dataset, feedback, meant)
        failpoint("feedback.recorded")
        self._store.delete(key)
        failpoint("feedback.deleted")
        return outcome

    def _find_origin(self, model: str, version: int) -> tuple[str, bool]:
        """The dataset that a model version was trained on, and whether it tells an image any number
        of classes; bundles never change."""
        try:
            bundle = self._models.read(model, version)
        except NotFoundError as error:
            raise _RefusalError("unknown_model", str(error)) from error
        if not isinstance(bundle, ClassifierBundle):
            raise _RefusalError(
                "no_dataset", f"{model}:{version} was not trained on a dataset of this service"
            )
        return bundle.provenance.dataset, isinstance(bundle, MultiLabelBundle)

    def _take_in(self, dataset_name: str, feedback: Feedback) -> None:
        """Makes the image one of the dataset, unless it is already."""
        sha256 = feedback.header.image.sha256
        with self._database.read() as session:
            try:
                dataset = datasets.find(session, validation.dataset_name(dataset_name))
            except (NotFoundError, InvalidInputError) as error:
                raise _RefusalError("unknown_dataset", str(error)) from error
            mine = (Item.dataset_id == dataset.id, Item.sha256 == sha256)
            known = session.scalar(select(Item.id).where(*mine))
            blob = session.get(Blob, sha256)
            stored = blob is not None and blob.state == BLOB_STORED
        if known is not None:
            return
        image = feedback.image
        if image is None and stored:
            image = self._store.get(blob_key(sha256)).data
        if image is None:
            raise _absent(feedback)
        row = ImageRow(
            dataset=dataset_name,
            batch=f"feedback-{feedback.header.id}",
            ordinal=0,
            image=image,
            author_kind=AuthorKind.APP,
            author=_author(feedback),
            source=f"feedback on {feedback.header.prediction_id}",
            way=Way.FEEDBACK,
        )
        receipt = self._ingest.commit([self._ingest.prepare(row)])[0]
        if receipt.outcome not in (Outcome.ACCEPTED, Outcome.DUPLICATE):
            raise _RefusalError(receipt.reason, receipt.message)

    def _record(self, dataset_name: str, feedback: Feedback, meant: Mapping[str, str]) -> str:
        """What became of it: labelled, outdated, reported or repeated."""
        header = feedback.header
        with self._database.write() as session:
            dataset = datasets.find(session, dataset_name, lock=True)
            log = LabelLog(session, dataset)
            item = labels.find_item(session, dataset, header.image.sha256)
            shown = header.shown
            if shown is not None:
                try:
                    ids = [_class_id(log, dataset_name, meant.get(said, said)) for said in shown]
                except _RefusalError:
                    if _was_taken(session, item, feedback):
                        return "repeated"
                    raise
                shown = tuple(dict.fromkeys(ids))
            recorded = log.record(item, _statement(feedback, shown))
        log.measure()
        if recorded.replayed:
            return "repeated"
        if recorded.outdated:
            return "outdated"
        return "reported" if shown is None else "labelled"

    def _put_aside(
        self, key: str, data: bytes, error: VisionloopError, feedback: Feedback | None
    ) -> None:
        """Keeps it where people look for it; the original stays until that is done."""
        dataset = "" if feedback is None else self._dataset_of(feedback)
        aside = refused_feedback.put_aside(
            self._store, key, data, error, feedback=feedback, dataset=dataset
        )
        failpoint("feedback.refused")
        metrics.FEEDBACK_REFUSED.labels(error.reason).inc()
        extra = {"key": aside, "reason": error.reason, "dataset": dataset}
        _log.warning("a feedback was put aside: %s", error, extra=extra)

    def _dataset_of(self, feedback: Feedback) -> str:
        """ "" where its model says none."""
        prediction = feedback.prediction
        try:
            return self._origin_of(prediction.model, prediction.version)[0]
        except VisionloopError:
            return ""


@dataclass(frozen=True, slots=True)
class Retaken:
    """What became of feedback that was taken again: how many took effect, how many cannot yet, and
    behind which name nobody has looked yet, "" where all were looked at."""

    taken: int
    left: int
    next: str


class _RefusalError(VisionloopError):
    """A feedback that cannot take effect, whatever is tried."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self._reason = reason

    @property
    def reason(self) -> str:
        return self._reason


class _ImageNotThereError(VisionloopError):
    """The image that a feedback names may still arrive."""


def _check_verdict(feedback: Feedback, several: bool) -> None:
    """What inference could not check, if it no longer had the version."""
    header, prediction = feedback.header, feedback.prediction
    if several and header.verdict == "class":
        raise _RefusalError(
            "one_class",
            f"images of model {prediction.model!r} may have several classes: {header.class_id!r} "
            "alone would deny the others",
        )
    if not several and header.verdict == "classes":
        raise _RefusalError(
            "several_classes", f"model {prediction.model!r} gives an image one class"
        )


def _absent(feedback: Feedback) -> VisionloopError:
    if datetime.now(UTC) - feedback.header.received < PATIENCE:
        return _ImageNotThereError("the image is not there yet")
    return _RefusalError(
        "unknown_image",
        f"labeling-ingest has no image {feedback.header.image.sha256}; send the image itself with "
        "the feedback, or to the dataset first",
    )


def _author(feedback: Feedback) -> str:
    return feedback.header.caller or "app"


def _class_id(log: LabelLog, dataset_name: str, said: str) -> str:
    found = feedback_classes.find(log.classes, said)
    if found is None:
        raise _RefusalError(
            "unknown_class",
            f'dataset "{dataset_name}" has no class {said!r}, by id or by name; add it or say '
            "which one is meant, and take this feedback again, or throw it away",
        )
    return found.key


def _was_taken(session: Session, item: Item, feedback: Feedback) -> bool:
    """Whether its app sends again what was taken for a class that only a person could name."""
    header = feedback.header
    event = session.scalar(select(LabelEvent).where(LabelEvent.event_id == header.id))
    if event is None:
        return False
    told = (event.item_id, event.kind, event.author_kind, event.author, event.note)
    return told == (item.id, EventKind.LABEL, AuthorKind.APP, _author(feedback), header.note)


def _statement(feedback: Feedback, shown: tuple[str, ...] | None) -> Statement:
    """`shown`: the ids of the classes that it says the image shows."""
    header, prediction = feedback.header, feedback.prediction
    said = None if shown is None else Annotation(classes=shown)
    return Statement(
        author_kind=AuthorKind.APP,
        author=_author(feedback),
        kind=EventKind.FLAG if said is None else EventKind.LABEL,
        annotation=said,
        event_id=header.id,
        note=header.note,
        suggested_by=f"{prediction.model}:{prediction.version}",
        said_at=min(header.received, datetime.now(UTC)),
    )

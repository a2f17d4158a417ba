"""What one feedback brings about: a label of its app, or a flag, on an image of the right dataset.

A feedback names its prediction, the prediction its model version, the version's bundle the dataset
it was trained on: that is where it goes. "It shows a crack" (or several things, or none of the
classes) becomes an app's label, which people's labels outrank; "wrong" flags the image for review.
An image that the dataset does not have is taken in on the way, through the same door as all others.

It takes effect once: its UUID is the event's. It counts as of the time when it was said, for the
inbox has no order and some wait for long (`fold`).
"""

from collections.abc import Mapping
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
    UnauthenticatedError,
    UnavailableError,
    VisionloopError,
)
from visionloop.failpoints import failpoint
from visionloop.feedback import Feedback, feedback_key
from visionloop.objectstore import ObjectStore
from visionloop.repository import ModelRepository
from visionloop.snapshot import blob_key
from visionloop_labeling import datasets, feedback_classes, labels, validation
from visionloop_labeling.annotation import Annotation
from visionloop_labeling.database import Database
from visionloop_labeling.fold import CLOCKS_APART
from visionloop_labeling.ingest import Ingest
from visionloop_labeling.labels import AuthorKind, EventKind, LabelLog, Statement
from visionloop_labeling.receipts import ImageRow, Outcome, Way
from visionloop_labeling.schema import BLOB_STORED, Blob, Item, LabelEvent

# How long an image may take to arrive after the feedback that names it.
PATIENCE: Final = timedelta(hours=1)
UNKNOWN_CLASS: Final = "unknown_class"  # why it cannot take effect: somebody may add the class
AS_SAID: Final[Mapping[str, str]] = MappingProxyType({})  # every class is called as the app did
# The store, the database or our rights in them: not the feedback's fault.
OURS: Final = (
    UnavailableError,
    OverloadedError,
    DeadlineExceededError,
    PermissionDeniedError,
    UnauthenticatedError,
)


class FeedbackEffect:
    """The effect of feedback that lies in one store. Safe to use from several threads."""

    def __init__(self, database: Database, store: ObjectStore, ingest: Ingest) -> None:
        self._database = database
        self._store = store
        self._ingest = ingest
        self._models = ModelRepository(store)
        self._origin_of = lru_cache(maxsize=1024)(self._find_origin)

    def of(self, key: str, feedback: Feedback, meant: Mapping[str, str] = AS_SAID) -> str:
        """Brings it about, once: labelled, outdated, reported or repeated.

        `key` is where it lay in the inbox; `meant` says by which id or name the dataset has what
        the app called otherwise. Raises ImageNotThereError where it is to be tried again, one of
        OURS, and any other VisionloopError for what cannot take effect.
        """
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
        return outcome

    def dataset_of(self, feedback: Feedback) -> str:
        """Where it belongs; "" where its model does not say."""
        prediction = feedback.prediction
        try:
            return self._origin_of(prediction.model, prediction.version)[0]
        except VisionloopError:
            return ""

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


class _RefusalError(VisionloopError):
    """A feedback that cannot take effect, whatever is tried."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self._reason = reason

    @property
    def reason(self) -> str:
        return self._reason


class ImageNotThereError(VisionloopError):
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
        return ImageNotThereError("the image is not there yet")
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
            UNKNOWN_CLASS,
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
        # A clock that is wrong by more shuts out nothing that is said once it is right again.
        said_at=min(header.received, datetime.now(UTC) + CLOCKS_APART),
    )

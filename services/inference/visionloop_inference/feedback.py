"""SubmitFeedback: checked here, stored in the inbox, acknowledged when it is durable.

The store is opened by the first feedback, in a thread, so that a service that never gets any pays
nothing for it. Only what can be checked without a look-up elsewhere is checked: that the prediction
id is one, that the image is the predicted one and readable, that the class exists when that version
is loaded. Whether the prediction was ever made is not known here; nothing of requests is kept.
"""

import asyncio
import hashlib
import logging
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from visionloop.bundle import Bundle, ClassifierBundle, MultiLabelBundle
from visionloop.errors import (
    ConflictError,
    CorruptError,
    InvalidInputError,
    OverloadedError,
    UnavailableError,
    VisionloopError,
)
from visionloop.feedback import (
    LONGEST_CLASS_ID,
    LONGEST_NOTE,
    MOST_CLASS_IDS,
    Feedback,
    FeedbackHeader,
    FeedbackImage,
    check_id,
    store_feedback,
)
from visionloop.images import DEFAULT_LIMITS, Limits, read_header
from visionloop.objectstore import ObjectStore, open_store
from visionloop.prediction_id import PredictionId
from visionloop.proto.v1 import recognition_pb2 as pb
from visionloop.telemetry import inference as metrics

log = logging.getLogger(__name__)

THREADS = 4
MOST_UNDER_WAY = 32
RETRY_SECONDS = 1.0
INBOX = "inbox"
SHOWN_CLASSES = 20

# The bundle of a model's version, or None where it is not loaded.
FindBundle = Callable[[str, int], Bundle | None]


class FeedbackInbox:
    """Use it from the event loop. `open` may be replaced by another way to a store."""

    def __init__(
        self,
        store_url: str,
        find_bundle: FindBundle,
        *,
        limits: Limits = DEFAULT_LIMITS,
        open_store: Callable[[str], ObjectStore] = open_store,
    ) -> None:
        self._url = store_url
        self._find_bundle = find_bundle
        self._limits = limits
        self._open = open_store
        self._store: ObjectStore | None = None
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="feedback")
        self._under_way = 0

    async def submit(
        self, request: pb.SubmitFeedbackRequest, caller: str
    ) -> pb.SubmitFeedbackResponse:
        """Stores one feedback.

        Raises InvalidInputError, ImageError, ConflictError (the id stands for other content),
        OverloadedError, and UnavailableError when the store is away.
        """
        if self._under_way >= MOST_UNDER_WAY:
            raise OverloadedError(
                f"{MOST_UNDER_WAY} feedbacks are being stored; send it again in a moment, under "
                "the same id",
                retry_after_seconds=RETRY_SECONDS,
            )
        prediction = self._check(request)
        self._under_way += 1
        try:
            created = await asyncio.get_running_loop().run_in_executor(
                self._pool, self._keep, request, prediction, caller
            )
        finally:
            self._under_way -= 1
        metrics.FEEDBACK.labels(outcome="stored" if created else "repeated").inc()
        return pb.SubmitFeedbackResponse(id=request.id, created=created)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _check(self, request: pb.SubmitFeedbackRequest) -> PredictionId:
        """What can be said of it without reading the image."""
        check_id(request.id)
        prediction = PredictionId.parse(request.prediction_id)
        if request.WhichOneof("verdict") is None or (
            request.HasField("wrong") and not request.wrong
        ):
            raise InvalidInputError(
                "class_id (what the image shows), classes (all of it, of a model of several) or "
                "wrong = true is needed",
                field="verdict",
            )
        if len(request.note) > LONGEST_NOTE:
            raise InvalidInputError(
                f"note has {len(request.note)} characters; the limit is {LONGEST_NOTE}",
                field="note",
            )
        if request.HasField("class_id"):
            self._check_classes([request.class_id], "class_id", prediction)
        if request.HasField("classes"):
            self._check_classes(request.classes.class_ids, "classes", prediction)
        if request.WhichOneof("picture") is None:
            raise InvalidInputError(
                "image or image_sha256 is needed: send the image itself unless labeling-ingest "
                "has it",
                field="image",
            )
        if request.HasField("image_sha256"):
            if not re.fullmatch("[0-9a-f]{64}", request.image_sha256):
                raise InvalidInputError(
                    f"image_sha256 is {request.image_sha256[:80]!r}; it must be 64 lower-case hex "
                    "digits",
                    field="image_sha256",
                )
            _check_digest(request.image_sha256, prediction, "image_sha256")
        return prediction

    def _check_classes(
        self, class_ids: Sequence[str], field: str, prediction: PredictionId
    ) -> None:
        _check_ids(class_ids, field)
        bundle = self._find_bundle(prediction.model, prediction.version)
        if bundle is None:
            return  # a version that is not loaded any more: whoever drains the inbox checks it
        several = isinstance(bundle, MultiLabelBundle)
        if several and field == "class_id":
            raise InvalidInputError(
                f"class_id is {class_ids[0]!r}, and images of model {prediction.model!r} may have "
                "several classes: one alone would deny the others. Give all that the image shows "
                "in `classes`, or say that the prediction is `wrong`",
                field=field,
            )
        if not several and field == "classes":
            raise InvalidInputError(
                f"model {prediction.model!r} gives an image one class; say which in `class_id`",
                field=field,
            )
        labels = bundle.labels if isinstance(bundle, ClassifierBundle) else []
        known = {label.id: label.name for label in labels}
        for class_id in class_ids:
            if class_id not in known:
                shown = ", ".join(
                    one if one == name else f"{one} ({name})"
                    for one, name in islice(known.items(), SHOWN_CLASSES)
                ) + (", …" if len(known) > SHOWN_CLASSES else "")
                raise InvalidInputError(
                    f"{field} {class_id!r} is no class of model {prediction.model!r} version "
                    f"{prediction.version}; there are: {shown or 'none'}",
                    field=field,
                )

    def _keep(
        self, request: pb.SubmitFeedbackRequest, prediction: PredictionId, caller: str
    ) -> bool:
        """In a thread: reads the image's header, writes the object. True when it is new."""
        feedback = _feedback(request, prediction, caller, self._limits)
        try:
            if self._store is None:
                store = self._open(self._url)
                store.probe(INBOX)
                self._store = store
            return store_feedback(self._store, feedback)
        except (ConflictError, CorruptError):
            metrics.FEEDBACK.labels(outcome="conflict").inc()
            raise
        except VisionloopError as error:
            # The store's words are the operator's business, not the caller's.
            metrics.FEEDBACK.labels(outcome="failed").inc()
            metrics.STORE_ERRORS.labels(reason=error.reason).inc()
            log.warning("feedback could not be stored: %s", error)
            raise UnavailableError(
                "the store takes no feedback at the moment; send it again later, under the same id",
                retry_after_seconds=RETRY_SECONDS,
            ) from error


def _feedback(
    request: pb.SubmitFeedbackRequest, prediction: PredictionId, caller: str, limits: Limits
) -> Feedback:
    if request.HasField("image"):
        read_header(request.image, limits)
        digest = hashlib.sha256(request.image).hexdigest()
        _check_digest(digest, prediction, "image")
        image = FeedbackImage(sha256=digest, size=len(request.image), inline=True)
    else:
        image = FeedbackImage(sha256=request.image_sha256, inline=False)
    said: dict[str, Any] = {"verdict": "wrong"}
    if request.HasField("class_id"):
        said = {"verdict": "class", "class_id": request.class_id}
    elif request.HasField("classes"):
        said = {"verdict": "classes", "class_ids": tuple(request.classes.class_ids)}
    header = FeedbackHeader(
        id=request.id,
        prediction_id=request.prediction_id,
        image=image,
        note=request.note,
        caller=caller,
        received=datetime.now(UTC),
        **said,
    )
    return Feedback(header, request.image if image.inline else None)


def _check_ids(class_ids: Sequence[str], field: str) -> None:
    """Raises InvalidInputError unless a header can hold them."""
    if len(class_ids) > MOST_CLASS_IDS:
        raise InvalidInputError(
            f"{field} holds {len(class_ids)} classes; the limit is {MOST_CLASS_IDS}", field=field
        )
    for place, class_id in enumerate(class_ids):
        if not 1 <= len(class_id) <= LONGEST_CLASS_ID:
            raise InvalidInputError(
                f"{field} has {len(class_id)} characters; it must have 1 to {LONGEST_CLASS_ID}",
                field=field,
            )
        if class_id in class_ids[:place]:
            raise InvalidInputError(f"{field} holds {class_id!r} twice", field=field)


def _check_digest(sha256: str, prediction: PredictionId, field: str) -> None:
    if not sha256.startswith(prediction.digest):
        raise InvalidInputError(
            f"{field} has the sha256 {sha256[:16]}…, and the prediction was made of "
            f"{prediction.digest}…; send the very bytes that were predicted",
            field=field,
        )

"""SubmitFeedback: checked here, stored in the inbox, acknowledged when it is durable.

The store is opened by the first feedback, in a thread, so that a service that never gets any pays
nothing for it. Only what can be checked without a look-up elsewhere is checked: that the prediction
id is one, that the image is the predicted one and readable, that the class can be one. Whether the
prediction was ever made is not known here; nothing of requests is kept.

A dataset gets classes that no version knows before the next training, and a correction that names
one is what the loop is for. Inference cannot see datasets, so such a class is stored, and the
answer names it: an app that mistyped it is told, and no other loses anything. What no dataset can
have is refused. Price: a typing error that looks like an id waits for an administrator, too, among
the refused feedback of labeling-ingest.
"""

import asyncio
import hashlib
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from visionloop.bundle import Bundle, ClassifierBundle, MultiLabelBundle
from visionloop.class_ids import may_be_of_a_dataset
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
MOST_BYTES = 128 * 2**20  # of images being stored at once, unless one alone has more
RETRY_SECONDS = 1.0
INBOX = "inbox"
SHOWN_CLASSES = 20

# The bundles of a model's versions that are loaded, by number.
FindBundles = Callable[[str], Mapping[int, Bundle]]


class FeedbackInbox:
    """Use it from the event loop. `open` may be replaced by another way to a store."""

    def __init__(
        self,
        store_url: str,
        find_bundles: FindBundles,
        *,
        limits: Limits = DEFAULT_LIMITS,
        open_store: Callable[[str], ObjectStore] = open_store,
    ) -> None:
        self._url = store_url
        self._find_bundles = find_bundles
        self._limits = limits
        self._open = open_store
        self._store: ObjectStore | None = None
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="feedback")
        self._under_way = 0
        self._held = 0  # bytes of their images

    async def submit(
        self, request: pb.SubmitFeedbackRequest, caller: str
    ) -> pb.SubmitFeedbackResponse:
        """Stores one feedback.

        Raises InvalidInputError, ImageError, ConflictError (the id stands for other content),
        OverloadedError, and UnavailableError when the store is away.
        """
        image = request.image  # each look at it is a copy
        too_large = self._held > 0 and self._held + len(image) > MOST_BYTES
        if too_large or self._under_way >= MOST_UNDER_WAY:
            raise OverloadedError(
                f"{self._under_way} feedbacks of {self._held} bytes are being stored; send it "
                "again in a moment, under the same id",
                retry_after_seconds=RETRY_SECONDS,
            )
        prediction, unknown = self._check(request)
        self._under_way += 1
        self._held += len(image)
        try:
            created = await asyncio.get_running_loop().run_in_executor(
                self._pool, self._keep, request, image, prediction, caller
            )
        finally:
            self._under_way -= 1
            self._held -= len(image)
        metrics.FEEDBACK.labels(outcome="stored" if created else "repeated").inc()
        return pb.SubmitFeedbackResponse(id=request.id, created=created, unknown_class_ids=unknown)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _check(self, request: pb.SubmitFeedbackRequest) -> tuple[PredictionId, list[str]]:
        """What can be said of it without reading the image: its prediction, and which of its
        classes no loaded version knows."""
        check_id(request.id)
        unknown: list[str] = []
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
            unknown = self._unknown([request.class_id], "class_id", prediction)
        if request.HasField("classes"):
            unknown = self._unknown(request.classes.class_ids, "classes", prediction)
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
        return prediction, unknown

    def _unknown(self, class_ids: Sequence[str], field: str, prediction: PredictionId) -> list[str]:
        """Those that no loaded version of the model knows. Raises InvalidInputError for what no
        dataset can have, and for a verdict of the other kind of model."""
        _check_ids(class_ids, field)
        loaded = self._find_bundles(prediction.model)
        bundle = loaded.get(prediction.version)
        if bundle is None:
            return []  # a version that is not loaded any more: whoever drains the inbox checks it
        if not isinstance(bundle, ClassifierBundle):
            raise InvalidInputError(
                f"model {prediction.model!r} was not trained on a dataset, so there is none whose "
                "class the image could be given",
                field=field,
            )
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
        known = {
            label.id: label.name
            for one in (bundle, *loaded.values())
            if isinstance(one, ClassifierBundle)
            for label in one.labels
        }
        unknown = [class_id for class_id in class_ids if class_id not in known]
        for class_id in unknown:
            if not may_be_of_a_dataset(class_id):
                raise InvalidInputError(
                    f"{field} {class_id!r} is no class of model {prediction.model!r}, nor the id "
                    "of one that its dataset may have got since: ids hold small letters, digits, _ "
                    f"and -. Version {prediction.version} knows: {_listed(bundle)}",
                    field=field,
                )
        return unknown

    def _keep(
        self,
        request: pb.SubmitFeedbackRequest,
        image: bytes,
        prediction: PredictionId,
        caller: str,
    ) -> bool:
        """In a thread: reads the image's header, writes the object. True when it is new."""
        feedback = _feedback(request, image, prediction, caller, self._limits)
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


def _listed(bundle: ClassifierBundle) -> str:
    """The first of its classes, for people: by their ids, and their names where those differ."""
    shown = ", ".join(
        label.id if label.id == label.name else f"{label.id} ({label.name})"
        for label in islice(bundle.labels, SHOWN_CLASSES)
    )
    return shown + (", …" if len(bundle.labels) > SHOWN_CLASSES else "")


def _feedback(
    request: pb.SubmitFeedbackRequest,
    data: bytes,
    prediction: PredictionId,
    caller: str,
    limits: Limits,
) -> Feedback:
    if request.HasField("image"):
        read_header(data, limits)
        digest = hashlib.sha256(data).hexdigest()
        _check_digest(digest, prediction, "image")
        image = FeedbackImage(sha256=digest, size=len(data), inline=True)
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
    return Feedback(header, data if image.inline else None)


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

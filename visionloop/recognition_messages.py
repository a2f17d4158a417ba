"""What goes to and comes from `visionloop.v1.Recognition`, as plain values instead of messages.

Nothing here connects to anything; `visionloop.client` does. Needs grpcio and protobuf alone.
"""

import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import TypeAlias

import grpc

from visionloop.channels import MAX_REQUEST_BYTES
from visionloop.errors import (
    ImageError,
    InvalidInputError,
    VisionloopError,
    error_for_grpc_code,
)
from visionloop.image_file import read_image_file, sendable
from visionloop.proto.v1 import recognition_pb2 as pb

Image: TypeAlias = bytes | bytearray | memoryview | str | os.PathLike[str]
IMAGES_PER_REQUEST = 32
# The metadata (and HTTP header) that stands in for an empty routing_key, for proxies that set one.
ROUTING_KEY = "visionloop-routing-key"


@dataclass(frozen=True, slots=True)
class ScoredLabel:
    """A class with its calibrated probability, 0..1.

    `present` is None where an image has one class (the first is the answer); else it says whether
    the image shows this class, which is to say that the probability reaches `threshold`.
    """

    class_id: str
    name: str
    probability: float
    present: bool | None = None
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class Recognition:
    """What the service says of one image.

    `multi_label` says that the model gives an image any number of classes, or none: `present` are
    those it shows, and `labels` its likeliest ones beside them.

    Either `error` is set (an ImageError for an image that was refused) and `labels` is empty, or
    the other way round. `width` and `height` are in pixels after EXIF orientation.
    """

    image_id: str  # the path that was given, or the place in the list
    model: str
    version: int
    labels: tuple[ScoredLabel, ...] = ()  # best first
    not_sure: bool = False
    # "low_probability", or "unfamiliar": the image is unlike what the model was trained for
    not_sure_reason: str = ""
    prediction_id: str = ""
    width: int = 0
    height: int = 0
    multi_label: bool = False
    error: VisionloopError | None = field(default=None, compare=False)

    @property
    def label(self) -> ScoredLabel | None:
        """The best label, or None when there is an error."""
        return self.labels[0] if self.labels else None

    @property
    def present(self) -> tuple[ScoredLabel, ...]:
        """The classes that the image shows, likeliest first: the best label, or any number."""
        if self.multi_label:
            return tuple(label for label in self.labels if label.present)
        return self.labels[:1]


def template_of(
    model: str, version: str | int, top_k: int, routing_key: str = "", priority: int = 0
) -> pb.RecognizeRequest:
    """A request without images. Raises InvalidInputError for what no message can hold."""
    if isinstance(version, int) and not isinstance(version, bool):
        version = str(version)  # a result tells its number
    named = _text("model", model, "cells")
    which = _text("version", version, "3")
    key = _text("routing_key", routing_key, "line-3")
    for name, number, rule in (
        ("top_k", top_k, "0 (all) or more"),
        ("priority", priority, "0 (normal), 1 (first) or more (later)"),
    ):
        if not isinstance(number, Integral) or number < 0:
            raise InvalidInputError(f"{name} is {number!r}; it must be {rule}", field=name)
    try:
        return pb.RecognizeRequest(
            model=named, version=which, top_k=top_k, routing_key=key, priority=priority
        )
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"model {model!r}, version {version!r}, top_k {top_k!r}, routing_key {routing_key!r} "
            f"or priority {priority!r} cannot be sent: {error}"
        ) from error


def _text(name: str, given: object, example: str) -> str:
    if not isinstance(given, str):
        raise InvalidInputError(
            f"{name} is {given!r}; it must be a string, as {example!r}", field=name
        )
    return given


def requests_of(
    loaded: Iterable[tuple[str, bytes]], template: pb.RecognizeRequest
) -> Iterator[tuple[list[str], pb.RecognizeRequest]]:
    """Requests of a bounded size, each with its images' names. Names stay here: a path on the
    caller's machine is nobody else's business."""
    names: list[str] = []
    size = 0
    request = _copy(template)
    for name, data in loaded:
        if names and (size + len(data) > MAX_REQUEST_BYTES or len(names) == IMAGES_PER_REQUEST):
            yield names, request
            names, size = [], 0
            request = _copy(template)
        request.images.add(data=data)
        names.append(name)
        size += len(data)
    if names:
        yield names, request


def _copy(template: pb.RecognizeRequest) -> pb.RecognizeRequest:
    request = pb.RecognizeRequest()
    request.CopyFrom(template)
    return request


def results_of(names: list[str], response: pb.RecognizeResponse, target: str) -> list[Recognition]:
    """One Recognition per image of the request. Raises VisionloopError when their counts differ."""
    if len(response.results) != len(names):
        raise VisionloopError(
            f"the inference service at {target} gave {len(response.results)} results for "
            f"{len(names)} images; its version and the client's do not fit"
        )
    return [
        Recognition(
            image_id=name,
            model=response.model,
            version=response.version,
            labels=_labels(result),
            multi_label=result.HasField("multi_label"),
            not_sure=result.classification.not_sure or result.multi_label.not_sure,
            not_sure_reason=result.classification.not_sure_reason
            or result.multi_label.not_sure_reason,
            prediction_id=result.prediction_id,
            width=result.width,
            height=result.height,
            error=error_of(result.status),
        )
        for name, result in zip(names, response.results, strict=True)
    ]


def _labels(result: pb.ImageResult) -> tuple[ScoredLabel, ...]:
    if result.HasField("multi_label"):
        return tuple(
            ScoredLabel(one.class_id, one.name, one.probability, one.present, one.threshold)
            for one in result.multi_label.labels
        )
    return tuple(
        ScoredLabel(one.class_id, one.name, one.probability) for one in result.classification.labels
    )


_CODE_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


def error_of(status: pb.ImageStatus) -> VisionloopError | None:
    """The error that a status stands for; None for OK."""
    if status.code == 0:
        return None
    code = _CODE_NAMES.get(status.code, "UNKNOWN")
    if code == "INVALID_ARGUMENT" and status.reason not in ("", InvalidInputError("").reason):
        return ImageError(status.message, reason=status.reason)
    return error_for_grpc_code(code, status.message)


@dataclass(frozen=True, slots=True)
class FeedbackReceipt:
    """The service has stored the feedback for good.

    `unknown_class_ids` are those of its classes that no loaded version of the model knows: newer
    than they, or mistyped. Such feedback takes effect once the dataset has the class.
    """

    feedback_id: str
    created: bool  # False: it was stored before
    unknown_class_ids: tuple[str, ...] = ()

    @classmethod
    def of(cls, answer: pb.SubmitFeedbackResponse) -> "FeedbackReceipt":
        """What the service answered."""
        return cls(answer.id, answer.created, tuple(answer.unknown_class_ids))


def feedback_of(
    prediction: "str | Recognition",
    class_id: str | None,
    class_ids: Sequence[str] | None,
    image: bytes | None,
    image_sha256: str | None,
    note: str,
    feedback_id: str | None,
) -> pb.SubmitFeedbackRequest:
    """The message. Raises InvalidInputError for what it cannot hold."""
    ident = prediction.prediction_id if isinstance(prediction, Recognition) else prediction
    if (image is None) == (image_sha256 is None):
        raise InvalidInputError(
            "give either image (the bytes that were predicted, or their path) or image_sha256",
            field="image",
        )
    if class_id is not None and class_ids is not None:
        raise InvalidInputError(
            "give class_id, or class_ids for a model of several classes, not both", field="class_id"
        )
    if isinstance(class_ids, str):
        raise InvalidInputError(
            f"class_ids is {class_ids!r}; give a list of ids", field="class_ids"
        )
    request = pb.SubmitFeedbackRequest()
    try:
        request.id = feedback_id or str(uuid.uuid4())
        request.prediction_id = ident
        request.note = note
        if class_id is not None:
            request.class_id = class_id
        elif class_ids is not None:
            request.classes.CopyFrom(pb.ClassSet(class_ids=class_ids))
        else:
            request.wrong = True
        if image is not None:
            request.image = image
        elif image_sha256 is not None:
            request.image_sha256 = image_sha256
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"the feedback cannot be sent: {error}") from error
    return request


def sources_of(images: Image | Iterable[Image]) -> Iterable[Image]:
    """One image or many, as many. Raises InvalidInputError for what is neither."""
    if isinstance(images, bytes | bytearray | memoryview | str | os.PathLike):
        return [images]
    if not isinstance(images, Iterable):
        raise InvalidInputError(
            f"images is of type {type(images).__name__}; give encoded bytes or a path, or a list "
            "of them",
            field="images",
        )
    return images


def name_of(place: int, source: Image) -> str:
    """The path that was given, or the place in the list."""
    return os.fspath(source) if isinstance(source, str | os.PathLike) else str(place)


def read_image(source: Image) -> bytes:
    """The encoded bytes. Raises NotFoundError for a file that is not there, ImageError for more
    than a message holds, InvalidInputError for what cannot be read and what is no image at all."""
    if isinstance(source, bytes | bytearray | memoryview):
        return sendable(bytes(source))
    if not isinstance(source, str | os.PathLike):
        raise InvalidInputError(
            f"an image is of type {type(source).__name__}; give encoded bytes or a path",
            field="images",
        )
    return read_image_file(source)

"""What goes to and comes from `visionloop.v1.Recognition`, as plain values instead of messages.

Nothing here connects to anything; `visionloop.client` does. Needs grpcio and protobuf alone.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import grpc

from visionloop.channels import MAX_REQUEST_BYTES
from visionloop.errors import (
    ImageError,
    InvalidInputError,
    VisionloopError,
    error_for_grpc_code,
)
from visionloop.image_file import read_image_file
from visionloop.proto.v1 import recognition_pb2 as pb

Image: TypeAlias = bytes | str | os.PathLike[str]
IMAGES_PER_REQUEST = 32


@dataclass(frozen=True, slots=True)
class ScoredLabel:
    """A class with its calibrated probability, 0..1."""

    class_id: str
    name: str
    probability: float


@dataclass(frozen=True, slots=True)
class Recognition:
    """What the service says of one image.

    Either `error` is set (an ImageError for an image that was refused) and `labels` is empty, or
    the other way round. `width` and `height` are in pixels after EXIF orientation.
    """

    image_id: str  # the path that was given, or the place in the list
    model: str
    version: int
    labels: tuple[ScoredLabel, ...] = ()  # best first
    not_sure: bool = False
    prediction_id: str = ""
    width: int = 0
    height: int = 0
    error: VisionloopError | None = field(default=None, compare=False)

    @property
    def label(self) -> ScoredLabel | None:
        """The best label, or None when there is an error."""
        return self.labels[0] if self.labels else None


def requests_of(
    loaded: Iterable[tuple[str, bytes]], model: str, version: str, top_k: int
) -> Iterator[tuple[list[str], pb.RecognizeRequest]]:
    """Requests of a bounded size, each with its images' names. Names stay here: a path on the
    caller's machine is nobody else's business."""
    if top_k < 0:
        raise InvalidInputError(f"top_k is {top_k}; it must be 0 (all) or more", field="top_k")
    names: list[str] = []
    size = 0
    try:
        request = pb.RecognizeRequest(model=model, version=version, top_k=top_k)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"model {model!r}, version {version!r} or top_k {top_k!r} cannot be sent: {error}"
        ) from error
    for name, data in loaded:
        if names and (size + len(data) > MAX_REQUEST_BYTES or len(names) == IMAGES_PER_REQUEST):
            yield names, request
            names, size = [], 0
            request = pb.RecognizeRequest(model=model, version=version, top_k=top_k)
        request.images.add(data=data)
        names.append(name)
        size += len(data)
    if names:
        yield names, request


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
            labels=tuple(
                ScoredLabel(label.class_id, label.name, label.probability)
                for label in result.classification.labels
            ),
            not_sure=result.classification.not_sure,
            prediction_id=result.prediction_id,
            width=result.width,
            height=result.height,
            error=_image_error(result.status),
        )
        for name, result in zip(names, response.results, strict=True)
    ]


_CODE_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


def _image_error(status: pb.ImageStatus) -> VisionloopError | None:
    if status.code == 0:
        return None
    code = _CODE_NAMES.get(status.code, "UNKNOWN")
    if code == "INVALID_ARGUMENT":
        return ImageError(status.message, reason=status.reason)
    return error_for_grpc_code(code, status.message)


def sources_of(images: Image | Sequence[Image]) -> Sequence[Image]:
    """One image or many, as many."""
    return [images] if isinstance(images, bytes | bytearray | str | os.PathLike) else images


def name_of(place: int, source: Image) -> str:
    """The path that was given, or the place in the list."""
    return os.fspath(source) if isinstance(source, str | os.PathLike) else str(place)


def read_image(source: Image) -> bytes:
    """The encoded bytes. Raises NotFoundError for a file that is not there, InvalidInputError for
    one that cannot be read and for what is no image at all."""
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    if not isinstance(source, str | os.PathLike):
        raise InvalidInputError(
            f"an image is of type {type(source).__name__}; give encoded bytes or a path",
            field="images",
        )
    return read_image_file(source)

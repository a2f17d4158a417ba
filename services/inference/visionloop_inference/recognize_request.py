"""A RecognizeRequest as its bytes, with the images left where they lie.

grpc keeps a message's bytes for as long as its call lasts. protobuf copies every image into its own
message, and once more on the way to Python, so that an image which waits for its turn would be held
three times. Here the images are views of the message as it came, and only what stands beside them
is parsed; a decoder copies an image when it is at it.

What is unusual (unknown fields, fields that repeat) goes to protobuf's parser, so the meaning is
always protobuf's.
"""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from google.protobuf.message import DecodeError

from visionloop.errors import InvalidInputError
from visionloop.proto.v1 import recognition_pb2 as pb
from visionloop_inference.datatypes import Buffer
from visionloop_inference.message_fields import field, length, tag_of, written

MAX_FIELDS = 16_384  # of one request, its images included

_IMAGES, _DATA, _ID = 3, 1, 2  # the fields' numbers
_IMAGE_TAG, _DATA_TAG, _ID_TAG = tag_of(_IMAGES), tag_of(_DATA), tag_of(_ID)
_TEXT_TAGS = frozenset(map(tag_of, (1, 2, 5)))  # model, version, routing_key
_NUMBER_TAGS = frozenset(tag_of(number, 0) for number in (4, 6))  # top_k, priority


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, as it came."""

    message: pb.RecognizeRequest  # its images have an id, and no data
    images: list[memoryview]  # encoded; views of what came
    size: int  # bytes of what came


def read(data: bytes) -> Asked:
    """A serialized RecognizeRequest.

    Raises InvalidInputError for more than MAX_FIELDS fields, and DecodeError for bytes that are no
    RecognizeRequest.
    """
    return _walked(data) or _parsed(data)


def serialized(message: pb.RecognizeRequest, images: Iterable[tuple[Buffer, str]]) -> bytes:
    """The bytes of `message`, which has no images, with these: (encoded, id) each."""
    parts: list[Buffer] = [message.SerializeToString()]
    for data, name in images:
        ident = name.encode()
        head = written(_DATA, len(data))
        tail = written(_ID, len(ident)) + ident if ident else b""
        parts += (written(_IMAGES, len(head) + len(data) + len(tail)), head, data, tail)
    return b"".join(parts)


class _Image(NamedTuple):
    """Where an image lies in a message."""

    start: int
    stop: int
    id: str


def _walked(data: bytes) -> Asked | None:
    """None where protobuf's own parser should look."""
    images: list[_Image] = []
    header: list[bytes] = []
    kept = place = 0  # up to `kept` the message is in `header`, or an image
    end = len(data)
    for _ in range(MAX_FIELDS):
        if place >= end:
            break
        begin = place
        if data[begin] == _IMAGE_TAG:
            size, start = length(data, begin + 1)
            place = start + size
            found = _image(data, start, place) if place <= end else None
            if found is None:
                return None
            images.append(found)
            header.append(data[kept:begin])
            kept = place
        else:
            place = _behind(data, begin)
    if place != end:
        return None
    header.append(data[kept:])
    message = pb.RecognizeRequest.FromString(b"".join(header))
    view = memoryview(data)
    for image in images:
        message.images.add(id=image.id)
    return Asked(message, [view[image.start : image.stop] for image in images], end)


def _behind(data: bytes, place: int) -> int:
    """Where a field ends that is no image; beyond the message where it is none of ours."""
    if data[place] in _TEXT_TAGS or data[place] in _NUMBER_TAGS:
        with contextlib.suppress(DecodeError):
            return field(data, place)[1]
    return len(data) + 1


def _image(data: bytes, place: int, stop: int) -> _Image | None:
    """The EncodedImage in data[place:stop]; None where it is not simply its data, then its id."""
    begin = end = place
    ident = b""
    for tag in (_DATA_TAG, _ID_TAG):
        if place < stop and data[place] == tag:
            size, start = length(data, place + 1)
            place = start + size
            if place > stop:
                return None
            if tag == _DATA_TAG:
                begin, end = start, place
            else:
                ident = data[start:place]
    if place != stop:
        return None
    try:
        return _Image(begin, end, ident.decode())
    except UnicodeDecodeError:
        return None


def _parsed(data: bytes) -> Asked:
    """The same by protobuf's parser, which keeps its copy of the images."""
    _check_bounds(data)
    message = pb.RecognizeRequest.FromString(data)
    images = [memoryview(image.data) for image in message.images]
    for image in message.images:
        image.ClearField("data")
    return Asked(message, images, len(data))


def _check_bounds(data: bytes) -> None:
    """Two bytes of a message can become a hundred in memory, so its fields are counted first."""
    place = fields = 0
    while place < len(data):
        _, place = field(data, place)
        fields += 1
        if fields > MAX_FIELDS:
            raise InvalidInputError(
                f"the request has more than {MAX_FIELDS} fields; send its images as several "
                "requests",
                field="images",
            )

"""A RecognizeRequest as its bytes, with the images left where they lie.

grpc keeps a message's bytes for as long as its call lasts. protobuf copies every image into its own
message, and once more on the way to Python, so that an image which waits for its turn would be held
three times. Here the images are views of the message as it came, and only what stands beside them
is parsed; a decoder copies an image when it is at it.

What is unusual (unknown fields, fields that repeat) goes to protobuf's parser, so the meaning is
always protobuf's.
"""

from collections.abc import Iterable
from typing import NamedTuple

from visionloop.errors import InvalidInputError
from visionloop.proto.v1 import recognition_pb2 as pb
from visionloop_inference.datatypes import Buffer
from visionloop_inference.message_fields import field, length, tag_of, varint, written
from visionloop_inference.settings import MOST_IMAGES

MAX_FIELDS = MOST_IMAGES + 64  # of one request: its images, and what stands beside them

_IMAGES, _DATA, _ID = 3, 1, 2  # the fields' numbers
_IMAGE_TAG, _DATA_TAG, _ID_TAG = tag_of(_IMAGES), tag_of(_DATA), tag_of(_ID)
_LENGTH_TAGS = frozenset(map(tag_of, (1, 2, _IMAGES, 5)))  # model, version, images, routing_key
_NUMBER_TAGS = frozenset(tag_of(number, 0) for number in (4, 6))  # top_k, priority


class Asked(NamedTuple):
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


def _walked(data: bytes) -> Asked | None:
    """None where protobuf's own parser should look. Raises DecodeError."""
    view, end = memoryview(data), len(data)
    images: list[memoryview] = []
    beside: list[bytes] = []  # the message without its images' data
    place = 0
    for _ in range(MAX_FIELDS):
        if place >= end:
            break
        begin, tag = place, data[place]
        if tag in _NUMBER_TAGS:
            _, place = varint(data, begin + 1)
        elif tag in _LENGTH_TAGS:
            size, start = length(data, begin + 1)
            place = start + size
        else:
            return None
        if place > end:
            return None
        if tag != _IMAGE_TAG:
            beside.append(data[begin:place])
            continue
        first, last = _data(data, start, place)
        if not _is_ident(data, last, place):
            return None
        images.append(view[first:last])
        beside += (written(_IMAGES, place - last), data[last:place])
    if place < end:
        return None
    return Asked(pb.RecognizeRequest.FromString(b"".join(beside)), images, end)


def _data(data: bytes, start: int, stop: int) -> tuple[int, int]:
    """Where the encoded image of the EncodedImage in data[start:stop] lies, if it begins with it;
    the end may be beyond `stop` where lengths are wrong."""
    if start == stop or data[start] != _DATA_TAG:
        return start, start
    size, first = length(data, start + 1)
    return first, first + size


def _is_ident(data: bytes, start: int, stop: int) -> bool:
    """Whether data[start:stop] is nothing, or an EncodedImage's id and no more."""
    if start == stop:
        return True
    if start > stop or data[start] != _ID_TAG:
        return False
    size, first = length(data, start + 1)
    return first + size == stop


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

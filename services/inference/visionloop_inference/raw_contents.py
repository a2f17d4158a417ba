"""The bytes of a ModelInferRequest taken apart, so that large tensors are never copied or parsed.

protobuf's parser copies `raw_input_contents` twice on the way to Python. Here the top-level fields
are walked once: the raw contents stay views of the message as it came, `id`, which changes with
every request, stands apart, and what is left (the header: names, datatypes, shapes, parameters) is
the same for every request of a kind, so its bytes serve as the key of what was worked out before.

Anything unusual (unknown fields, other wire types, long tags) goes to protobuf's parser, so the
meaning is always protobuf's. Before it is parsed a message is bounded: two bytes of it can become a
hundred in memory (an empty input), so tensors are counted, and the header may not be long.
"""

from typing import NamedTuple

from google.protobuf.message import DecodeError

from visionloop.errors import InvalidInputError
from visionloop.proto.inference import open_inference_pb2 as pb
from visionloop_inference.message_fields import field, length, tag_of

MAX_FIELDS = 1024  # inputs, outputs, parameters and raw contents of one request, together
MAX_HEADER_BYTES = 16 * 2**20  # typed contents count, raw contents do not

_ID, _RAW = tag_of(3), tag_of(7)
_APART = frozenset((_ID, _RAW))
_KNOWN = frozenset(tag_of(known.number) for known in pb.ModelInferRequest.DESCRIPTOR.fields)


class Parts(NamedTuple):
    """One request. header + id + raws mean what the message meant."""

    header: bytes  # all fields but the other two, in their order; not parsed yet
    id: bytes  # of one string field; valid UTF-8
    raws: list[memoryview]  # of raw_input_contents


def take_apart(data: bytes) -> Parts:
    """The parts of a serialized ModelInferRequest; the views keep `data` alive.

    Raises InvalidInputError for bytes that are no ModelInferRequest or hold too many fields.
    """
    return _walked(data) or _parsed(data)


def parse_header(header: bytes) -> pb.ModelInferRequest:
    """Raises InvalidInputError for bytes that are no ModelInferRequest."""
    try:
        return pb.ModelInferRequest.FromString(header)
    except DecodeError:
        raise _malformed() from None


def _walked(data: bytes) -> Parts | None:
    """None where protobuf's own parser should look."""
    view = memoryview(data)
    end = len(data)
    raws: list[memoryview] = []
    idents: list[bytes] = []
    header: list[bytes] = []
    kept = 0  # up to here the message is in `header` or stands apart
    place = 0
    for _ in range(MAX_FIELDS):
        if place >= end:
            break
        tag = data[place]
        start = place + 2
        size = data[start - 1] if start <= end else end
        if size > 127:
            size, start = length(data, start - 1)
        stop = start + size
        if stop > end or tag not in _KNOWN:
            return None
        if tag in _APART:
            if kept < place:
                header.append(data[kept:place])
            kept = stop
            if tag == _RAW:
                raws.append(view[start:stop])
            else:
                idents.append(data[start:stop])
        place = stop
    else:
        return None
    if kept < end:
        header.append(data[kept:])
    joined = header[0] if len(header) == 1 else b"".join(header)
    if len(joined) > MAX_HEADER_BYTES or len(idents) > 1:
        return None
    ident = idents[0] if idents else b""
    return Parts(joined, ident, raws) if _is_utf8(ident) else None


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _parsed(data: bytes) -> Parts:
    """The same by protobuf's parser."""
    _check_bounds(data)
    request = parse_header(data)
    raws = [memoryview(raw) for raw in request.raw_input_contents]
    ident: bytes = request.id.encode()
    request.ClearField("raw_input_contents")
    request.ClearField("id")
    return Parts(request.SerializeToString(), ident, raws)


def _check_bounds(data: bytes) -> None:
    """Counts the top-level fields, whatever they are, and the bytes that are not raw contents."""
    end = len(data)
    place = fields = header = 0
    try:
        while place < end and fields <= MAX_FIELDS:
            begin = place
            tag, place = field(data, place)
            fields += 1
            if tag != _RAW:
                header += place - begin
    except DecodeError:
        raise _malformed() from None
    if place > end:
        raise _malformed()
    if fields > MAX_FIELDS:
        raise InvalidInputError(
            "the request has too many inputs, outputs, parameters and raw contents; the limit is "
            f"{MAX_FIELDS} together",
            field="inputs",
        )
    if header > MAX_HEADER_BYTES:
        raise InvalidInputError(
            f"the request has {header} bytes beside raw_input_contents; the limit is "
            f"{MAX_HEADER_BYTES}: send large tensors as raw_input_contents",
            field="inputs.contents",
        )


def _malformed() -> InvalidInputError:
    return InvalidInputError("the message is no ModelInferRequest: it is cut off or damaged")

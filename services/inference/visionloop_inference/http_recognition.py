"""POST /v1/recognize: an image as the body, its labels as JSON. Recognition for curl.

    curl --data-binary @cell.jpg 'http://127.0.0.1:8002/v1/recognize?top_k=3'

The answer is the JSON mapping of `visionloop.v1.RecognizeResponse`, every field there, with one
result. An image that is refused is an error of the request here.
"""

import grpc

from visionloop.errors import ImageError, InvalidInputError, VisionloopError, error_for_grpc_code
from visionloop.proto.v1 import recognition_pb2 as pb
from visionloop_inference.http_front_end import (
    SERVICE,
    FrontEnd,
    check_body,
    check_query,
    json_reply,
    seconds_of,
)
from visionloop_inference.http_message import Head, Reply

PATH = "/v1/recognize"
METHOD = f"{SERVICE}Recognize"  # what is asked for
FIELDS = ("model", "version", "top_k", "priority", "timeout")


class HttpRecognition:
    """One request; what its head asks. Raises HttpError and InvalidInputError."""

    body_is_optional = False

    def __init__(self, head: Head) -> None:
        check_body(head)
        check_query(head, FIELDS)
        self._head = head
        self._seconds = seconds_of(head)
        self._request = pb.RecognizeRequest(
            model=head.query.get("model", ""),
            version=head.query.get("version", ""),
            top_k=_whole(head.query, "top_k"),
            priority=_whole(head.query, "priority"),
        )

    async def answer(self, body: bytes, front_end: FrontEnd, peer: str) -> Reply:
        """Raises VisionloopError."""
        self._request.images.add(data=body)
        del body
        response = await front_end.recognize(self._request, self._seconds, self._head, peer)
        status = response.results[0].status
        if status.code:
            raise _image_error(status)
        response.results[0].status.SetInParent()  # shown, though it says nothing but OK
        return json_reply(response)


def _image_error(status: pb.ImageStatus) -> VisionloopError:
    names = {code.value[0]: code.name for code in grpc.StatusCode}
    code = names.get(status.code, "UNKNOWN")
    if code == "INVALID_ARGUMENT":
        return ImageError(status.message, reason=status.reason)
    return error_for_grpc_code(code, status.message)


def _whole(query: dict[str, str], name: str) -> int:
    text = query.get(name, "0")
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise InvalidInputError(
            f"{name} is {text[:100]!r}; it must be a whole number, 0 or more", field=name
        )
    return int(text)

"""POST /v1/recognize: an image as the body, or several in a form; labels as JSON. For curl.

    curl --data-binary @cell.jpg 'http://127.0.0.1:8002/v1/recognize?top_k=3'
    curl -F file=@a.jpg -F file=@b.jpg 'http://127.0.0.1:8002/v1/recognize?top_k=3'

The answer is the JSON mapping of `visionloop.v1.RecognizeResponse`, every field there. Where the
body is the image there is one result, and an image that is refused is an error of the request. Of a
form each image has its own status, and the name of its file as `image_id`.
"""

import asyncio

import grpc

from visionloop.errors import ImageError, InvalidInputError, VisionloopError, error_for_grpc_code
from visionloop.proto.v1 import recognition_pb2 as pb
from visionloop_inference import http_form
from visionloop_inference.http_front_end import (
    SERVICE,
    FrontEnd,
    check_body,
    check_query,
    json_reply,
    seconds_of,
)
from visionloop_inference.http_message import Head, Reply
from visionloop_inference.recognize_request import serialized

PATH = "/v1/recognize"
METHOD = f"{SERVICE}Recognize"  # what is asked for
FIELDS = ("model", "version", "top_k", "priority", "timeout")


class HttpRecognition:
    """One request; what its head asks. Raises HttpError and InvalidInputError."""

    body_is_optional = False

    def __init__(self, head: Head) -> None:
        self._boundary = http_form.boundary_of(head)
        if self._boundary is None:
            check_body(head, "one image, or a form of several: curl -F file=@a.jpg -F file=@b.jpg")
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
        boundary = self._boundary
        if boundary is None:
            message = serialized(self._request, [(body, "")])
        else:  # in a thread: thousands of parts take long to read, and probes come here
            message = await asyncio.to_thread(self._of_form, body, boundary)
        del body
        response = await front_end.recognize(message, self._seconds, self._head, peer)
        if boundary is None and (status := response.results[0].status).code:
            raise _image_error(status)
        for result in response.results:
            result.status.SetInParent()  # shown, though it says nothing but OK
        return await json_reply(response)

    def _of_form(self, body: bytes, boundary: bytes) -> bytes:
        return serialized(self._request, http_form.files(body, boundary))


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

"""How the HTTP port asks a front end: over its Unix socket, by the same calls as any client.

The supervisor, which has the HTTP port, touches no pixels and no inbox: the bytes of an image go to
a front end, which checks, decodes and admits them like any others. The price is a second copy of
the bytes, in this process, and about a millisecond: apps that care use gRPC.
"""

import asyncio
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, cast

import grpc
import grpc.aio
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from visionloop.errors import (
    DeadlineExceededError,
    InvalidInputError,
    OverloadedError,
    UnavailableError,
    VisionloopError,
    error_for_grpc_code,
)
from visionloop.proto.v1 import recognition_pb2 as pb
from visionloop.proto.v1 import recognition_pb2_grpc
from visionloop.recognition_messages import ROUTING_KEY
from visionloop_inference.access_log import PEER_KEY
from visionloop_inference.http_message import JSON, MAX_HEAD, Head, HttpError, Reply

SERVICE = "/visionloop.v1.Recognition/"
MESSAGE_ROOM = 2 * MAX_HEAD  # bytes of a message beside its image: what the query said, in protobuf
DEFAULT_SECONDS = 30.0
LONGEST_SECONDS = 600.0
RESTART_SECONDS = 1.0
SMALL = 16 * 1024  # bytes of an answer: a few hundred classes, some milliseconds to make JSON of
FORMS = ("multipart/", "application/json")


class FrontEnd:
    """The front end at `target`. Opened by the first request, in its event loop."""

    def __init__(self, target: str, max_message_bytes: int) -> None:
        self.max_body = max_message_bytes - MESSAGE_ROOM
        self._target = target
        self._max_message = max_message_bytes
        self._channel: grpc.aio.Channel | None = None

    async def recognize(
        self, request: bytes, seconds: float, head: Head, peer: str
    ) -> pb.RecognizeResponse:
        """`request` is a serialized RecognizeRequest. Raises VisionloopError."""
        metadata = _metadata(head, peer)
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, pb.RecognizeResponse]
        call = self._opened().unary_unary(
            f"{SERVICE}Recognize", response_deserializer=pb.RecognizeResponse.FromString
        )
        with _in_our_words(seconds):
            answer: pb.RecognizeResponse = await call(request, timeout=seconds, metadata=metadata)
        return answer

    async def submit_feedback(
        self, request: pb.SubmitFeedbackRequest, seconds: float, head: Head, peer: str
    ) -> pb.SubmitFeedbackResponse:
        """Raises VisionloopError."""
        metadata = _metadata(head, peer)
        stub = recognition_pb2_grpc.RecognitionStub(self._opened())
        with _in_our_words(seconds):
            answer: pb.SubmitFeedbackResponse = await stub.SubmitFeedback(
                request, timeout=seconds, metadata=metadata
            )
        return answer

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()

    def _opened(self) -> grpc.aio.Channel:
        if self._channel is None:
            limit = self._max_message
            options = [
                ("grpc.max_send_message_length", limit),
                ("grpc.max_receive_message_length", limit),
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.min_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 1000),
            ]
            self._channel = grpc.aio.insecure_channel(self._target, options)
        return self._channel


def check_body(head: Head, wanted: str) -> None:
    """Raises HttpError where the body is said to be something around an image."""
    kind = head.headers.get("content-type", "").lower()
    if kind.startswith(FORMS):
        raise HttpError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"the body is {kind.partition(';')[0][:100]}; it must be {wanted}",
            field="content-type",
        )


def check_query(head: Head, fields: tuple[str, ...]) -> None:
    """Raises InvalidInputError for a name that is none of these."""
    for name in head.query:
        if name not in fields:
            raise InvalidInputError(
                f"the query has {name[:100]!r}; there are {', '.join(fields)}", field=name[:100]
            )


def seconds_of(head: Head) -> float:
    """The query's `timeout`. Raises InvalidInputError."""
    text = head.query.get("timeout")
    if text is None:
        return DEFAULT_SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= LONGEST_SECONDS:
        raise InvalidInputError(
            f"timeout is {text[:100]!r}; it must be a number of seconds above 0, at most "
            f"{LONGEST_SECONDS:g}",
            field="timeout",
        )
    return seconds


async def json_reply(message: pb.RecognizeResponse | pb.SubmitFeedbackResponse) -> Reply:
    """The JSON mapping of an answer, every field there, in the order of the .proto.

    A large one is made in a thread: all classes of many images take seconds, and probes come here.
    """
    if message.ByteSize() <= SMALL:
        return _json_reply(message)
    return await asyncio.to_thread(_json_reply, message)


def _json_reply(message: pb.RecognizeResponse | pb.SubmitFeedbackResponse) -> Reply:
    told = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    descriptor = cast("Descriptor", message.DESCRIPTOR)
    text = json.dumps(_ordered(descriptor, told), indent=2, ensure_ascii=False)
    return Reply(HTTPStatus.OK, JSON, text.encode() + b"\n")


def _ordered(descriptor: Descriptor, told: dict[str, Any]) -> dict[str, Any]:
    """The mapping puts those fields first that are set."""

    def value(field: FieldDescriptor, told: Any) -> Any:
        if field.message_type is None:
            return told
        if isinstance(told, list):
            return [_ordered(field.message_type, each) for each in told]
        return _ordered(field.message_type, told)

    return {
        field.name: value(field, told[field.name])
        for field in descriptor.fields
        if field.name in told
    }


def _metadata(head: Head, peer: str) -> list[tuple[str, str]]:
    metadata = [(PEER_KEY, peer)]
    for name in ("authorization", ROUTING_KEY):
        value = head.headers.get(name)
        if value is not None:
            if not value.isascii() or not value.isprintable():
                raise InvalidInputError(f"the header {name} is not plain ASCII", field=name)
            metadata.append((name, value))
    return metadata


@contextmanager
def _in_our_words(seconds: float) -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        raise _error(error, seconds) from error


def _error(error: grpc.RpcError, seconds: float) -> VisionloopError:
    """The front end's own sentence. What grpc says of our way to it is nothing for callers."""
    if not isinstance(error, grpc.aio.AioRpcError):
        return VisionloopError("a fault of the server; its log says more")
    code, details = error.code().name, error.details() or ""
    if code == "UNAVAILABLE" and "unix:" in details:
        return UnavailableError(
            "the front end is being started; retry", retry_after_seconds=RESTART_SECONDS
        )
    if code == "DEADLINE_EXCEEDED":
        return DeadlineExceededError(
            f"no answer within {seconds:g} s; allow more time by ?timeout=SECONDS"
        )
    told = error_for_grpc_code(code, details)
    if isinstance(told, OverloadedError | UnavailableError):
        told.retry_after_seconds = _pushback(error)
    return told


def _pushback(error: grpc.aio.AioRpcError) -> float | None:
    for name, value in error.trailing_metadata() or ():
        if name == "grpc-retry-pushback-ms" and str(value).isdigit():
            return int(value) / 1000
    return None

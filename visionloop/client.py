"""The client that apps import: encoded images in, labelled and calibrated results out.

    with Client("inference:8001") as client:
        for result in client.recognize(["cell.png", other_image_bytes]):
            print(result.label, result.not_sure, result.error)
        for result in client.recognize_stream(Path("cells").iterdir()):  # any number of images
            ...
        client.submit_feedback(result, class_id="crack", image="cell.png")

`AsyncClient` is the same on asyncio. Both need grpcio and protobuf alone. A call has a deadline, a
bad image costs only its own result, and what goes wrong with the call as a whole is an error of
`visionloop.errors`. Nothing is retried unless `retries` says so: a caller with a deadline of its
own knows better, and a retry under overload makes it worse.
"""

import time
from collections.abc import Generator, Iterable, Sequence
from types import TracebackType
from typing import Self, TypeAlias

import grpc

from visionloop.async_client import AsyncClient
from visionloop.channels import closed, error_from
from visionloop.client_base import (
    DEFAULT_CHANNELS,
    DEFAULT_TARGET,
    DEFAULT_TIMEOUT,
    SERVICE,
    ClientBase,
)
from visionloop.proto.v1 import recognition_pb2 as pb
from visionloop.proto.v1 import recognition_pb2_grpc
from visionloop.recognition_messages import (
    IMAGES_PER_REQUEST,
    FeedbackReceipt,
    Image,
    Recognition,
    ScoredLabel,
    feedback_of,
    name_of,
    read_image,
    requests_of,
    results_of,
    sources_of,
    template_of,
)
from visionloop.recognition_stream import Service, batches, streamed

__all__ = [
    "DEFAULT_TIMEOUT",
    "IMAGES_PER_REQUEST",
    "AsyncClient",
    "Client",
    "FeedbackReceipt",
    "Image",
    "Recognition",
    "ScoredLabel",
]

_Call: TypeAlias = "grpc.Future[pb.RecognizeResponse]"


class Client(ClientBase):
    """Calls an inference service; threads may share it.

    `timeout` (seconds) is the deadline of each `recognize` as a whole. `channels` connections are
    used in turn. `retries` (0 to 4) is how often a request that was answered UNAVAILABLE is sent
    again. With `credentials` the connection is TLS (`grpc.ssl_channel_credentials()`), without it
    is not encrypted. `token` is the bearer token that a server with authentication wants.
    `server_name` is the name in the server's certificate, where `target` has another one (a
    tunnel).
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        channels: int = DEFAULT_CHANNELS,
        retries: int = 0,
        credentials: grpc.ChannelCredentials | None = None,
        token: str | None = None,
        server_name: str = "",
    ) -> None:
        super().__init__(target, timeout, channels, retries, token, server_name)
        self._channels = [
            grpc.secure_channel(target, credentials, self._options)
            if credentials
            else grpc.insecure_channel(target, self._options)
            for _ in range(channels)
        ]
        self._stubs = [recognition_pb2_grpc.RecognitionStub(c) for c in self._channels]

    def recognize(
        self,
        images: Image | Iterable[Image],
        *,
        model: str = "",
        version: str | int = "",
        top_k: int = 0,
        routing_key: str = "",
        priority: int = 0,
        timeout: float | None = None,
    ) -> list[Recognition]:
        """One result per image, in their order.

        Images are encoded bytes (JPEG, PNG, WebP, BMP, TIFF, GIF) or paths of files to read. Long
        lists are sent as several requests, a few at a time, under one deadline. `model` empty is
        the server's default; `version` is a number (7 or "7"), an alias, or empty for stable (or
        the canary, for its share of the calls: the same for the same `routing_key`); `top_k` 0 is
        all classes, up to the server's limit of 1,000; `priority` 1 goes before 2 (0, the normal
        one, is 2) and that before 3, which is for work that may wait, and is refused first. Raises
        NotFoundError for a file, model or version that is not there, UnavailableError,
        OverloadedError, DeadlineExceededError and other errors of `visionloop.errors`; an image
        that the service refuses is no error of the call.
        """
        self._check_open()
        seconds = self._seconds(timeout)
        deadline = time.monotonic() + seconds
        template = template_of(model, version, top_k, routing_key, priority)
        sources = sources_of(images)
        results: list[Recognition] = []
        waiting: list[tuple[list[str], _Call]] = []
        loaded = ((name_of(n, source), read_image(source)) for n, source in enumerate(sources))
        try:
            for names, request in requests_of(loaded, template):
                if len(waiting) == len(self._channels):
                    results += self._answers(*waiting.pop(0), seconds)
                left = deadline - time.monotonic()
                waiting.append((names, self._sent(request, left)))
            while waiting:
                results += self._answers(*waiting.pop(0), seconds)
        finally:
            for _, call in waiting:
                call.cancel()
        return results

    def recognize_stream(
        self,
        images: Image | Iterable[Image],
        *,
        model: str = "",
        version: str | int = "",
        top_k: int = 0,
        routing_key: str = "",
        priority: int = 0,
        timeout: float | None = None,
    ) -> Generator[Recognition, None, None]:
        """One result per image, in their order, for any number of images.

        Images are taken from the iterable as the server works them off, the first ones when the
        first result is asked for; closing the iterator ends the call. An image that cannot be
        read, or is refused, or was in a request that failed, has its error in its own result; only
        a call that breaks off raises. `timeout` (seconds, for the whole) is none unless given.
        `priority` 0 is 3 here: calls of others go first. 2 is as good as theirs.
        """
        self._check_open()
        limit = None if timeout is None else self._seconds(timeout)
        template = template_of(model, version, top_k, routing_key, priority)
        options = {"timeout": limit, "metadata": self._metadata}
        service = Service(self._stubs, self.target, self._failure(limit), options)
        return streamed(service, batches(sources_of(images), template))

    def submit_feedback(
        self,
        prediction: str | Recognition,
        *,
        class_id: str | None = None,
        class_ids: Sequence[str] | None = None,
        image: Image | None = None,
        image_sha256: str | None = None,
        note: str = "",
        feedback_id: str | None = None,
        timeout: float | None = None,
    ) -> FeedbackReceipt:
        """Says what an image truly shows; returns when the service has stored it for good.

        `prediction` is a result or its prediction id. `class_id` is what the image shows; where the
        model tells any number of classes, `class_ids` is all of it (empty: none of them). A class
        may be newer than the model; the receipt names what the model does not know. Without
        either the prediction is called wrong, and no more. Give the image itself, or its sha256
        where labeling-ingest has it. A `feedback_id` (a UUID) of your own lets you repeat a call
        that broke off: it counts once.
        Raises InvalidInputError, ConflictError for an id that was used for something else,
        UnavailableError when the service or its store is away.
        """
        self._check_open()
        seconds = self._seconds(timeout)
        data = None if image is None else read_image(image)
        request = feedback_of(
            prediction, class_id, class_ids, data, image_sha256, note, feedback_id
        )
        try:
            answer = self._stub().SubmitFeedback(request, timeout=seconds, metadata=self._metadata)
        except (grpc.RpcError, ValueError) as error:  # ValueError: closed by another thread
            raise self._failure(seconds)(error) from error
        return FeedbackReceipt.of(answer)

    def close(self) -> None:
        """Closes the connections; calls that are under way fail."""
        self._closed = True
        for channel in self._channels:
            channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _sent(self, request: pb.RecognizeRequest, seconds: float) -> _Call:
        try:
            call: _Call = self._stub().Recognize.future(
                request, timeout=seconds, metadata=self._metadata
            )
        except ValueError as error:  # what grpc says of a channel that another thread closed
            if self._closed:
                raise closed() from error
            raise
        return call

    def _answers(self, names: list[str], call: _Call, seconds: float) -> list[Recognition]:
        try:
            response = call.result()
        except (grpc.RpcError, grpc.FutureCancelledError) as error:
            if self._closed:
                raise closed() from error
            if not isinstance(error, grpc.RpcError):
                raise
            raise error_from(error, SERVICE, self.target, seconds) from error
        return results_of(names, response, self.target)

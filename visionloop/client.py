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

import asyncio
import itertools
import time
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Sequence,
)
from types import TracebackType
from typing import Self, TypeAlias

import grpc
import grpc.aio

from visionloop.channels import (
    authorization,
    channel_options,
    check_retries,
    check_target,
    error_from,
)
from visionloop.errors import InvalidInputError, VisionloopError
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
from visionloop.recognition_stream import (
    Service,
    batches,
    batches_async,
    streamed,
    streamed_async,
)

__all__ = [
    "IMAGES_PER_REQUEST",
    "AsyncClient",
    "Client",
    "FeedbackReceipt",
    "Image",
    "Recognition",
    "ScoredLabel",
]

_Call: TypeAlias = "grpc.Future[pb.RecognizeResponse]"
DEFAULT_TARGET = "127.0.0.1:8001"
DEFAULT_TIMEOUT = 10.0  # seconds
# Channels have a connection each. Two keep a small server busy while an answer is read, and reach
# two of its processes; a client that feeds a large server by itself wants one per front end.
DEFAULT_CHANNELS = 2

_SERVICE = "inference"


class Client:
    """Calls an inference service; threads may share it.

    `timeout` (seconds) is the deadline of each `recognize` as a whole. `channels` connections are
    used in turn. `retries` (0 to 4) is how often a request that was answered UNAVAILABLE is sent
    again. With `credentials` the connection is TLS (`grpc.ssl_channel_credentials()`), without it
    is not encrypted. `token` is the bearer token that a server with authentication wants.
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
    ) -> None:
        _check(target, timeout, channels, retries)
        self._metadata = authorization(token)
        self.target = target
        self.timeout = timeout
        options = channel_options(retries)
        self._channels = [
            grpc.secure_channel(target, credentials, options)
            if credentials
            else grpc.insecure_channel(target, options)
            for _ in range(channels)
        ]
        self._stubs = [recognition_pb2_grpc.RecognitionStub(c) for c in self._channels]
        self._turn = itertools.count()
        self._closed = False

    def recognize(
        self,
        images: Image | Sequence[Image],
        *,
        model: str = "",
        version: str = "",
        top_k: int = 0,
        routing_key: str = "",
        priority: int = 0,
        timeout: float | None = None,
    ) -> list[Recognition]:
        """One result per image, in their order.

        Images are encoded bytes (JPEG, PNG, WebP, BMP, TIFF, GIF) or paths of files to read. Long
        lists are sent as several requests, a few at a time, under one deadline. `model` empty is
        the server's default; `version` is a number, an alias, or empty for stable (or the canary,
        for its share of the calls: the same for the same `routing_key`); `top_k` 0 is all classes;
        `priority` 1 goes before 0, which goes before 2. Raises NotFoundError for a file, model or
        version that is not there, UnavailableError, OverloadedError, DeadlineExceededError and
        other errors of `visionloop.errors`; an image that the service refuses is no error of the
        call.
        """
        if self._closed:
            raise _closed()
        seconds = _seconds(timeout, self.timeout)
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
        images: Iterable[Image],
        *,
        model: str = "",
        version: str = "",
        top_k: int = 0,
        routing_key: str = "",
        priority: int = 0,
        timeout: float | None = None,
    ) -> Iterator[Recognition]:
        """One result per image, in their order, for any number of images.

        Images are taken from the iterable as the server works them off. An image that cannot be
        read, or is refused, or was in a request that failed, has its error in its own result; only
        a call that breaks off raises. `timeout` (seconds, for the whole) is none unless given.
        """
        if self._closed:
            raise _closed()
        limit = None if timeout is None else _seconds(timeout, self.timeout)
        template = template_of(model, version, top_k, routing_key, priority)
        options = {"timeout": limit, "metadata": self._metadata}
        service = Service(self._stubs, self.target, self._failure(limit), options)
        return streamed(service, batches(images, template))

    def submit_feedback(
        self,
        prediction: str | Recognition,
        *,
        class_id: str | None = None,
        image: Image | None = None,
        image_sha256: str | None = None,
        note: str = "",
        feedback_id: str | None = None,
        timeout: float | None = None,
    ) -> FeedbackReceipt:
        """Says what an image truly shows; returns when the service has stored it for good.

        `prediction` is a result or its prediction id. Without `class_id` the prediction is called
        wrong, and no more. Give the image itself, or its sha256 where labeling-ingest has it. A
        `feedback_id` (a UUID) of your own lets you repeat a call that broke off: it counts once.
        Raises InvalidInputError, ConflictError for an id that was used for something else,
        UnavailableError when the service or its store is away.
        """
        if self._closed:
            raise _closed()
        seconds = _seconds(timeout, self.timeout)
        data = None if image is None else read_image(image)
        request = feedback_of(prediction, class_id, data, image_sha256, note, feedback_id)
        try:
            answer = self._stub().SubmitFeedback(request, timeout=seconds, metadata=self._metadata)
        except (grpc.RpcError, ValueError) as error:  # ValueError: closed by another thread
            raise self._failure(seconds)(error) from error
        return FeedbackReceipt(answer.id, answer.created)

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

    def _stub(self) -> recognition_pb2_grpc.RecognitionStub:
        return self._stubs[next(self._turn) % len(self._stubs)]

    def _sent(self, request: pb.RecognizeRequest, seconds: float) -> _Call:
        try:
            call: _Call = self._stub().Recognize.future(
                request, timeout=seconds, metadata=self._metadata
            )
        except ValueError as error:  # what grpc says of a channel that another thread closed
            if self._closed:
                raise _closed() from error
            raise
        return call

    def _failure(self, seconds: float | None) -> Callable[[BaseException], VisionloopError]:
        def failure(error: BaseException) -> VisionloopError:
            if self._closed or not isinstance(error, grpc.RpcError):
                return _closed()
            return error_from(error, _SERVICE, self.target, seconds or 0.0)

        return failure

    def _answers(self, names: list[str], call: _Call, seconds: float) -> list[Recognition]:
        try:
            response = call.result()
        except (grpc.RpcError, grpc.FutureCancelledError) as error:
            if self._closed:
                raise _closed() from error
            if not isinstance(error, grpc.RpcError):
                raise
            raise error_from(error, _SERVICE, self.target, seconds) from error
        return results_of(names, response, self.target)


class AsyncClient:
    """`Client` on asyncio. Make and use it within one event loop; tasks may share it."""

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        channels: int = DEFAULT_CHANNELS,
        retries: int = 0,
        credentials: grpc.ChannelCredentials | None = None,
        token: str | None = None,
    ) -> None:
        _check(target, timeout, channels, retries)
        self._metadata = authorization(token)
        self.target = target
        self.timeout = timeout
        self._count = channels
        self._options = channel_options(retries)
        self._credentials = credentials
        # Opened by the first call, because a channel belongs to the loop that is running then.
        self._channels: list[grpc.aio.Channel] = []
        self._stubs: list[recognition_pb2_grpc.RecognitionStub] = []
        self._turn = itertools.count()
        self._closed = False

    async def recognize(
        self,
        images: Image | Sequence[Image],
        *,
        model: str = "",
        version: str = "",
        top_k: int = 0,
        routing_key: str = "",
        priority: int = 0,
        timeout: float | None = None,  # noqa: ASYNC109 - a gRPC deadline, which the server sees
    ) -> list[Recognition]:
        """See `Client.recognize`. Files are read in a thread."""
        if self._closed:
            raise _closed()
        seconds = _seconds(timeout, self.timeout)
        deadline = time.monotonic() + seconds
        template = template_of(model, version, top_k, routing_key, priority)
        sources = sources_of(images)
        loaded = [
            (name_of(n, source), await _read_async(source)) for n, source in enumerate(sources)
        ]
        if self._closed:  # while the files were read
            raise _closed()
        self._open()
        turns = asyncio.Semaphore(self._count)

        async def ask(names: list[str], request: pb.RecognizeRequest) -> list[Recognition]:
            async with turns:
                stub = self._stubs[next(self._turn) % len(self._stubs)]
                left = deadline - time.monotonic()
                try:
                    response = await stub.Recognize(request, timeout=left, metadata=self._metadata)
                except (asyncio.CancelledError, grpc.RpcError, grpc.aio.UsageError) as error:
                    if self._closed and not _cancelled():
                        raise _closed() from error
                    if not isinstance(error, grpc.RpcError):
                        raise
                    raise error_from(error, _SERVICE, self.target, seconds) from error
                return results_of(names, response, self.target)

        requests = requests_of(loaded, template)
        tasks = [asyncio.create_task(ask(names, request)) for names, request in requests]
        try:
            return [result for answers in await asyncio.gather(*tasks) for result in answers]
        finally:
            for task in tasks:
                task.cancel()

    def recognize_stream(
        self,
        images: Iterable[Image] | AsyncIterable[Image],
        *,
        model: str = "",
        version: str = "",
        top_k: int = 0,
        routing_key: str = "",
        priority: int = 0,
        timeout: float | None = None,
    ) -> AsyncIterator[Recognition]:
        """See `Client.recognize_stream`; `async for` goes through the results."""
        if self._closed:
            raise _closed()
        limit = None if timeout is None else _seconds(timeout, self.timeout)
        template = template_of(model, version, top_k, routing_key, priority)
        self._open()
        options = {"timeout": limit, "metadata": self._metadata}
        service = Service(self._stubs, self.target, self._failure(limit), options)
        return streamed_async(service, batches_async(images, template))

    async def submit_feedback(
        self,
        prediction: str | Recognition,
        *,
        class_id: str | None = None,
        image: Image | None = None,
        image_sha256: str | None = None,
        note: str = "",
        feedback_id: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - a gRPC deadline, which the server sees
    ) -> FeedbackReceipt:
        """See `Client.submit_feedback`. A file is read in a thread."""
        if self._closed:
            raise _closed()
        seconds = _seconds(timeout, self.timeout)
        data = None if image is None else await _read_async(image)
        request = feedback_of(prediction, class_id, data, image_sha256, note, feedback_id)
        self._open()
        stub = self._stubs[next(self._turn) % len(self._stubs)]
        try:
            answer = await stub.SubmitFeedback(request, timeout=seconds, metadata=self._metadata)
        except (asyncio.CancelledError, grpc.RpcError, grpc.aio.UsageError) as error:
            if isinstance(error, asyncio.CancelledError) and (_cancelled() or not self._closed):
                raise
            raise self._failure(seconds)(error) from error
        return FeedbackReceipt(answer.id, answer.created)

    async def close(self) -> None:
        """Closes the connections; calls that are under way fail."""
        self._closed = True
        for channel in self._channels:
            await channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def _failure(self, seconds: float | None) -> Callable[[BaseException], VisionloopError]:
        def failure(error: BaseException) -> VisionloopError:
            if self._closed or not isinstance(error, grpc.RpcError):
                return _closed()
            return error_from(error, _SERVICE, self.target, seconds or 0.0)

        return failure

    def _open(self) -> None:
        if self._channels:
            return
        for _ in range(self._count):
            if self._credentials:
                channel = grpc.aio.secure_channel(self.target, self._credentials, self._options)
            else:
                channel = grpc.aio.insecure_channel(self.target, self._options)
            self._channels.append(channel)
            self._stubs.append(recognition_pb2_grpc.RecognitionStub(channel))


async def _read_async(source: Image) -> bytes:
    if isinstance(source, bytes):
        return source
    return await asyncio.to_thread(read_image, source)


def _check(target: str, timeout: float, channels: int, retries: int) -> None:
    check_target(target, timeout)
    check_retries(retries)
    if channels < 1:
        raise InvalidInputError(f"channels is {channels}; it must be 1 or more", field="channels")


def _seconds(timeout: float | None, default: float) -> float:
    if timeout is None:
        return default
    if not 0 < timeout < float("inf"):
        raise InvalidInputError(
            f"timeout is {timeout}; it must be a number of seconds above 0", field="timeout"
        )
    return timeout


def _closed() -> InvalidInputError:
    return InvalidInputError("the client is closed; make a new one", field="client")


def _cancelled() -> bool:
    """Whether somebody cancelled this task; grpc.aio raises CancelledError on a close as well."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0

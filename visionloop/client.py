"""The client that apps import: encoded images in, labelled and calibrated results out.

    with Client("inference:8001") as client:
        for result in client.recognize(["cell.png", other_image_bytes]):
            print(result.label, result.not_sure, result.error)

`AsyncClient` is the same on asyncio. Both need grpcio and protobuf alone. A call has a deadline, a
bad image costs only its own result, and what goes wrong with the call as a whole is an error of
`visionloop.errors`. Nothing is retried unless `retries` says so: a caller with a deadline of its
own knows better, and a retry under overload makes it worse.
"""

import asyncio
import itertools
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self, TypeAlias

import grpc
import grpc.aio

from visionloop.channels import (
    channel_options,
    check_retries,
    check_target,
    error_from,
)
from visionloop.errors import (
    InvalidInputError,
)
from visionloop.proto.v1 import recognition_pb2 as pb
from visionloop.proto.v1 import recognition_pb2_grpc
from visionloop.recognition_messages import (
    IMAGES_PER_REQUEST,
    Image,
    Recognition,
    ScoredLabel,
    name_of,
    read_image,
    requests_of,
    results_of,
    sources_of,
)

__all__ = [
    "IMAGES_PER_REQUEST",
    "AsyncClient",
    "Client",
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
    again. With `credentials` the connection is TLS, without it is not encrypted.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        channels: int = DEFAULT_CHANNELS,
        retries: int = 0,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        _check(target, timeout, channels, retries)
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
        timeout: float | None = None,
    ) -> list[Recognition]:
        """One result per image, in their order.

        Images are encoded bytes (JPEG, PNG, WebP, BMP, TIFF, GIF) or paths of files to read. Long
        lists are sent as several requests, a few at a time, under one deadline. `model` empty is
        the server's default; `version` is a number, an alias, or empty for stable; `top_k` 0 is all
        classes. Raises NotFoundError for a file, model or version that is not there,
        UnavailableError, OverloadedError, DeadlineExceededError and other errors of
        `visionloop.errors`; an image that the service refuses is no error of the call.
        """
        if self._closed:
            raise _closed()
        seconds = _seconds(timeout, self.timeout)
        deadline = time.monotonic() + seconds
        sources = sources_of(images)
        results: list[Recognition] = []
        waiting: list[tuple[list[str], _Call]] = []
        loaded = ((name_of(n, source), read_image(source)) for n, source in enumerate(sources))
        try:
            for names, request in requests_of(loaded, model, version, top_k):
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
            call: _Call = self._stub().Recognize.future(request, timeout=seconds)
        except ValueError as error:  # what grpc says of a channel that another thread closed
            if self._closed:
                raise _closed() from error
            raise
        return call

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
    ) -> None:
        _check(target, timeout, channels, retries)
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
        timeout: float | None = None,  # noqa: ASYNC109 - a gRPC deadline, which the server sees
    ) -> list[Recognition]:
        """See `Client.recognize`. Files are read in a thread."""
        if self._closed:
            raise _closed()
        seconds = _seconds(timeout, self.timeout)
        deadline = time.monotonic() + seconds
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
                    response = await stub.Recognize(request, timeout=left)
                except (asyncio.CancelledError, grpc.RpcError, grpc.aio.UsageError) as error:
                    if self._closed and not _cancelled():
                        raise _closed() from error
                    if not isinstance(error, grpc.RpcError):
                        raise
                    raise error_from(error, _SERVICE, self.target, seconds) from error
                return results_of(names, response, self.target)

        requests = requests_of(loaded, model, version, top_k)
        tasks = [asyncio.create_task(ask(names, request)) for names, request in requests]
        try:
            return [result for answers in await asyncio.gather(*tasks) for result in answers]
        finally:
            for task in tasks:
                task.cancel()

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

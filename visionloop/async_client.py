"""`AsyncClient`: what `visionloop.client` says, on asyncio. Apps import it from there."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence
from itertools import islice
from types import TracebackType
from typing import Self

import grpc
import grpc.aio

from visionloop.channels import closed, error_from
from visionloop.client_base import (
    DEFAULT_CHANNELS,
    DEFAULT_TARGET,
    DEFAULT_TIMEOUT,
    SERVICE,
    ClientBase,
)
from visionloop.errors import InvalidInputError
from visionloop.proto.v1 import recognition_pb2 as pb
from visionloop.proto.v1 import recognition_pb2_grpc
from visionloop.recognition_messages import (
    IMAGES_PER_REQUEST,
    FeedbackReceipt,
    Image,
    Recognition,
    feedback_of,
    name_of,
    read_image,
    requests_of,
    results_of,
    sources_of,
    template_of,
)
from visionloop.recognition_stream import Service, batches_async, cancelled, streamed_async


class AsyncClient(ClientBase):
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
        server_name: str = "",
    ) -> None:
        super().__init__(target, timeout, channels, retries, token, server_name)
        self._count = channels
        self._credentials = credentials
        # Opened by the first call, because a channel belongs to the loop that is running then.
        self._channels: list[grpc.aio.Channel] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    async def recognize(
        self,
        images: Image | Iterable[Image],
        *,
        model: str = "",
        version: str | int = "",
        top_k: int = 0,
        routing_key: str = "",
        priority: int = 0,
        timeout: float | None = None,  # noqa: ASYNC109 - a gRPC deadline, which the server sees
    ) -> list[Recognition]:
        """See `Client.recognize`. Files are read in a thread, as there is room to send them."""
        self._check_open()
        seconds = self._seconds(timeout)
        deadline = time.monotonic() + seconds
        template = template_of(model, version, top_k, routing_key, priority)
        sources = enumerate(sources_of(images))
        results: list[Recognition] = []
        waiting: list[asyncio.Task[list[Recognition]]] = []
        try:
            while some := list(islice(sources, IMAGES_PER_REQUEST)):
                loaded = [(name_of(n, source), await _read_async(source)) for n, source in some]
                self._open()
                for names, request in requests_of(loaded, template):
                    if len(waiting) == self._count:
                        results += await waiting.pop(0)
                    left = deadline - time.monotonic()
                    waiting.append(asyncio.create_task(self._asked(names, request, left, seconds)))
            while waiting:
                results += await waiting.pop(0)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        return results

    def recognize_stream(
        self,
        images: Image | Iterable[Image] | AsyncIterable[Image],
        *,
        model: str = "",
        version: str | int = "",
        top_k: int = 0,
        routing_key: str = "",
        priority: int = 0,
        timeout: float | None = None,
    ) -> AsyncGenerator[Recognition, None]:
        """See `Client.recognize_stream`; `async for` goes through the results."""
        self._check_open()
        limit = None if timeout is None else self._seconds(timeout)
        template = template_of(model, version, top_k, routing_key, priority)
        self._open()
        options = {"timeout": limit, "metadata": self._metadata}
        service = Service(self._stubs, self.target, self._failure(limit), options)
        sources = images if isinstance(images, AsyncIterable) else sources_of(images)
        return streamed_async(service, batches_async(sources, template))

    async def submit_feedback(
        self,
        prediction: str | Recognition,
        *,
        class_id: str | None = None,
        class_ids: Sequence[str] | None = None,
        image: Image | None = None,
        image_sha256: str | None = None,
        note: str = "",
        feedback_id: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - a gRPC deadline, which the server sees
    ) -> FeedbackReceipt:
        """See `Client.submit_feedback`. A file is read in a thread."""
        self._check_open()
        seconds = self._seconds(timeout)
        data = None if image is None else await _read_async(image)
        request = feedback_of(
            prediction, class_id, class_ids, data, image_sha256, note, feedback_id
        )
        self._open()
        stub = self._stub()
        try:
            answer = await stub.SubmitFeedback(request, timeout=seconds, metadata=self._metadata)
        except (asyncio.CancelledError, grpc.RpcError, grpc.aio.UsageError) as error:
            if isinstance(error, asyncio.CancelledError) and (cancelled() or not self._closed):
                raise
            raise self._failure(seconds)(error) from error
        return FeedbackReceipt.of(answer)

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

    async def _asked(
        self, names: list[str], request: pb.RecognizeRequest, left: float, seconds: float
    ) -> list[Recognition]:
        """The answer to one request, `left` seconds before the call's deadline of `seconds`."""
        try:
            response = await self._stub().Recognize(request, timeout=left, metadata=self._metadata)
        except (asyncio.CancelledError, grpc.RpcError, grpc.aio.UsageError) as error:
            if self._closed and not cancelled():
                raise closed() from error
            if not isinstance(error, grpc.RpcError):
                raise
            raise error_from(error, SERVICE, self.target, seconds) from error
        return results_of(names, response, self.target)

    def _open(self) -> None:
        self._check_open()  # it may have been closed while a file was read
        loop = asyncio.get_running_loop()
        if self._channels:
            if self._loop is not loop:
                raise InvalidInputError(
                    "the client was used in another event loop before, and its connections belong "
                    "to that; make a client in each loop (in each asyncio.run)",
                    field="client",
                )
            return
        self._loop = loop
        for _ in range(self._count):
            if self._credentials:
                channel = grpc.aio.secure_channel(self.target, self._credentials, self._options)
            else:
                channel = grpc.aio.insecure_channel(self.target, self._options)
            self._channels.append(channel)
            self._stubs.append(recognition_pb2_grpc.RecognitionStub(channel))


async def _read_async(source: Image) -> bytes:
    if isinstance(source, bytes):
        return read_image(source)
    return await asyncio.to_thread(read_image, source)

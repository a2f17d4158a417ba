"""Bulk recognition over streams: images by the thousand, results in their order.

Images travel a few to a request, and several requests are under way on every connection, so neither
the network nor the model waits for the other. What cannot be read or recognised is an error of its
own image; only a broken connection ends the work. The price of the order: a result is handed out
when all before it are there, and a slow source of images holds back the last few results until it
goes on. Needs grpcio and protobuf alone.
"""

import asyncio
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import grpc
import grpc.aio

from visionloop.errors import OverloadedError, UnavailableError, VisionloopError
from visionloop.proto.v1 import recognition_pb2 as pb
from visionloop.recognition_messages import (
    Image,
    Recognition,
    error_of,
    name_of,
    read_image,
    results_of,
)

IMAGES = 8  # per request; more make answers late, fewer cost the server's time
BYTES = 4 * 2**20  # per request, unless one image alone has more
WINDOW = 16  # requests under way on one connection, as many as the server works on

END_SECONDS = 5.0  # for a server to end a call after its last answer; ours takes next to no time
ACCEPT_SECONDS = 5.0  # a server of ours says at once that it takes a stream; others may not
# What grpc.aio makes of a call whose server ended it during a write; the server's status is lost.
WRITE_FAILED = "Internal error from Core"

Fail = Callable[[BaseException], VisionloopError]


@dataclass(slots=True)
class Batch:
    """Images that travel together. `unread` holds, by place, those that could not be read."""

    names: list[str]
    unread: dict[int, VisionloopError]
    request: pb.RecognizeRequest

    def results(self, answer: pb.RecognizeStreamResponse | None, target: str) -> list[Recognition]:
        """One per image; `answer` is None when nothing of the batch could be sent."""
        asked = [name for place, name in enumerate(self.names) if place not in self.unread]
        given: Iterator[Recognition] = iter(())
        if answer is not None:
            given = iter(_told(asked, answer, target))
        return [
            Recognition(image_id=name, model="", version=0, error=self.unread[place])
            if place in self.unread
            else next(given)
            for place, name in enumerate(self.names)
        ]


def _told(names: list[str], answer: pb.RecognizeStreamResponse, target: str) -> list[Recognition]:
    error = error_of(answer.status)
    if error is None:
        return results_of(names, answer.response, target)
    if isinstance(error, OverloadedError | UnavailableError):
        error.retry_after_seconds = answer.retry_after_seconds or None
    return [Recognition(image_id=name, model="", version=0, error=error) for name in names]


def batches(images: Iterable[Image], template: pb.RecognizeRequest) -> Iterator[Batch]:
    """The images in their order, read as they are needed."""
    batch, size = _empty(template), 0
    for place, source in enumerate(images):
        data = _read(source)
        length = len(data) if isinstance(data, bytes) else 0
        if len(batch.names) == IMAGES or (batch.names and size + length > BYTES):
            yield batch
            batch, size = _empty(template), 0
        _add(batch, place, source, data)
        size += length
    if batch.names:
        yield batch


async def batches_async(
    images: Iterable[Image] | AsyncIterable[Image], template: pb.RecognizeRequest
) -> AsyncIterator[Batch]:
    """As `batches`; files are read in a thread."""
    batch, size, place = _empty(template), 0, 0
    async for source in _each(images):
        in_memory = isinstance(source, bytes)
        data = _read(source) if in_memory else await asyncio.to_thread(_read, source)
        length = len(data) if isinstance(data, bytes) else 0
        if len(batch.names) == IMAGES or (batch.names and size + length > BYTES):
            yield batch
            batch, size = _empty(template), 0
        _add(batch, place, source, data)
        size += length
        place += 1
    if batch.names:
        yield batch


async def _each(images: Iterable[Image] | AsyncIterable[Image]) -> AsyncIterator[Image]:
    if isinstance(images, AsyncIterable):
        async for image in images:
            yield image
    else:
        for image in images:
            yield image


def _empty(template: pb.RecognizeRequest) -> Batch:
    request = pb.RecognizeRequest()
    request.CopyFrom(template)
    return Batch([], {}, request)


def _read(source: Image) -> bytes | VisionloopError:
    try:
        return read_image(source)
    except VisionloopError as error:
        return error


def _add(batch: Batch, place: int, source: Image, data: bytes | VisionloopError) -> None:
    if isinstance(data, VisionloopError):
        batch.unread[len(batch.names)] = data
    else:
        batch.request.images.add(data=data)
    batch.names.append(name_of(place, source))


@dataclass(frozen=True, slots=True)
class Service:
    """Whom the streams go to: a stub per connection, the options of each call, and how the error
    of a call is told."""

    stubs: Sequence[Any]
    target: str
    fail: Fail
    options: dict[str, Any]

    def ended(self) -> VisionloopError:
        return UnavailableError(
            f"the inference service at {self.target} ended the stream before it had answered "
            "everything; try again"
        )


class _Lane:
    """One call of the synchronous client. gRPC takes requests off the feed in a thread."""

    def __init__(self, service: Service, turn: int) -> None:
        self._service = service
        self._feed: SimpleQueue[pb.RecognizeRequest | None] = SimpleQueue()
        stub = service.stubs[turn]
        try:
            self._call = stub.RecognizeStream(iter(self._feed.get, None), **service.options)
        except ValueError as error:  # what grpc says of a channel that was closed
            raise service.fail(error) from error

    def send(self, request: pb.RecognizeRequest) -> None:
        self._feed.put(request)

    def receive(self) -> pb.RecognizeStreamResponse:
        try:
            answer: pb.RecognizeStreamResponse = next(self._call)
        except StopIteration:
            raise self._service.ended() from None
        except grpc.RpcError as error:
            raise self._service.fail(error) from error
        return answer

    def finish(self) -> None:
        """There are no more requests."""
        self._feed.put(None)

    def wait(self) -> None:
        """Lets the server end the call: one that is cancelled counts as failed there."""
        with suppress(grpc.FutureTimeoutError, grpc.FutureCancelledError):
            self._call.exception(END_SECONDS)

    def close(self) -> None:
        """Ends the call, whatever is under way; after `wait` there is nothing."""
        self._feed.put(None)  # lets the thread go
        self._call.cancel()


def streamed(service: Service, source: Iterable[Batch]) -> Generator[Recognition, None, None]:
    """The results of all batches. Connections are opened as there is work for them."""
    lanes: list[_Lane] = []
    waiting: deque[tuple[_Lane | None, Batch]] = deque()
    count = len(service.stubs)

    def oldest() -> list[Recognition]:
        lane, batch = waiting.popleft()
        return batch.results(lane.receive() if lane else None, service.target)

    try:
        for turn, batch in enumerate(source):
            if len(waiting) >= WINDOW * count:
                yield from oldest()
            lane = None
            if batch.request.images:
                if turn % count >= len(lanes):
                    lanes.append(_Lane(service, len(lanes)))
                lane = lanes[turn % len(lanes)]
                lane.send(batch.request)
            waiting.append((lane, batch))
        while waiting:
            yield from oldest()
        for lane in lanes:
            lane.finish()
        for lane in lanes:
            lane.wait()
    finally:
        for lane in lanes:
            lane.close()


class _AsyncLane:
    """One call of the client on asyncio."""

    def __init__(self, service: Service, turn: int) -> None:
        self._service = service
        self._accepted = False
        try:
            self._call = service.stubs[turn].RecognizeStream(**service.options)
        except grpc.aio.UsageError as error:
            raise service.fail(error) from error

    async def send(self, request: pb.RecognizeRequest | None) -> None:
        """None after the last request. A call that has ended is found out by who receives."""
        with suppress(grpc.RpcError, grpc.aio.UsageError, asyncio.InvalidStateError):
            if not self._accepted:
                # grpc.aio loses the status of a call that is refused while a write is under way,
                # so nothing is written before the server has taken the call.
                with suppress(TimeoutError):
                    async with asyncio.timeout(ACCEPT_SECONDS):
                        await self._call.initial_metadata()
                self._accepted = True
            await (self._call.done_writing() if request is None else self._call.write(request))

    async def receive(self) -> pb.RecognizeStreamResponse:
        try:
            answer: Any = await self._call.read()
        except (asyncio.CancelledError, grpc.RpcError, grpc.aio.UsageError) as error:
            # grpc.aio raises CancelledError also when the channel was closed and nobody was
            # cancelled.
            if isinstance(error, asyncio.CancelledError) and cancelled():
                raise
            if isinstance(error, grpc.aio.AioRpcError) and error.details() == WRITE_FAILED:
                raise self._service.ended() from error
            raise self._service.fail(error) from error
        if answer is grpc.aio.EOF:
            raise self._service.ended()
        received: pb.RecognizeStreamResponse = answer
        return received

    async def wait(self) -> None:
        """Lets the server end the call: one that is cancelled counts as failed there."""
        with suppress(TimeoutError):
            async with asyncio.timeout(END_SECONDS):
                await self._call.code()

    def close(self) -> None:
        self._call.cancel()


async def streamed_async(
    service: Service, source: AsyncIterator[Batch]
) -> AsyncGenerator[Recognition, None]:
    """As `streamed`. A task of its own writes: reading never waits for writing."""
    lanes: list[_AsyncLane] = []
    waiting: asyncio.Queue[tuple[_AsyncLane | None, Batch] | None] = asyncio.Queue()
    count = len(service.stubs)
    room = asyncio.Semaphore(WINDOW * count)

    async def write() -> None:
        try:
            turn = 0
            async for batch in source:
                await room.acquire()
                lane = None
                if batch.request.images:
                    if turn % count >= len(lanes):
                        lanes.append(_AsyncLane(service, len(lanes)))
                    lane = lanes[turn % len(lanes)]
                waiting.put_nowait((lane, batch))
                if lane is not None:
                    await lane.send(batch.request)
                turn += 1
            for lane in lanes:
                await lane.send(None)
        finally:
            waiting.put_nowait(None)

    writer = asyncio.create_task(write())
    try:
        while (oldest := await waiting.get()) is not None:
            lane, batch = oldest
            answer = await lane.receive() if lane is not None else None
            room.release()
            for result in batch.results(answer, service.target):
                yield result
        await writer
        await asyncio.gather(*map(_AsyncLane.wait, lanes))
    finally:
        for lane in lanes:
            lane.close()
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)


def cancelled() -> bool:
    """Whether somebody cancelled this task; grpc.aio raises CancelledError on a close as well."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0

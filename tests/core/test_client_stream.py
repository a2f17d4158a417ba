"""Bulk recognition, feedback and tokens of the clients, against a real gRPC server."""

import asyncio
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest

from visionloop.client import AsyncClient, Client, FeedbackReceipt, Recognition
from visionloop.errors import (
    ConflictError,
    DeadlineExceededError,
    ImageError,
    InvalidInputError,
    NotFoundError,
    OverloadedError,
    UnauthenticatedError,
    UnavailableError,
    VisionloopError,
)
from visionloop.proto.v1 import recognition_pb2 as pb
from visionloop.proto.v1 import recognition_pb2_grpc
from visionloop.recognition_stream import IMAGES, WINDOW


class Servicer(recognition_pb2_grpc.RecognitionServicer):
    """Answers each image by its length; what a test wants otherwise it puts into the fields."""

    def __init__(self) -> None:
        self.requests: list[pb.RecognizeRequest] = []
        self.metadata: list[dict[str, str]] = []
        self.streams = self.ended_well = 0
        self.feedback: list[pb.SubmitFeedbackRequest] = []
        self.before: Callable[[int], None] = lambda _number: None
        self.refuse: dict[int, pb.RecognizeStreamResponse] = {}
        self.end_after: int | None = None
        self.linger: Callable[[], object] = lambda: None  # after the last answer

    def RecognizeStream(
        self, requests: Iterator[pb.RecognizeRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.RecognizeStreamResponse]:
        self.streams += 1
        if dict(context.invocation_metadata()).get("authorization") == "Bearer wrong":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the bearer token is not known")
        context.send_initial_metadata(())
        self.metadata.append(dict(context.invocation_metadata()))
        for number, request in enumerate(requests):
            self.requests.append(request)
            self.before(number)
            if number == self.end_after:
                return
            yield self.refuse.get(number) or pb.RecognizeStreamResponse(
                status=pb.ImageStatus(), response=answered(request)
            )
        self.linger()
        self.ended_well += 1

    def SubmitFeedback(
        self, request: pb.SubmitFeedbackRequest, context: grpc.ServicerContext
    ) -> pb.SubmitFeedbackResponse:
        self.metadata.append(dict(context.invocation_metadata()))
        known = [each.id for each in self.feedback]
        if request.note == "conflict":
            context.abort(grpc.StatusCode.ABORTED, "sent before with other content")
        self.feedback.append(request)
        return pb.SubmitFeedbackResponse(id=request.id, created=request.id not in known)

    def Recognize(
        self, request: pb.RecognizeRequest, context: grpc.ServicerContext
    ) -> pb.RecognizeResponse:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        if dict(context.invocation_metadata()).get("authorization") == "Bearer wrong":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the bearer token is not known")
        return answered(request)


def answered(request: pb.RecognizeRequest) -> pb.RecognizeResponse:
    response = pb.RecognizeResponse(model="cells", version=7)
    for image in request.images:
        result = response.results.add(prediction_id="p")
        if image.data.startswith(b"bad"):
            result.status.code = grpc.StatusCode.INVALID_ARGUMENT.value[0]
            result.status.reason = "truncated"
            result.status.message = "the image is truncated"
        else:
            result.classification.labels.add(class_id="c", name=str(len(image.data)))
    return response


class Service:
    def __init__(self) -> None:
        self.servicer = Servicer()
        self.server = grpc.server(futures.ThreadPoolExecutor(8))
        recognition_pb2_grpc.add_RecognitionServicer_to_server(self.servicer, self.server)
        self.target = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()


@pytest.fixture
def service() -> Iterator[Service]:
    running = Service()
    yield running
    running.server.stop(0).wait()


Ask = Callable[..., list[Recognition]]


def stream_sync(target: str, images: Iterable[Any], channels: int = 1, **call: Any) -> list:
    with Client(target, channels=channels) as client:
        return list(client.recognize_stream(images, **call))


def stream_async(target: str, images: Iterable[Any], channels: int = 1, **call: Any) -> list:
    async def run() -> list[Recognition]:
        async with AsyncClient(target, channels=channels) as client:
            return [result async for result in client.recognize_stream(images, **call)]

    return asyncio.run(run())


def stream_async_from_async(target: str, images: Iterable[Any], channels: int = 1, **call: Any):
    async def each():
        for image in images:
            await asyncio.sleep(0)
            yield image

    async def run() -> list[Recognition]:
        async with AsyncClient(target, channels=channels) as client:
            return [result async for result in client.recognize_stream(each(), **call)]

    return asyncio.run(run())


@pytest.fixture(params=[stream_sync, stream_async, stream_async_from_async])
def ask(request: pytest.FixtureRequest) -> Ask:
    return request.param


def lengths(results: Iterable[Recognition]) -> list[int]:
    return [int(result.label.name) if result.label else 0 for result in results]


def test_a_stream_that_was_answered_whole_is_not_cancelled(service: Service, ask: Ask) -> None:
    """The server would count it as failed, and write a line of its log about it."""
    assert len(ask(service.target, [b"x"] * 5 * IMAGES, channels=2)) == 5 * IMAGES
    assert (service.servicer.streams, service.servicer.ended_well) == (2, 2)


def test_a_server_that_does_not_end_its_stream_is_not_waited_for_long(
    service: Service, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("visionloop.recognition_stream.END_SECONDS", 0.1)
    done = threading.Event()
    service.servicer.linger = lambda: done.wait(20)
    began = time.monotonic()
    try:
        assert len(ask(service.target, [b"x"] * 3)) == 3
        assert time.monotonic() - began < 10
    finally:
        done.set()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [0, 1, IMAGES, 3 * WINDOW * IMAGES + 5])
def test_results_come_in_the_order_of_the_images(
    service: Service, ask: Ask, count: int, channels: int
) -> None:
    images = (b"x" * (n % 97 + 1) for n in range(count))
    results = ask(service.target, images, channels, model="cells", top_k=1, routing_key="me",
                  priority=2)  # fmt: skip
    assert lengths(results) == [n % 97 + 1 for n in range(count)]
    assert [result.image_id for result in results] == [str(n) for n in range(count)]
    assert {(r.model, r.version) for r in results} <= {("cells", 7)}
    for request in service.servicer.requests:
        assert (request.model, request.top_k) == ("cells", 1)
        assert (request.routing_key, request.priority) == ("me", 2)
    assert service.servicer.streams == min(channels, -(-count // IMAGES))


def test_what_is_wrong_with_one_image_stays_with_it(
    service: Service, ask: Ask, tmp_path: Path
) -> None:
    good = tmp_path / "good"
    good.write_bytes(b"12345")
    too_large = bytes(60 * 2**20 + 1)  # sent, it would break the stream
    images = [b"1", b"bad", tmp_path / "missing", good, 7, too_large, *[b"22"] * IMAGES]
    results = ask(service.target, images)
    assert lengths(results) == [1, 0, 0, 5, 0, 0, *[2] * IMAGES]
    kinds = [type(result.error) for result in results[:6]]
    refused = [InvalidInputError, ImageError]
    assert kinds == [type(None), ImageError, NotFoundError, type(None), *refused]
    assert results[2].image_id == str(tmp_path / "missing")


def test_a_batch_in_which_nothing_can_be_read(service: Service, ask: Ask, tmp_path: Path) -> None:
    images = [tmp_path / str(n) for n in range(3 * IMAGES)]
    results = ask(service.target, [*images, b"1"])
    assert [type(result.error) for result in results] == [
        *[NotFoundError] * len(images),
        type(None),
    ]
    assert len(service.servicer.requests) == 1


def test_a_request_that_fails_does_not_end_the_stream(service: Service, ask: Ask) -> None:
    service.servicer.refuse = {
        1: pb.RecognizeStreamResponse(
            status=pb.ImageStatus(code=8, reason="overloaded", message="no room"),
            retry_after_seconds=0.25,
        ),
        2: pb.RecognizeStreamResponse(
            status=pb.ImageStatus(code=3, reason="invalid_input", message="top_k is 2000")
        ),
    }
    results = ask(service.target, [b"x"] * (4 * IMAGES))
    assert lengths(results) == [1] * IMAGES + [0] * 2 * IMAGES + [1] * IMAGES
    refused = results[IMAGES].error
    assert isinstance(refused, OverloadedError)
    assert refused.retry_after_seconds == 0.25
    assert type(results[2 * IMAGES].error) is InvalidInputError


def test_images_are_taken_as_they_are_worked_off(service: Service) -> None:
    taken = 0
    go_on = threading.Semaphore(0)
    service.servicer.before = lambda _number: go_on.acquire() and None

    def images() -> Iterator[bytes]:
        nonlocal taken
        while taken < 100 * WINDOW * IMAGES:
            taken += 1
            yield b"x"

    with Client(service.target, channels=1) as client:
        results = client.recognize_stream(images())
        assert taken == 0  # nothing happens before somebody asks for a result
        for _ in range(3):
            go_on.release()
        for _ in range(2 * IMAGES):
            assert next(results).label
        assert WINDOW * IMAGES <= taken <= (WINDOW + 4) * IMAGES
        for _ in range(1000):
            go_on.release()
        results.close()  # type: ignore[attr-defined]


def test_a_large_image_travels_alone(service: Service, ask: Ask) -> None:
    large = b"x" * 3_000_000
    service.server.stop(0).wait()
    service = Service.__new__(Service)
    service.servicer = Servicer()
    options = [("grpc.max_receive_message_length", 8 * 2**20)]
    service.server = grpc.server(futures.ThreadPoolExecutor(8), options=options)
    recognition_pb2_grpc.add_RecognitionServicer_to_server(service.servicer, service.server)
    service.target = f"127.0.0.1:{service.server.add_insecure_port('127.0.0.1:0')}"
    service.server.start()
    results = ask(service.target, [large] * 4)
    assert lengths(results) == [len(large)] * 4
    assert [len(request.images) for request in service.servicer.requests] == [1, 1, 1, 1]
    service.server.stop(0).wait()


def test_a_broken_connection_is_an_error_of_the_whole(service: Service, ask: Ask) -> None:
    def die(number: int) -> None:
        if number == 2:
            service.server.stop(0).wait(10)

    service.servicer.before = die
    with pytest.raises(UnavailableError):
        ask(service.target, [b"x"] * (10 * IMAGES))


def test_a_stream_that_ends_too_early_is_an_error(service: Service, ask: Ask) -> None:
    service.servicer.end_after = 2
    with pytest.raises(VisionloopError, match="ended the stream before"):
        ask(service.target, [b"x"] * (10 * IMAGES))


@pytest.mark.parametrize("size", [1, 100_000])
def test_a_refused_stream_says_why(service: Service, size: int) -> None:
    images = [b"x" * size] * 1000
    with Client(service.target, token="wrong") as client, pytest.raises(UnauthenticatedError):
        list(client.recognize_stream(images))

    async def run() -> None:
        async with AsyncClient(service.target, token="wrong") as client:
            with pytest.raises(UnauthenticatedError):
                _ = [result async for result in client.recognize_stream(images)]

    for _ in range(5):
        asyncio.run(run())


def test_nobody_there(ask: Ask) -> None:
    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:9 cannot be reached"):
        ask("127.0.0.1:9", [b"x"])


def test_a_deadline_for_the_whole(service: Service, ask: Ask) -> None:
    released = threading.Event()
    service.servicer.before = lambda _number: released.wait(20) and None
    try:
        with pytest.raises(DeadlineExceededError, match=r"within 0\.3 s"):
            ask(service.target, [b"x"] * 20, timeout=0.3)
    finally:
        released.set()


@pytest.mark.parametrize("ask", [stream_sync, stream_async])
def test_one_image_needs_no_list(service: Service, ask: Ask, tmp_path: Path) -> None:
    """The letters of a path, or the numbers of its bytes, are no images."""
    path = tmp_path / "cell.png"
    path.write_bytes(b"12345")
    for image in (path, str(path), b"12345"):
        assert lengths(ask(service.target, image)) == [5]


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_what_is_no_image_and_no_list_fails_at_the_call(service: Service, kind: type) -> None:
    client = kind(service.target)

    async def call() -> None:
        client.recognize_stream(5)

    with pytest.raises(InvalidInputError, match="images is of type int"):
        asyncio.run(call())


@pytest.mark.parametrize("wrong", [{"top_k": -1}, {"priority": -1}, {"timeout": 0}, {"model": 7}])
def test_wrong_arguments_fail_at_the_call(service: Service, wrong: dict[str, Any]) -> None:
    with Client(service.target) as client, pytest.raises(InvalidInputError):
        client.recognize_stream([b"x"], **wrong)


def test_leaving_early_ends_the_call(service: Service) -> None:
    ended = threading.Event()

    def watch(number: int) -> None:
        if number == 0:
            ended.clear()

    service.servicer.before = watch
    threads = threading.active_count()
    with Client(service.target, channels=1) as client:
        for result in client.recognize_stream(b"x" for _ in range(10_000)):
            assert result.label
            break
    assert len(service.servicer.requests) < 100
    deadline = threading.Event()
    for _ in range(1000):
        if threading.active_count() <= threads + 8:  # the server's own eight
            break
        deadline.wait(0.01)
    else:
        raise AssertionError("a thread of the stream lives on")


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_closing_ends_a_stream_in_words(service: Service, kind: type) -> None:
    arrived, done = threading.Event(), threading.Event()

    def hang(_number: int) -> None:
        arrived.set()
        done.wait(20)

    service.servicer.before = hang
    client = kind(service.target)

    async def run() -> None:
        async def collect() -> list[Recognition]:
            return [result async for result in client.recognize_stream([b"x"] * 20)]

        task = asyncio.create_task(collect())
        await asyncio.to_thread(arrived.wait, 20)
        await client.close()
        with pytest.raises(InvalidInputError, match="the client is closed"):
            await task
        with pytest.raises(InvalidInputError, match="the client is closed"):
            client.recognize_stream([b"x"])

    try:
        if kind is AsyncClient:
            asyncio.run(run())
            return
        with futures.ThreadPoolExecutor(1) as pool:
            call = pool.submit(lambda: list(client.recognize_stream([b"x"] * 20)))
            arrived.wait(20)
            client.close()
            with pytest.raises(InvalidInputError, match="the client is closed"):
                call.result(20)
    finally:
        done.set()


def test_an_async_stream_can_be_cancelled(service: Service) -> None:
    arrived, done = threading.Event(), threading.Event()

    def hang(_number: int) -> None:
        arrived.set()
        done.wait(20)

    service.servicer.before = hang

    async def run() -> None:
        async with AsyncClient(service.target) as client:

            async def collect() -> list[Recognition]:
                return [result async for result in client.recognize_stream([b"x"] * 20)]

            task = asyncio.create_task(collect())
            await asyncio.to_thread(arrived.wait, 20)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    try:
        asyncio.run(run())
    finally:
        done.set()


# --- feedback and tokens

Submit = Callable[..., FeedbackReceipt]


def submit_sync(target: str, *arguments: Any, **named: Any) -> FeedbackReceipt:
    with Client(target, token="secret") as client:
        return client.submit_feedback(*arguments, **named)


def submit_async(target: str, *arguments: Any, **named: Any) -> FeedbackReceipt:
    async def run() -> FeedbackReceipt:
        async with AsyncClient(target, token="secret") as client:
            return await client.submit_feedback(*arguments, **named)

    return asyncio.run(run())


@pytest.fixture(params=[submit_sync, submit_async], ids=["sync", "async"])
def submit(request: pytest.FixtureRequest) -> Submit:
    return request.param


def test_feedback_says_what_it_was_told(service: Service, submit: Submit, tmp_path: Path) -> None:
    path = tmp_path / "cell.png"
    path.write_bytes(b"12345")
    result = Recognition(image_id="x", model="cells", version=7, prediction_id="cells:7:p")
    receipt = submit(service.target, result, class_id="crack", image=path, note="hm")
    assert receipt.created
    mine = str(uuid.uuid4())
    submit(service.target, "cells:7:p", image_sha256="ab", feedback_id=mine)
    assert not submit(service.target, "cells:7:p", image_sha256="ab", feedback_id=mine).created
    submit(service.target, "cells:7:p", class_ids=["crack", "dirt"], image_sha256="ab")
    submit(service.target, "cells:7:p", class_ids=[], image_sha256="ab")
    first, second, _, both, none = service.servicer.feedback
    assert list(both.classes.class_ids) == ["crack", "dirt"]
    assert (none.WhichOneof("verdict"), list(none.classes.class_ids)) == ("classes", [])
    assert str(uuid.UUID(first.id)) == first.id == receipt.feedback_id
    assert (first.prediction_id, first.class_id, first.image) == ("cells:7:p", "crack", b"12345")
    assert (first.note, first.wrong) == ("hm", False)
    assert (second.id, second.wrong, second.image_sha256) == (mine, True, "ab")
    assert service.servicer.metadata[0]["authorization"] == "Bearer secret"


def test_feedback_that_cannot_be_sent(service: Service, submit: Submit, tmp_path: Path) -> None:
    for arguments in (
        {},
        {"image": b"x", "image_sha256": "ab"},
        {"image": b"x", "note": 7},
        {"image": b"x", "class_id": "a", "class_ids": ["a"]},
        {"image": b"x", "class_ids": "crack"},
        {"image": b"x", "class_ids": [7]},
    ):
        with pytest.raises(InvalidInputError):
            submit(service.target, "p", **arguments)
    with pytest.raises(NotFoundError):
        submit(service.target, "p", image=tmp_path / "missing")
    assert not service.servicer.feedback
    with pytest.raises(ConflictError, match="sent before with other content"):
        submit(service.target, "p", image=b"x", note="conflict")
    with pytest.raises(UnavailableError):
        submit("127.0.0.1:9", "p", image=b"x")


def test_the_token_goes_with_every_call(service: Service) -> None:
    with Client(service.target, token="secret") as client:
        client.recognize(b"x", routing_key="me", priority=1)
        list(client.recognize_stream([b"x"]))
    assert {m["authorization"] for m in service.servicer.metadata} == {"Bearer secret"}
    assert service.servicer.requests[0].routing_key == "me"
    assert service.servicer.requests[0].priority == 1
    with Client(service.target, token="wrong") as client, pytest.raises(UnauthenticatedError):
        client.recognize(b"x")


@pytest.mark.parametrize("token", ["", "two words", "line\nend", "ünicode"])
def test_tokens_that_no_header_can_hold(token: str) -> None:
    with pytest.raises(InvalidInputError, match="visible ASCII") as caught:
        Client("127.0.0.1:1", token=token)
    assert not token or token not in str(caught.value)

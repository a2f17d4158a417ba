"""What goes wrong between an app and the server, as the clients tell it; deadlines and retries."""

import asyncio
import copy
import pickle
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from support.recognition_service import Ask, Service, ask_async, ask_sync, echo

from visionloop import async_client
from visionloop.client import IMAGES_PER_REQUEST, AsyncClient, Client, Recognition
from visionloop.errors import (
    ConflictError,
    DeadlineExceededError,
    DiskFullError,
    ImageError,
    InvalidInputError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    RefusedError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
    VisionloopError,
)
from visionloop.proto.v1 import recognition_pb2 as pb


@pytest.fixture
def service() -> Iterator[Service]:
    running = Service()
    yield running
    running.server.stop(0).wait()


@pytest.fixture(params=[ask_sync, ask_async], ids=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    return request.param


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidInputError),
        (grpc.StatusCode.NOT_FOUND, NotFoundError),
        (grpc.StatusCode.ABORTED, ConflictError),
        (grpc.StatusCode.FAILED_PRECONDITION, RefusedError),
        (grpc.StatusCode.UNAVAILABLE, UnavailableError),
        (grpc.StatusCode.CANCELLED, UnavailableError),  # by a server that stops
        (grpc.StatusCode.RESOURCE_EXHAUSTED, OverloadedError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceededError),
        (grpc.StatusCode.UNAUTHENTICATED, UnauthenticatedError),
        (grpc.StatusCode.PERMISSION_DENIED, PermissionDeniedError),
        (grpc.StatusCode.UNIMPLEMENTED, UnimplementedError),
        (grpc.StatusCode.INTERNAL, VisionloopError),
        (grpc.StatusCode.UNKNOWN, VisionloopError),
    ],
)
def test_every_status_becomes_its_error(
    service: Service, ask: Ask, code: grpc.StatusCode, kind: type[VisionloopError]
) -> None:
    service.fail(code, "what the server said")
    with pytest.raises(VisionloopError, match="what the server said") as raised:
        ask(service.target, b"x")
    assert type(raised.value) is kind
    assert len(service.servicer.requests) == 1  # nothing is retried unasked


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, OverloadedError),
        (grpc.StatusCode.UNAVAILABLE, UnavailableError),
    ],
)
def test_a_server_without_room_or_runner_tells_when_to_come_back(
    service: Service,
    ask: Ask,
    code: grpc.StatusCode,
    kind: type[OverloadedError | UnavailableError],
) -> None:
    for pushback, seconds in (("1500", 1.5), (None, None)):
        service.fail(code, "not now", pushback=pushback)
        with pytest.raises(kind) as raised:
            ask(service.target, b"x")
        assert raised.value.retry_after_seconds == seconds


def test_a_message_beyond_the_servers_limit_is_no_overload(service: Service, ask: Ask) -> None:
    """gRPC answers it with the code that says come back later, which would not help."""
    service.fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max (9 vs. 8)")
    with pytest.raises(InvalidInputError, match=r"\(9 vs\. 8\).*--max-message-bytes"):
        ask(service.target, b"x")


def test_bytes_that_no_message_holds_are_refused_before_they_are_sent(
    service: Service, ask: Ask
) -> None:
    with pytest.raises(ImageError, match="more than 62,914,560 bytes"):
        ask(service.target, bytes(60 * 2**20 + 1))
    assert service.servicer.requests == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"version": 3.5}, "version is 3.5; it must be a string, as '3'"),
        ({"version": True}, "version is True; it must be a string, as '3'"),
        ({"model": None}, "model is None; it must be a string"),
        ({"top_k": "3"}, "top_k is '3'; it must be 0"),
        ({"top_k": 1.5}, "top_k is 1.5; it must be 0"),
    ],
)
def test_a_value_of_another_type_is_told_by_its_field(wrong: dict[str, Any], said: str) -> None:
    with Client() as client, pytest.raises(InvalidInputError, match=said):
        client.recognize(b"x", **wrong)


def test_a_version_may_be_the_number_that_a_result_tells(service: Service, ask: Ask) -> None:
    (first,) = ask(service.target, b"x")
    ask(service.target, b"x", version=first.version)
    assert [request.version for request in service.servicer.requests] == ["", "7"]


def test_what_is_neither_an_image_nor_a_list_is_told() -> None:
    with Client() as client, pytest.raises(InvalidInputError, match="images is of type int"):
        client.recognize(5)  # type: ignore[arg-type]


def test_a_bug_in_the_server_is_not_the_callers(service: Service, ask: Ask) -> None:
    def bug(*_: object) -> pb.RecognizeResponse:
        raise ZeroDivisionError

    service.servicer.answer = bug
    with pytest.raises(VisionloopError, match="its log says more"):
        ask(service.target, b"x")


def test_nobody_there_names_the_target(ask: Ask) -> None:
    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:9 cannot be reached"):
        ask("127.0.0.1:9", b"x")


def test_a_server_without_tls_is_not_taken_for_one_with_a_wrong_certificate(
    service: Service, ask: Ask
) -> None:
    tls = {"credentials": grpc.ssl_channel_credentials()}
    with pytest.raises(UnavailableError, match="do both sides speak TLS, or neither"):
        ask(service.target, b"x", client=tls)


def test_another_program_at_the_target_is_told(ask: Ask) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with pytest.raises(UnimplementedError, match="right program"):
        ask(f"127.0.0.1:{port}", b"x")
    server.stop(0).wait()


def test_what_the_server_does_not_offer_is_told_in_its_own_words(
    service: Service, ask: Ask
) -> None:
    service.fail(grpc.StatusCode.UNIMPLEMENTED, "model 'm' takes tensors, not images")
    with pytest.raises(UnimplementedError) as raised:
        ask(service.target, b"x")
    assert str(raised.value) == "model 'm' takes tensors, not images"


def test_the_deadline_holds_and_the_server_knows_it(service: Service, ask: Ask) -> None:
    released = threading.Event()

    def hang(*_: object) -> pb.RecognizeResponse:
        released.wait(30)
        return pb.RecognizeResponse()

    service.servicer.answer = hang
    with pytest.raises(DeadlineExceededError, match=r"within 0\.3 s"):
        ask(service.target, b"x", timeout=0.3)
    released.set()
    # gRPC rounds the time left up on its way, so the server may read a little more than was given.
    assert 0 < service.servicer.seconds_left[0] < 0.3 + 0.1


def test_one_deadline_for_all_parts_of_a_long_list(service: Service, ask: Ask) -> None:
    def slow(request: pb.RecognizeRequest, context: grpc.ServicerContext) -> pb.RecognizeResponse:
        time.sleep(0.2)
        return echo(request, context)

    service.servicer.answer = slow
    ask(service.target, [b"x"] * (3 * IMAGES_PER_REQUEST), timeout=5.0, client={"channels": 1})
    left = service.servicer.seconds_left
    assert left[0] > left[1] > left[2]


@pytest.mark.parametrize("size", [3, 3 * 2**20])  # a photograph is larger than what gRPC keeps
def test_calls_are_retried_only_when_that_is_asked_for(
    service: Service, ask: Ask, size: int
) -> None:
    service.fail(grpc.StatusCode.UNAVAILABLE, "draining", times=2)
    (result,) = ask(service.target, b"x" * size, client={"retries": 2})
    assert result.label.name == str(size)
    assert len(service.servicer.requests) == 3


def test_answers_that_do_not_fit_are_an_error(service: Service, ask: Ask) -> None:
    service.servicer.answer = lambda *_: pb.RecognizeResponse()
    with pytest.raises(VisionloopError, match="0 results for 2 images"):
        ask(service.target, [b"x", b"y"])


def test_images_and_values_that_cannot_be_sent_are_told(
    service: Service, ask: Ask, tmp_path: Path
) -> None:
    with pytest.raises(NotFoundError, match=r"no file .*nowhere\.png"):
        ask(service.target, tmp_path / "nowhere.png")
    with pytest.raises(InvalidInputError, match="directory"):
        ask(service.target, str(tmp_path))
    with pytest.raises(InvalidInputError, match="type int"):
        ask(service.target, [3])
    with pytest.raises(InvalidInputError, match="top_k"):
        ask(service.target, b"x", top_k=-1)
    with pytest.raises(InvalidInputError, match="timeout"):
        ask(service.target, b"x", timeout=0)
    assert service.servicer.requests == []


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    "arguments",
    [
        {"target": ""},
        {"target": "http://127.0.0.1:8001"},
        {"target": "grpc://127.0.0.1:8001"},
        {"target": "a b"},
        {"timeout": 0},
        {"timeout": float("nan")},
        {"timeout": "5"},
        {"timeout": None},
        {"channels": 0},
        {"retries": 5},
        {"retries": -1},
    ],
)
def test_a_client_that_could_never_work_is_not_made(
    kind: type, arguments: dict[str, object]
) -> None:
    with pytest.raises(InvalidInputError):
        kind(**{"target": "127.0.0.1:8001", **arguments})


def test_a_closed_client_says_so(service: Service) -> None:
    client = Client(service.target)
    client.close()
    with pytest.raises(InvalidInputError, match="closed"):
        client.recognize(b"x")


@pytest.mark.parametrize(
    "error",
    [
        ImageError("it is cut off", reason="truncated", field="images"),
        InvalidInputError("no", field="top_k"),
        OverloadedError("busy", retry_after_seconds=2.0),
        UnavailableError("away", retry_after_seconds=3.0),
        DiskFullError("cannot write x", "--cache"),
        NotFoundError("nothing there"),
    ],
)
def test_an_error_comes_whole_out_of_another_process(error: VisionloopError) -> None:
    """As that of a result, from a pool of processes that ask for many images."""
    result = Recognition("a.png", "cells", 7, error=error)
    moved = pickle.loads(pickle.dumps(result)).error  # noqa: S301 - our own
    for again in (moved, copy.copy(error)):
        assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))
        assert again.reason == error.reason


@pytest.mark.parametrize("call", ["recognize", "submit_feedback"])
def test_a_client_that_is_closed_while_it_reads_a_file_opens_no_connection(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    async def run() -> None:
        client, loop = AsyncClient(service.target), asyncio.get_running_loop()

        def read(_: object) -> bytes:
            asyncio.run_coroutine_threadsafe(client.close(), loop).result(20)
            return b"x"

        monkeypatch.setattr(async_client, "read_image", read)
        asked = {
            "recognize": lambda: client.recognize(tmp_path),
            "submit_feedback": lambda: client.submit_feedback("id", image=tmp_path),
        }
        with pytest.raises(InvalidInputError, match="the client is closed"):
            await asked[call]()
        assert client._channels == []

    asyncio.run(run())
    assert service.servicer.requests == []


def test_an_asynchronous_client_of_another_loop_says_so(service: Service) -> None:
    client = AsyncClient(service.target)
    assert len(asyncio.run(client.recognize([b"x"]))) == 1
    for call in (
        client.recognize([b"x"]),
        client.submit_feedback("id", class_id="c", image=b"x"),
    ):
        with pytest.raises(InvalidInputError, match="make a client in each loop"):
            asyncio.run(call)


@pytest.mark.parametrize("images", [1, 5 * IMAGES_PER_REQUEST])
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_closing_ends_the_calls_under_way_in_words(
    service: Service, kind: type, images: int
) -> None:
    arrived, done = threading.Event(), threading.Event()

    def hang(request: pb.RecognizeRequest, context: grpc.ServicerContext) -> pb.RecognizeResponse:
        arrived.set()
        done.wait(20)
        return echo(request, context)

    service.servicer.answer = hang
    client = kind(service.target, timeout=20)

    async def run() -> None:
        task = asyncio.create_task(client.recognize([b"x"] * images))
        await asyncio.to_thread(arrived.wait, 20)
        await client.close()
        with pytest.raises(InvalidInputError, match="the client is closed"):
            await task

    try:
        if kind is AsyncClient:
            asyncio.run(run())
            return
        with futures.ThreadPoolExecutor(1) as pool:
            call = pool.submit(client.recognize, [b"x"] * images)
            arrived.wait(20)
            client.close()
            with pytest.raises(InvalidInputError, match="the client is closed"):
                call.result(20)
    finally:
        done.set()


@pytest.mark.parametrize("call", [{"top_k": 2**40}, {"model": "\udcff"}])
def test_what_no_message_can_hold_is_said(service: Service, ask: Ask, call: dict) -> None:
    with pytest.raises(InvalidInputError, match="cannot be sent"):
        ask(service.target, b"x", **call)

"""The clients for apps against a real gRPC server that answers as it is told."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from support.photographs import photograph_path

from visionloop import async_client
from visionloop import client as client_module
from visionloop.client import IMAGES_PER_REQUEST, AsyncClient, Client, Image, Recognition
from visionloop.errors import (
    ConflictError,
    DeadlineExceededError,
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
from visionloop.proto.v1 import recognition_pb2_grpc
from visionloop.recognition_messages import read_image

Answer = Callable[[pb.RecognizeRequest, grpc.ServicerContext], pb.RecognizeResponse]


def echo(request: pb.RecognizeRequest, context: grpc.ServicerContext) -> pb.RecognizeResponse:
    """A result that names its image by its length; images that begin with "bad" are refused."""
    response = pb.RecognizeResponse(model=request.model or "default", version=7)
    for image in request.images:
        result = response.results.add(image_id=image.id)
        if image.data.startswith(b"bad"):
            result.status.code = grpc.StatusCode.INVALID_ARGUMENT.value[0]
            result.status.reason = "truncated"
            result.status.message = "the image is truncated"
            continue
        result.prediction_id = "id"
        result.width, result.height = len(image.data), 2
        best = result.classification
        best.not_sure = True
        best.labels.add(class_id="c1", name=str(len(image.data)), probability=0.75)
        best.labels.add(class_id="c2", name="other", probability=0.25)
    return response


class Servicer(recognition_pb2_grpc.RecognitionServicer):
    def __init__(self) -> None:
        self.answer: Answer = echo
        self.requests: list[pb.RecognizeRequest] = []
        self.peers: list[str] = []
        self.seconds_left: list[float] = []

    def Recognize(
        self, request: pb.RecognizeRequest, context: grpc.ServicerContext
    ) -> pb.RecognizeResponse:
        self.requests.append(request)
        self.peers.append(context.peer())
        self.seconds_left.append(context.time_remaining())
        return self.answer(request, context)


class Service:
    """The running server: its address, and what it was asked."""

    def __init__(self) -> None:
        self.servicer = Servicer()
        self.server = grpc.server(
            futures.ThreadPoolExecutor(8),
            options=[("grpc.max_receive_message_length", 64 * 2**20)],
        )
        recognition_pb2_grpc.add_RecognitionServicer_to_server(self.servicer, self.server)
        self.target = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def fail(
        self,
        code: grpc.StatusCode,
        details: str,
        *,
        times: int = 1_000_000,
        pushback: str | None = None,  # milliseconds
    ) -> None:
        """The next calls are answered by this status."""
        left = [times]

        def answer(
            request: pb.RecognizeRequest, context: grpc.ServicerContext
        ) -> pb.RecognizeResponse:
            if left[0] == 0:
                return echo(request, context)
            left[0] -= 1
            if pushback is not None:
                context.set_trailing_metadata((("grpc-retry-pushback-ms", pushback),))
            context.abort(code, details)
            raise AssertionError

        self.servicer.answer = answer


@pytest.fixture
def service() -> Iterator[Service]:
    running = Service()
    yield running
    running.server.stop(0).wait()


Ask = Callable[..., list[Recognition]]


def ask_sync(target: str, images: object, *, client: dict | None = None, **call: object) -> list:
    with Client(target, **{"timeout": 20.0, **(client or {})}) as made:
        return made.recognize(images, **call)


def ask_async(target: str, images: object, *, client: dict | None = None, **call: object) -> list:
    async def run() -> list[Recognition]:
        async with AsyncClient(target, **{"timeout": 20.0, **(client or {})}) as made:
            return await made.recognize(images, **call)

    return asyncio.run(run())


@pytest.fixture(params=[ask_sync, ask_async], ids=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    return request.param


def test_bytes_and_paths_in_one_list(service: Service, ask: Ask, tmp_path: Path) -> None:
    path = tmp_path / "b.png"
    path.write_bytes(b"12345")
    images: list[Image] = [b"123", str(path), path]
    results = ask(service.target, images, model="cells", version="stable", top_k=2)
    assert [result.label.name for result in results] == ["3", "5", "5"]
    assert [result.image_id for result in results] == ["0", str(path), str(path)]
    first = results[0]
    assert (first.model, first.version, first.prediction_id) == ("cells", 7, "id")
    assert (first.width, first.height, first.not_sure, first.error) == (3, 2, True, None)
    assert [(s.class_id, s.probability) for s in first.labels] == [("c1", 0.75), ("c2", 0.25)]
    (request,) = service.servicer.requests
    assert (request.model, request.version, request.top_k) == ("cells", "stable", 2)


def test_one_image_needs_no_list(service: Service, ask: Ask) -> None:
    photograph = photograph_path("cell")
    size = str(photograph.stat().st_size)
    for image in (photograph, str(photograph), photograph.read_bytes()):
        (result,) = ask(service.target, image)
        assert result.label.name == size


def test_paths_stay_on_this_machine(service: Service, ask: Ask) -> None:
    ask(service.target, photograph_path("cell"))
    assert b"cell0001" not in service.servicer.requests[0].SerializeToString()[:200]
    assert service.servicer.requests[0].images[0].id == ""


def test_a_bad_image_costs_only_its_own_result(service: Service, ask: Ask) -> None:
    good, bad, last = ask(service.target, [b"1", b"bad", b"22"])
    assert (good.label.name, last.label.name) == ("1", "2")
    assert (bad.label, bad.labels) == (None, ())
    assert isinstance(bad.error, ImageError)
    assert bad.error.reason == "truncated"
    assert "truncated" in str(bad.error)


def test_long_lists_are_split_and_keep_their_order(service: Service, ask: Ask) -> None:
    images = [b"x" * (n + 1) for n in range(3 * IMAGES_PER_REQUEST + 5)]
    results = ask(service.target, images, client={"channels": 3})
    assert [result.label.name for result in results] == [str(n + 1) for n in range(len(images))]
    assert [result.image_id for result in results] == [str(n) for n in range(len(images))]
    assert sorted(len(r.images) for r in service.servicer.requests) == [5, 32, 32, 32]


def test_requests_stay_below_the_servers_limit(service: Service, ask: Ask) -> None:
    image = b"x" * (12 * 2**20)
    results = ask(service.target, [image] * 5)
    assert [result.label.name for result in results] == [str(len(image))] * 5
    assert sorted(len(r.images) for r in service.servicer.requests) == [1, 2, 2]


def test_no_images_no_call(service: Service, ask: Ask) -> None:
    assert ask(service.target, []) == []
    assert service.servicer.requests == []


def test_channels_are_connections_of_their_own(service: Service) -> None:
    with Client(service.target, channels=4, timeout=20) as client:
        for _ in range(12):
            client.recognize(b"x")
    assert len(set(service.servicer.peers)) == 4


def test_a_long_list_of_files_is_read_as_it_is_sent(
    service: Service, ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list of ten thousand photographs does not fit into memory."""
    paths = [tmp_path / str(n) for n in range(6 * IMAGES_PER_REQUEST)]
    for n, path in enumerate(paths):
        path.write_bytes(b"x" * (n + 1))
    read: list[object] = []
    at_each_request: list[int] = []

    def counted(source: Image) -> bytes:
        read.append(source)
        return read_image(source)

    def answer(request: pb.RecognizeRequest, context: grpc.ServicerContext) -> pb.RecognizeResponse:
        at_each_request.append(len(read))
        return echo(request, context)

    monkeypatch.setattr(client_module, "read_image", counted)
    monkeypatch.setattr(async_client, "read_image", counted)
    service.servicer.answer = answer
    results = ask(service.target, paths, client={"channels": 1})
    assert [result.label.name for result in results] == [str(n + 1) for n in range(len(paths))]
    assert [result.image_id for result in results] == [str(path) for path in paths]
    for sent, files in enumerate(at_each_request, 1):
        assert files <= (sent + 1) * IMAGES_PER_REQUEST + 1  # those sent, and the next ones


def test_threads_share_a_client(service: Service) -> None:
    results: list[str] = []
    with Client(service.target, timeout=20) as client:

        def work(size: int) -> None:
            results.append(client.recognize(b"x" * size)[0].labels[0].name)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 17)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(results, key=int) == [str(n) for n in range(1, 17)]


# --- what goes wrong


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
        ({"version": 3}, "version is 3; it must be a string, as '3'"),
        ({"model": None}, "model is None; it must be a string"),
        ({"top_k": "3"}, "top_k is '3'; it must be 0"),
        ({"top_k": 1.5}, "top_k is 1.5; it must be 0"),
    ],
)
def test_a_value_of_another_type_is_told_by_its_field(wrong: dict[str, Any], said: str) -> None:
    with Client() as client, pytest.raises(InvalidInputError, match=said):
        client.recognize(b"x", **wrong)


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


def test_another_program_there(ask: Ask) -> None:
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


def test_retries_only_when_asked_for(service: Service, ask: Ask) -> None:
    service.fail(grpc.StatusCode.UNAVAILABLE, "draining", times=2)
    (result,) = ask(service.target, b"xyz", client={"retries": 2})
    assert result.label.name == "3"
    assert len(service.servicer.requests) == 3


def test_answers_that_do_not_fit_are_an_error(service: Service, ask: Ask) -> None:
    service.servicer.answer = lambda *_: pb.RecognizeResponse()
    with pytest.raises(VisionloopError, match="0 results for 2 images"):
        ask(service.target, [b"x", b"y"])


def test_wrong_paths_and_things(service: Service, ask: Ask, tmp_path: Path) -> None:
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
        {"target": "a b"},
        {"timeout": 0},
        {"timeout": float("nan")},
        {"channels": 0},
        {"retries": 5},
        {"retries": -1},
    ],
)
def test_clients_that_could_never_work(kind: type, arguments: dict[str, object]) -> None:
    with pytest.raises(InvalidInputError):
        kind(**{"target": "127.0.0.1:8001", **arguments})


def test_a_closed_client_says_so(service: Service) -> None:
    client = Client(service.target)
    client.close()
    with pytest.raises(InvalidInputError, match="closed"):
        client.recognize(b"x")


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


def test_async_calls_overlap_and_can_be_cancelled(service: Service) -> None:
    together = threading.Barrier(8)

    def answer(request: pb.RecognizeRequest, context: grpc.ServicerContext) -> pb.RecognizeResponse:
        together.wait(20)  # breaks unless all eight calls are here at once
        return echo(request, context)

    async def run() -> None:
        async with AsyncClient(service.target, timeout=20) as client:
            service.servicer.answer = answer
            results = await asyncio.gather(*(client.recognize(b"x" * n) for n in range(1, 9)))
            assert [r[0].label.name for r in results] == [str(n) for n in range(1, 9)]
            cancelled = threading.Event()

            def hang(
                request: pb.RecognizeRequest, context: grpc.ServicerContext
            ) -> pb.RecognizeResponse:
                context.add_callback(cancelled.set)
                cancelled.wait(20)
                return pb.RecognizeResponse()

            service.servicer.answer = hang
            count = len(service.servicer.requests)
            task = asyncio.create_task(client.recognize(b"x"))
            while len(service.servicer.requests) == count:  # noqa: ASYNC110 - another thread's
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(cancelled.wait, 20)

    asyncio.run(run())


def test_the_clients_need_grpcio_and_protobuf_alone() -> None:
    code = """
import sys
for heavy in ("numpy", "PIL", "pydantic", "prometheus_client", "tqdm", "boto3"):
    sys.modules[heavy] = None
import visionloop.client, visionloop.labeling_client, visionloop.prediction_id
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

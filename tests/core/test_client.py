"""The clients for apps against a real gRPC server: what is sent, and what comes back."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from support.photographs import photograph_path
from support.recognition_service import Ask, Service, ask_async, ask_sync, echo
from support.waiting import until

from visionloop import async_client
from visionloop import client as client_module
from visionloop.client import IMAGES_PER_REQUEST, AsyncClient, Client, Image
from visionloop.errors import ImageError
from visionloop.proto.v1 import recognition_pb2 as pb
from visionloop.recognition_messages import read_image


@pytest.fixture
def service() -> Iterator[Service]:
    running = Service()
    yield running
    running.server.stop(0).wait()


@pytest.fixture(params=[ask_sync, ask_async], ids=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    return request.param


def test_bytes_and_paths_may_stand_in_one_list(service: Service, ask: Ask, tmp_path: Path) -> None:
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
    data = photograph.read_bytes()
    for image in (photograph, str(photograph), data, bytearray(data), memoryview(data)):
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


def test_without_images_nothing_is_called(service: Service, ask: Ask) -> None:
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
            await until(lambda: len(service.servicer.requests) > count)
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

"""More work than there is room or time for is refused early; what callers gave up does not run."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
from support.bundles import SIDE, encoded, publish_bundle
from support.inference_server import Server, running_server
from support.waiting import wait_for

from visionloop.client import Client, Recognition
from visionloop.errors import InvalidInputError
from visionloop.proto.inference import open_inference_pb2 as pb
from visionloop.proto.inference import open_inference_pb2_grpc
from visionloop.repository import ModelRepository

LONG, SHORT = 4096, 64  # rows of a request


@pytest.fixture
def slow(tmp_path: Path, repository: ModelRepository, store_of_models: str):
    """A server whose graph takes milliseconds for each row, one row a batch."""
    publish_bundle(repository, seed=1, promote=True, hidden=2048, golden=2, before_ready=1)
    flags = ("--max-batch=1", f"--max-images={LONG}", f"--queue-rows={3 * LONG}")
    with running_server(tmp_path / "server", store_of_models, *flags) as server:
        yield server.ready()


def infer(server: Server, rows: int) -> grpc.Future:
    request = pb.ModelInferRequest(
        model_name="cells",
        inputs=[{"name": "pixels", "datatype": "UINT8", "shape": [rows, SIDE, SIDE, 3]}],
        raw_input_contents=[np.zeros((rows, SIDE, SIDE, 3), np.uint8).tobytes()],
    )
    stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(server.channel)
    return stub.ModelInfer.future(request, timeout=300)


def pushback(error: grpc.RpcError) -> int:
    """Milliseconds."""
    metadata = dict(error.trailing_metadata())
    return int(metadata["grpc-retry-pushback-ms"])


def test_a_full_queue_refuses_and_says_when_to_come_back(slow: Server) -> None:
    work = [infer(slow, LONG) for _ in range(8)]  # there is room for three

    def refused() -> list[grpc.Future]:
        return [call for call in work if call.done() and call.exception() is not None]

    refusals = [call.exception() for call in wait_for(refused, hint="a refusal")]
    assert not all(call.done() for call in work)  # refused while others wait for their answers
    for refusal in refusals:
        assert refusal.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert f"rows are waiting and the limit is {3 * LONG}" in refusal.details()
        assert pushback(refusal) >= 1
    assert slow.metric("visionloop_rejected_total", reason="queue_full") >= 1
    for call in work:
        call.cancel()
    wait_for(
        lambda: slow.metric("visionloop_queue_rows", model="cells") == 0, hint="an empty queue"
    )
    assert slow.recognize(encoded(1)).version == 1


def test_what_would_come_late_is_refused_early(slow: Server) -> None:
    began = time.monotonic()
    infer(slow, LONG).result()
    one = time.monotonic() - began
    work = [infer(slow, LONG) for _ in range(2)]
    wait_for(
        lambda: slow.metric("visionloop_queue_rows", model="cells") == 2 * LONG,
        hint="a long queue",
    )
    with pytest.raises(grpc.RpcError) as refusal:
        slow.recognize(encoded(1), timeout=one / 2)  # more than one is ahead
    assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "the answer is predicted in" in refusal.value.details()
    assert pushback(refusal.value) >= 1
    assert slow.metric("visionloop_rejected_total", reason="late") == 1
    for call in work:
        call.cancel()


def test_rows_of_callers_who_left_do_not_run(slow: Server) -> None:
    long = infer(slow, LONG)
    wait_for(lambda: slow.metric("visionloop_queue_rows", model="cells") == LONG)
    rest = [infer(slow, SHORT) for _ in range(6)]
    wait_for(lambda: slow.metric("visionloop_queue_rows", model="cells") == LONG + 6 * SHORT)
    for call in rest:
        call.cancel()
    long.result()
    slow.recognize(encoded(1))  # behind the cancelled ones in the queue
    assert slow.metric("visionloop_rejected_total", reason="cancelled") == 6
    # All that ran for callers: the long request, and this one.
    assert slow.metric("visionloop_batch_rows_sum", model="cells") == LONG + 1


def test_messages_over_the_limit_are_refused(
    tmp_path: Path, repository: ModelRepository, store_of_models: str
) -> None:
    publish_bundle(repository, seed=1, promote=True)
    flags = ("--max-message-bytes=100000",)
    with running_server(tmp_path / "server", store_of_models, *flags) as server:
        server.ready()
        with pytest.raises(grpc.RpcError) as refusal:
            server.recognize(bytes(200_000))
        assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert server.recognize(encoded(1)).version == 1


def test_bytes_held_are_bounded(
    tmp_path: Path, repository: ModelRepository, store_of_models: str
) -> None:
    publish_bundle(repository, seed=1, promote=True)
    image = encoded(1)
    flags = (f"--queue-bytes={len(image) // 2}",)
    with running_server(tmp_path / "server", store_of_models, *flags) as server:
        server.ready()
        with pytest.raises(grpc.RpcError) as refusal:
            server.recognize(image)
        assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT  # it never has room
        assert f"{len(image) // 2} bytes (--queue-bytes)" in refusal.value.details()
        with Client(server.target) as client:  # a stream does not wait for it, or try it again
            [result] = client.recognize_stream([image])
        assert isinstance(result.error, InvalidInputError)
        url = f"http://{server.address('http')}/v1/recognize"
        assert httpx.post(url, content=image, timeout=30).status_code == 413
        with ThreadPoolExecutor(4) as pool:  # the room comes back after each refusal
            for call in [pool.submit(server.recognize, b"tiny") for _ in range(20)]:
                assert call.result().results[0].status.reason == "not_an_image"


def test_a_bulk_client_leaves_room_for_single_calls(
    tmp_path: Path, repository: ModelRepository, store_of_models: str
) -> None:
    """With the defaults of both: two connections with 16 requests of 8 images, and 256 rows."""
    publish_bundle(repository, seed=1, promote=True, hidden=2048, golden=2, before_ready=1)
    images = [encoded(number) for number in range(8)]
    enough = threading.Event()

    def endless() -> Iterator[bytes]:
        while not enough.is_set():
            yield from images

    def bulk(target: str) -> list[Recognition]:
        with Client(target) as client:
            return list(client.recognize_stream(endless()))

    with (
        running_server(tmp_path / "server", store_of_models, "--max-batch=1") as server,
        ThreadPoolExecutor(1) as pool,
    ):
        server.ready()
        stream = pool.submit(bulk, server.target)
        try:
            held = [
                wait_for(
                    lambda: server.metric("visionloop_queue_rows", model="cells") > 100,
                    hint="a bulk client that fills its share",
                )
            ]
            for number in range(30):
                assert server.recognize(images[number % 8]).version == 1
                held.append(server.metric("visionloop_queue_rows", model="cells"))
        finally:
            enough.set()
        assert max(held) <= 128 + 1
        results = stream.result()
        assert {result.error for result in results} == {None}
        assert len(results) > 128  # what held it back did not stop it
        for reason in ("queue_full", "low_priority", "late", "bytes"):
            assert server.metric("visionloop_rejected_total", reason=reason) == 0

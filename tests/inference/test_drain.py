"""The end of a server: nobody notices."""

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from support.bundles import SIDE, encoded, publish_bundle
from support.inference_server import running_server
from support.waiting import wait_for

from visionloop.proto.inference import open_inference_pb2 as pb
from visionloop.proto.inference import open_inference_pb2_grpc
from visionloop.repository import ModelRepository

LOAD = Path(__file__).with_name("load.py")


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)]
)
def test_under_load_no_request_fails(
    tmp_path: Path, repository: ModelRepository, store_of_models: str, number: signal.Signals
) -> None:
    publish_bundle(repository, seed=1, promote=True)
    image = tmp_path / "image.jpg"
    image.write_bytes(encoded(1))
    with running_server(tmp_path / "server", store_of_models) as server:
        server.ready()
        app = subprocess.Popen(
            [sys.executable, str(LOAD), server.target, "100", str(image)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert app.stdout is not None
        assert app.stdout.readline() == "under way\n"
        server.process.send_signal(number)
        output, _ = app.communicate(timeout=60)
        assert server.process.wait(timeout=60) == 0
    report = json.loads(output)
    assert report["failures"] == []
    assert report["answered"] == report["sent"] >= 10


def test_a_stream_in_which_nothing_is_asked_holds_nothing_up(
    tmp_path: Path, repository: ModelRepository, store_of_models: str
) -> None:
    publish_bundle(repository, seed=1, promote=True)
    # Were the stream waited for, the end would take longer than anybody here waits.
    with running_server(tmp_path / "server", store_of_models, "--drain-seconds=300") as server:
        server.ready()
        stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(server.channel)
        done = threading.Event()

        def requests() -> Iterator[pb.ModelInferRequest]:
            yield slow_request(1)
            done.wait(120)

        answers = stub.ModelStreamInfer(requests())
        assert next(answers).infer_response.model_name == "cells"
        # A stream's answer is out before its sender counts it as done.
        wait_for(lambda: server.metric("visionloop_inflight_requests") == 0)
        assert server.terminate() == 0
        done.set()
        with pytest.raises(grpc.RpcError) as broken:
            next(answers)
        assert broken.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def slow_request(rows: int) -> pb.ModelInferRequest:
    """Rows of pixels that take the graph a while."""
    return pb.ModelInferRequest(
        model_name="cells",
        inputs=[{"name": "pixels", "datatype": "UINT8", "shape": [rows, SIDE, SIDE, 3]}],
        raw_input_contents=[np.zeros((rows, SIDE, SIDE, 3), np.uint8).tobytes()],
    )


@pytest.mark.parametrize("signals", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_request_under_way_is_answered(
    tmp_path: Path, repository: ModelRepository, store_of_models: str, signals: int
) -> None:
    publish_bundle(repository, seed=1, promote=True, hidden=2048, golden=2, before_ready=1)
    flags = ("--max-batch=1", "--max-images=4096", "--queue-rows=4096")
    with running_server(tmp_path / "server", store_of_models, *flags) as server:
        server.ready()
        stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(server.channel)
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(stub.ModelInfer, slow_request(4096), timeout=60)
            wait_for(
                lambda: server.metric("visionloop_queue_rows", model="cells") == 4096,
                hint="the request in the queue",
            )
            for _ in range(signals):  # the second skips the quiet, never an answer
                server.process.send_signal(signal.SIGTERM)
            assert list(answer.result().outputs[0].shape) == [4096, 3]
        assert server.process.wait(timeout=60) == 0


def test_not_ready_is_said_first_and_served_on(
    tmp_path: Path, repository: ModelRepository, store_of_models: str
) -> None:
    publish_bundle(repository, seed=1, promote=True)
    flags = ("--drain-quiet-seconds=10", "--drain-seconds=60")
    with running_server(tmp_path / "server", store_of_models, *flags) as server:
        server.ready().recognize(encoded(1))
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: server.get("/readyz") == (503, "not ready: draining\n"), hint="503")
        assert server.get("/healthz")[0] == 200
        assert server.recognize(encoded(1)).version == 1
        server.process.send_signal(signal.SIGTERM)  # enough
        assert server.process.wait(timeout=60) == 0


def test_an_idle_http_connection_holds_nothing_up(tmp_path: Path, store_of_models: str) -> None:
    with running_server(tmp_path / "server", store_of_models) as server:
        host, _, port = server._addresses["http"].rpartition(":")
        with socket.create_connection((host, int(port)), timeout=10) as idle:
            idle.sendall(b"GET /hea")
            assert server.get("/healthz")[0] == 200  # so it was accepted
            assert server.terminate() == 0
            assert idle.recv(1) == b""
    assert "Traceback" not in server.text()


def test_without_a_model_it_ends_as_well(tmp_path: Path, store_of_models: str) -> None:
    with running_server(tmp_path / "server", store_of_models) as server:
        assert server.terminate() == 0

"""Start, health, reflection, HTTP: the server as operators see it."""

import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from support.bundles import encoded, promote_version, publish_bundle
from support.inference_server import Server, running_server
from support.waiting import wait_for

from visionloop.bundle import ClassificationBundle
from visionloop.repository import ModelRepository

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def check(server: Server, name: str) -> int:
    stub = health_pb2_grpc.HealthStub(server.channel)
    return stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10).status


class Watch:
    """What a Watch tells, in order."""

    def __init__(self, server: Server, name: str) -> None:
        self._call = health_pb2_grpc.HealthStub(server.channel).Watch(
            health_pb2.HealthCheckRequest(service=name)
        )
        self._told: queue.Queue[int] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        try:
            for response in self._call:
                self._told.put(response.status)
        except grpc.RpcError:
            pass

    def next(self) -> int:
        return self._told.get(timeout=60)

    def cancel(self) -> None:
        self._call.cancel()


@pytest.mark.parametrize(
    "name",
    ["", "cells", "visionloop.v1.Recognition", "inference.GRPCInferenceService"],
)
def test_health_of_what_serves(server: Server, name: str) -> None:
    assert check(server, name) == SERVING


def test_health_of_what_nobody_knows(server: Server) -> None:
    with pytest.raises(grpc.RpcError) as refusal:
        check(server, "dogs")
    assert refusal.value.code() is grpc.StatusCode.NOT_FOUND
    watch = Watch(server, "dogs")
    assert watch.next() == UNKNOWN
    watch.cancel()


def test_health_does_not_send_a_long_name_back(server: Server) -> None:
    with pytest.raises(grpc.RpcError) as refusal:
        check(server, "x" * 2**20)
    assert refusal.value.code() is grpc.StatusCode.NOT_FOUND
    assert len(refusal.value.details()) < 500


def reflected(
    server: Server, version: str, *requests: reflection_pb2.ServerReflectionRequest
) -> Iterator[reflection_pb2.ServerReflectionResponse]:
    ask = server.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    return ask(iter(requests), timeout=10)


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_lists_and_describes_every_service(server: Server, version: str) -> None:
    [answer] = reflected(server, version, reflection_pb2.ServerReflectionRequest(list_services=""))
    names = {service.name for service in answer.list_services_response.service}
    assert names >= {
        "visionloop.v1.Recognition",
        "inference.GRPCInferenceService",
        "grpc.health.v1.Health",
    }
    for name in names:
        [described] = reflected(
            server, version, reflection_pb2.ServerReflectionRequest(file_containing_symbol=name)
        )
        files = [
            descriptor_pb2.FileDescriptorProto.FromString(data)
            for data in described.file_descriptor_response.file_descriptor_proto
        ]
        assert name in {f"{f.package}.{s.name}" for f in files for s in f.service}


def test_reflection_knows_the_inference_messages(server: Server) -> None:
    [described] = reflected(
        server,
        "v1alpha",
        reflection_pb2.ServerReflectionRequest(
            file_containing_symbol="inference.ModelInferRequest"
        ),
    )
    assert described.file_descriptor_response.file_descriptor_proto
    assert reflection_pb2_grpc  # the older name is the one this library ships


@pytest.mark.parametrize("name", ["x" * 200_000, "é\n" * 5_000])
def test_an_error_that_quotes_a_long_request_still_reaches_its_caller(
    server: Server, name: str
) -> None:
    with pytest.raises(grpc.RpcError) as refusal:
        server.recognize(encoded(1), model=name)
    assert refusal.value.code() is grpc.StatusCode.NOT_FOUND
    assert refusal.value.details().startswith(f"model '{name[0]}")
    assert len(refusal.value.details()) < 500


def test_http(server: Server) -> None:
    assert server.get("/healthz") == (200, "alive\n")
    assert server.get("/readyz") == (200, "ready\n")
    assert server.get("/")[0] == 404
    assert server.metric("visionloop_model_info", model="cells", version="1", alias="stable") == 1


def test_http_survives_nonsense(server: Server) -> None:
    host, _, port = server._addresses["http"].rpartition(":")
    for nonsense in (b"\x00\xff\r\n\r\n", b"POST / HTTP/1.1\r\n\r\n", b"G" * 20_000, b"GET /"):
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(nonsense)
            connection.shutdown(socket.SHUT_WR)
            try:
                while connection.recv(4096):
                    pass
            except ConnectionResetError:
                pass
    assert server.get("/healthz")[0] == 200


def test_metrics_count_requests_and_refused_images(server: Server) -> None:
    def counts() -> tuple[float, float, float, float]:
        return (
            server.metric("visionloop_request_duration_seconds_count", model="cells"),
            server.metric("visionloop_image_errors_total", reason="empty"),
            server.metric("grpc_server_handled_total", grpc_method="Recognize", grpc_code="OK"),
            sum(
                server.metric("visionloop_predictions_total", model="cells", confidence=confidence)
                for confidence in ("sure", "not_sure")
            ),
        )

    before = counts()
    image = encoded(7)
    server.recognize(image, b"")
    after = counts()
    assert [b - a for a, b in zip(before, after, strict=True)][:3] == [1, 1, 1]


def test_no_model_yet_then_the_first_one(
    tmp_path: Path, repository: ModelRepository, store_of_models: str
) -> None:
    with running_server(tmp_path / "server", store_of_models) as server:
        assert server.get("/healthz")[0] == 200
        status, reason = server.get("/readyz")
        assert status == 503
        assert "no model has a stable version yet" in reason
        assert check(server, "") == NOT_SERVING
        watches = [Watch(server, ""), Watch(server, "")]
        assert [watch.next() for watch in watches] == [NOT_SERVING] * 2
        with pytest.raises(grpc.RpcError) as refusal:
            server.recognize(encoded(1))
        assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "no model has a stable version yet" in refusal.value.details()

        publish_bundle(repository, seed=1)  # published, not promoted: nothing changes
        watches.pop().cancel()  # one watcher leaves; the other must still be told
        promote_version(repository, 1)
        assert watches[0].next() == SERVING
        assert server.recognize(encoded(1)).version == 1
        assert server.get("/readyz")[0] == 200


def test_two_models_need_a_name(
    tmp_path: Path, repository: ModelRepository, store_of_models: str
) -> None:
    publish_bundle(repository, "cells", seed=1, promote=True)
    publish_bundle(repository, "dogs", seed=2, promote=True)
    publish_bundle(repository, "drafts", seed=3)  # no alias: not served, not missed
    with running_server(tmp_path / "server", store_of_models) as server:
        server.ready()
        assert server.recognize(encoded(1), model="dogs").model == "dogs"
        assert server.recognize(encoded(1), model="cells").model == "cells"
        with pytest.raises(grpc.RpcError) as refusal:
            server.recognize(encoded(1))
        assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert refusal.value.details() == (
            "model is empty, and several are served: cells, dogs; name one"
        )
        with pytest.raises(grpc.RpcError) as refusal:
            server.recognize(encoded(1), model="drafts")
        assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "no stable version yet" in refusal.value.details()


def test_named_models_are_all_needed(
    tmp_path: Path, repository: ModelRepository, store_of_models: str
) -> None:
    publish_bundle(repository, "cells", seed=1, promote=True)
    publish_bundle(repository, "dogs", seed=2, promote=True)
    publish_bundle(repository, "others", seed=2, promote=True)
    flags = ("--models=dogs,missing",)
    with running_server(tmp_path / "server", store_of_models, *flags) as server:
        server.serves(1)
        assert server.get("/readyz")[0] == 503
        assert server.recognize(encoded(1)).model == "dogs"  # the first named is the default
        with pytest.raises(grpc.RpcError) as refusal:
            server.recognize(encoded(1), model="others")
        assert refusal.value.code() is grpc.StatusCode.NOT_FOUND
        publish_bundle(repository, "missing", seed=2, promote=True)
        server.ready()


def test_a_store_that_goes_away_changes_nothing_for_what_serves(
    tmp_path: Path, repository: ModelRepository, store_of_models: str
) -> None:
    publish_bundle(repository, seed=1, promote=True)
    with running_server(tmp_path / "server", store_of_models) as server:
        server.ready()
        aliases = tmp_path / "models-store/models/cells/aliases.json"
        whole = aliases.read_text()
        aliases.write_text("{torn")
        wait_for(
            lambda: server.metric("visionloop_store_errors_total", reason="corrupt") >= 2,
            hint="two failed looks",
        )
        assert server.recognize(encoded(1)).version == 1
        assert server.get("/readyz")[0] == 200
        publish_bundle(repository, seed=2)
        aliases.write_text(whole)
        promote_version(repository, 2)
        server.serves(2)


def run(*flags: str) -> tuple[int, str]:
    """The exit code and stderr of a server that does not start."""
    done = subprocess.run(
        [sys.executable, "-m", "visionloop_inference", "--port=0", "--http-port=0", *flags],
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        ((), 64, "--store"),
        pytest.param(
            ("--store=gopher://x",),
            64,
            "is not a store; write file:///folder or s3://",
            marks=pytest.mark.long,
        ),
        pytest.param(
            ("--store=/tmp/x",), 64, "is a path; write file:///tmp/x", marks=pytest.mark.long
        ),
        (("--store=file:///dev/null/x",), 64, "a file is in the way"),
        pytest.param(
            ("--store=file:///tmp", "--host=192.0.2.1"),
            64,
            "add --insecure",
            marks=pytest.mark.long,
        ),
        (("--store=file:///tmp", "--host=192.0.2.1", "--insecure"), 64, "cannot listen"),
        (
            ("--store=file:///tmp", "--cache=/dev/null/x"),
            64,
            "--cache /dev/null/x cannot be made or written",
        ),
    ],
)
def test_a_start_that_cannot_work_is_one_line(
    flags: tuple[str, ...], code: int, words: str
) -> None:
    found, text = run(*flags)
    assert words in text
    assert "Traceback" not in text
    assert found == code


def test_an_unreachable_store_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        found, text = run("--store=s3://bucket/prefix")
    assert found == 69, text
    assert "Traceback" not in text
    assert "bucket" in text


def test_a_taken_port_is_said(server: Server, one_model: tuple[str, ClassificationBundle]) -> None:
    port = server.target.rpartition(":")[2]
    found, text = run(f"--store={one_model[0]}", f"--port={port}")
    assert found == 64
    assert f"cannot listen on 127.0.0.1:{port}" in text


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "the store holds no model yet; is --store the right one?"),
        (("--models=dogs,cats",), "the store holds no version of dogs; it has cats"),
    ],
)
def test_what_is_missing_from_the_store_is_said(
    tmp_path: Path,
    repository: ModelRepository,
    store_of_models: str,
    flags: tuple[str, ...],
    words: str,
) -> None:
    if flags:
        publish_bundle(repository, "cats", seed=1, promote=True)
    with running_server(tmp_path / "server", store_of_models, *flags) as server:
        wait_for(lambda: words in server.text(), hint=words)
        assert "never retrieved" not in server.text()


@pytest.mark.parametrize("host", [pytest.param("::1", marks=pytest.mark.long), "[::1]"])
def test_it_listens_on_ipv6(host: str, tmp_path: Path) -> None:
    """As in a cluster whose pods have no other addresses."""
    with running_server(tmp_path, f"file://{tmp_path}/store", f"--host={host}") as running:
        assert running.listening().target.startswith("[::1]:")
        assert check(running, "") == NOT_SERVING  # for want of a model
        assert running.get("/healthz")[0] == 200

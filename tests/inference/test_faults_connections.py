"""Connections that mean no good, or nothing: others are served, and everything is given back."""

import contextlib
import random
import resource
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.bundles import encoded, publish_bundle
from support.inference_server import Server, running_server
from support.process_tree import descriptors, running
from support.tcp_clients import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    connect,
    connected,
    frame,
    headers,
    message,
)
from support.waiting import wait_for

from visionloop.objectstore import open_store
from visionloop.proto.inference import open_inference_pb2 as pb
from visionloop.repository import ModelRepository
from visionloop_inference import open_streams

IMAGE = encoded(9)
LIVE = "/inference.GRPCInferenceService/ServerLive"
METADATA = "/inference.GRPCInferenceService/ModelMetadata"
WATCH = "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
INFER = "/inference.GRPCInferenceService/ModelInfer"
FRONT_END = "visionloop_inference.front_end"
IDLE = 1000
MEBIBYTE = 2**20
# What a heap of small pieces needs to come to rest, which takes it tens of thousands of calls.
ROOM = 24 * MEBIBYTE


@pytest.fixture(scope="module", autouse=True)
def many_descriptors() -> Iterator[None]:
    """Our side of a thousand connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("connections")
    url = f"file://{folder}/store"
    publish_bundle(ModelRepository(open_store(url)), seed=1, promote=True)
    with running_server(folder / "server", url, "--front-ends=1") as running_one:
        yield running_one.ready()


def front_end(server: Server) -> int:
    [pid] = running(server.process.pid, FRONT_END)
    return pid


def memory(pid: int) -> int:
    """Bytes that are this process's own."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(
        int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Private_")
    )


def serves(server: Server, times: int = 3) -> None:
    """Others get their answers."""
    for _ in range(times):
        assert server.recognize(IMAGE, timeout=20.0).version == 1


def check_flat(server: Server, misbehave: Callable[[Server], None], rounds: int) -> None:
    """After the first times, which fill what is kept for good, as many more take nothing more."""
    pid = front_end(server)
    serves(server)
    idle = descriptors(pid)
    for _ in range(rounds):
        misbehave(server)
    settled(pid, idle)
    serves(server)
    before = memory(pid)
    for _ in range(rounds):
        misbehave(server)
    settled(pid, idle)
    serves(server)
    assert front_end(server) == pid  # it has not died and come back
    assert memory(pid) - before < ROOM
    wait_for(lambda: server.metric("visionloop_inflight_requests") == 0)


def settled(pid: int, idle: int) -> None:
    wait_for(
        lambda: descriptors(pid) <= idle,
        hint=f"{idle} descriptors in place of {descriptors(pid)}",
        patience=30,
    )


def a_preface_byte_by_byte(server: Server) -> None:
    clients = [connect(server.target) for _ in range(40)]
    for byte in PREFACE + frame(SETTINGS):
        for client in clients:
            client.send(bytes([byte]))
    serves(server)
    for client in clients:
        client.socket.close()


def a_request_byte_by_byte(server: Server) -> None:
    asked = pb.ModelMetadataRequest(name="cells").SerializeToString()
    with connected(server.target) as client:
        client.begin()
        call = frame(HEADERS, headers(METADATA), flags=END_HEADERS, stream=1)
        call += frame(DATA, message(asked), flags=1, stream=1)
        for byte in call:
            client.send(bytes([byte]))
        serves(server, 1)
        received = b""
        while b"pixels" not in received:  # slow is not wrong: it is answered
            part = client.socket.recv(65536)
            assert part
            received += part


def answers_that_nobody_reads(server: Server) -> None:
    asked = message(pb.ModelMetadataRequest(name="cells").SerializeToString())
    with ExitStack() as stack:
        for window in (0, 1, 65535):
            client = stack.enter_context(connected(server.target, receive_bytes=2048))
            client.begin(window=window)
            client.socket.settimeout(1.0)
            with contextlib.suppress(TimeoutError):  # it need not take more from us, either
                for stream in range(1, 161, 2):
                    client.call(stream, METADATA, asked)
        serves(server)


def requests_that_never_end(server: Server) -> None:
    with ExitStack() as stack:
        for _ in range(20):
            client = stack.enter_context(connected(server.target))
            client.begin()
            for stream in (1, 3, 5):
                client.call(stream, INFER, message(b"\x0a\x05cells", 10_000_000), end=False)
        serves(server)


def messages_that_claim_to_be_huge(server: Server) -> None:
    for claimed in (2**32 - 1, 2**31, 65 * MEBIBYTE):
        with connected(server.target) as client:
            client.begin()
            client.call(1, INFER, message(bytes(1000), claimed), end=False)
            serves(server, 1)


def half_open_connections(server: Server) -> None:
    clients = [connect(server.target) for _ in range(30)]
    for index, client in enumerate(clients):
        if index % 3:
            client.begin()
        if index % 3 == 2:
            client.call(1, INFER, message(b"", 100), end=False)
        client.socket.shutdown(1)  # we send no more, and stay
    serves(server)
    for index, client in enumerate(clients):
        if index % 2:
            client.reset()
        else:
            client.socket.close()


def floods(server: Server) -> None:
    def flood() -> None:
        for index in range(150):
            client = connect(server.target)
            if index % 2:
                client.begin()
                client.call(1, LIVE, message(b""))
            client.reset()

    threads = [threading.Thread(target=flood) for _ in range(4)]
    for thread in threads:
        thread.start()
    serves(server)
    for thread in threads:
        thread.join()


def streams_reset_at_once(server: Server) -> None:
    """ "Rapid reset": requests that are given up before they are answered."""
    with connected(server.target) as client:
        client.begin()
        for stream in range(1, 2001, 2):
            client.call(stream, LIVE, message(b""))
            client.send(frame(RST_STREAM, struct.pack(">I", 8), stream=stream))
        serves(server)


def garbage(server: Server) -> None:
    chance = random.Random(3)
    beginnings = (
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        bytes.fromhex("16030102000100"),  # the beginning of a TLS hello
        b"\xff" * 100,
        bytes(100),
        PREFACE[:-1] + b"?",
        PREFACE + frame(SETTINGS) + b"\xff\xff\xff" + bytes(6),
        PREFACE + frame(SETTINGS) + frame(HEADERS, chance.randbytes(200), flags=4, stream=1),
        PREFACE + frame(SETTINGS) + frame(HEADERS, b"\x3f" + b"\xff" * 50, flags=4, stream=1),
        PREFACE + frame(SETTINGS) + frame(DATA, b"x", stream=7),
        PREFACE + frame(SETTINGS) + frame(CONTINUATION, b"x", stream=1),
        PREFACE + frame(SETTINGS) + frame(WINDOW_UPDATE, b"\0\0\0\0"),
        PREFACE + frame(SETTINGS) + frame(GOAWAY, bytes(8)),
        PREFACE + frame(SETTINGS) + frame(PING, bytes(8)) * 500,
        PREFACE + frame(SETTINGS) * 500,
        *(PREFACE + chance.randbytes(300) for _ in range(20)),
        *(chance.randbytes(300) for _ in range(20)),
    )
    for data in beginnings:
        with connected(server.target) as client:
            client.send(data)
    serves(server)


@pytest.mark.parametrize(
    "misbehave",
    [
        pytest.param(a_preface_byte_by_byte, marks=pytest.mark.long),
        a_request_byte_by_byte,
        answers_that_nobody_reads,
        requests_that_never_end,
        messages_that_claim_to_be_huge,
        half_open_connections,
        floods,
        pytest.param(streams_reset_at_once, marks=pytest.mark.long),
        garbage,
    ],
)
def test_others_are_served_and_nothing_is_kept(
    server: Server, misbehave: Callable[[Server], None]
) -> None:
    check_flat(server, misbehave, rounds=15 if misbehave is streams_reset_at_once else 4)


def test_a_thousand_idle_connections(server: Server) -> None:
    serves(server)  # whoever comes first opens what stays open
    pid = front_end(server)
    idle = descriptors(pid)
    before = memory(pid)
    with ExitStack() as stack:
        for index in range(IDLE):
            client = stack.enter_context(connected(server.target))
            if index % 2:
                client.begin()
        wait_for(lambda: descriptors(pid) >= idle + IDLE, hint="a thousand connections")
        serves(server, 10)
        assert (memory(pid) - before) / IDLE < 128 * 1024  # bytes for each of them
    settled(pid, idle)
    serves(server)


def test_more_connections_than_descriptors_allow(
    tmp_path: Path, repository: ModelRepository, store_of_models: str
) -> None:
    """Those who came first are served; the others are, as soon as there is room."""
    publish_bundle(repository, seed=1, promote=True)
    with running_server(tmp_path / "server", store_of_models, "--front-ends=1") as server:
        serves(server.ready())
        pid = front_end(server)
        limit = descriptors(pid) + 50
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, limit))
        with ExitStack() as stack:
            for _ in range(100):
                stack.enter_context(connected(server.target))
            wait_for(lambda: descriptors(pid) >= limit - 5, hint="no room")
            serves(server, 10)
        with connected(server.target) as client:
            client.begin()
            assert client.socket.recv(9)[3] == SETTINGS
        assert front_end(server) == pid
        assert server.terminate() == 0


@pytest.mark.parametrize("path", [WATCH, REFLECTION])
def test_streams_that_need_no_token_are_bounded(server: Server, path: str) -> None:
    """One connection may open any number of them, and each stays as long as its caller likes."""
    asked = [health_pb2.HealthCheckRequest()] if path == WATCH else []
    method = server.channel.stream_stream(
        path, lambda message: message.SerializeToString(), lambda data: data
    )

    def refused() -> bool:
        call = method(iter(asked), timeout=20.0)
        try:
            next(call, None)
        except grpc.RpcError as error:
            return error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        finally:
            call.cancel()
        return False

    with connected(server.target) as client:
        client.begin()
        for number in range(open_streams.MOST + 10):
            client.call(2 * number + 1, path, message(b"") if path == WATCH else b"", end=False)
        wait_for(refused, hint="a refusal")
        health = health_pb2_grpc.HealthStub(server.channel)
        assert health.Check(health_pb2.HealthCheckRequest()).status == 1
    wait_for(lambda: not refused(), hint="room again")


def test_a_version_that_comes_while_no_descriptor_is_left_serves_once_there_is(
    tmp_path: Path, repository: ModelRepository, store_of_models: str
) -> None:
    """The front end cannot take up its link to the new version's runner at that moment."""
    publish_bundle(repository, seed=1, promote=True)
    with running_server(tmp_path / "server", store_of_models, "--front-ends=1") as server:
        serves(server.ready())
        pid = front_end(server)
        limit = descriptors(pid) + 20
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, limit))
        with ExitStack() as stack:
            for _ in range(40):
                stack.enter_context(connected(server.target))
            wait_for(lambda: descriptors(pid) >= limit, hint="no room")
            publish_bundle(repository, seed=2, promote=True)
            wait_for(lambda: "cannot be linked here" in server.text(), hint="no link")

        def answered() -> bool:
            try:
                return server.recognize(IMAGE, timeout=20.0).version == 2
            except grpc.RpcError:  # UNAVAILABLE, until it is linked
                return False

        wait_for(answered, hint="version 2")
        assert front_end(server) == pid


def test_a_server_may_open_as_many_files_as_the_machine_allows(
    tmp_path: Path, store_of_models: str
) -> None:
    """Container runtimes start programs with 1,024, which a thousand callers use up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, hard), hard))
    try:
        with running_server(tmp_path / "server", store_of_models, "--front-ends=1") as server:
            pid = front_end(server)
            assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

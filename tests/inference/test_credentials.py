"""TLS with certificates that change while the server runs, on a real grpc.aio server."""

import asyncio
import gc
import shutil
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.certificates import Pair, authority, encrypted, signed

from visionloop.certificates import Certificates
from visionloop.errors import ConfigurationError
from visionloop_inference.credentials import certificates, server_credentials
from visionloop_inference.health import Health
from visionloop_inference.settings import parse


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with authorities a and b, servers of both, and a client of a."""
    folder = tmp_path_factory.mktemp("certificates")
    for name in "ab":
        ca = authority(folder, name)
        signed(folder, f"server-{name}", ca)
    signed(
        folder,
        "client-a",
        Pair(folder / "a.crt", folder / "a.key"),
        extension="keyUsage=digitalSignature",
    )
    return folder


def install(made: Path, name: str, live: Path) -> Pair:
    """Puts a pair where the server reads it, each file in one step."""
    for kind in ("crt", "key"):
        fresh = live / f".fresh.{kind}"
        shutil.copy(made / f"{name}.{kind}", fresh)
        fresh.rename(live / f"live.{kind}")
    return Pair(live / "live.crt", live / "live.key")


@contextmanager
def serving(credentials: grpc.ServerCredentials) -> Iterator[int]:
    """A grpc.aio server with TLS in a thread of its own; its port."""
    started, stop, ports = Event(), Event(), []

    async def serve() -> None:
        server = grpc.aio.server()
        health_pb2_grpc.add_HealthServicer_to_server(Health(lambda _name: True), server)
        ports.append(server.add_secure_port("127.0.0.1:0", credentials))
        await server.start()
        started.set()
        await asyncio.to_thread(stop.wait)
        await server.stop(0)

    thread = Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert started.wait(30)
        yield ports[0]
    finally:
        stop.set()
        thread.join()


def ask(port: int, roots: Path, client: Pair | None = None) -> grpc.StatusCode:
    """One health check over a connection of its own."""
    key = client.key.read_bytes() if client else None
    chain = client.certificate.read_bytes() if client else None
    credentials = grpc.ssl_channel_credentials(roots.read_bytes(), key, chain)
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(f"localhost:{port}", credentials, options) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
        except grpc.RpcError as error:
            return error.code()
        return grpc.StatusCode.OK


OK, UNAVAILABLE = grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE


def test_a_renewed_certificate_serves_the_next_connection(made: Path, tmp_path: Path) -> None:
    live = install(made, "server-a", tmp_path)
    with serving(Certificates(live.certificate, live.key, None).for_grpc()) as port:
        gc.collect()  # nothing but the server holds the credentials
        assert ask(port, made / "a.crt") is OK
        assert ask(port, made / "b.crt") is UNAVAILABLE
        install(made, "server-b", tmp_path)
        assert ask(port, made / "b.crt") is OK
        assert ask(port, made / "a.crt") is UNAVAILABLE


def test_broken_files_leave_the_certificate_before(
    made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    live = install(made, "server-a", tmp_path)
    with serving(Certificates(live.certificate, live.key, None).for_grpc()) as port:
        for break_it in (
            lambda: live.certificate.write_text("nonsense"),
            lambda: shutil.copy(made / "server-b.crt", live.certificate),  # the key is still a's
            live.key.unlink,
        ):
            caplog.clear()
            break_it()
            assert ask(port, made / "a.crt") is OK
            assert "the certificate before keeps serving" in caplog.text
            caplog.clear()
            assert ask(port, made / "a.crt") is OK
            assert not caplog.records  # said once
        install(made, "server-b", tmp_path)
        assert ask(port, made / "b.crt") is OK


def test_clients_without_a_certificate_of_the_authority_are_turned_away(
    made: Path, tmp_path: Path
) -> None:
    live = install(made, "server-a", tmp_path)
    ca = tmp_path / "ca.crt"
    shutil.copy(made / "a.crt", ca)
    mine = Pair(made / "client-a.crt", made / "client-a.key")
    other = Pair(made / "server-b.crt", made / "server-b.key")
    with serving(Certificates(live.certificate, live.key, ca).for_grpc()) as port:
        assert ask(port, made / "a.crt", mine) is OK
        assert ask(port, made / "a.crt") is UNAVAILABLE
        assert ask(port, made / "a.crt", other) is UNAVAILABLE
        shutil.copy(made / "b.crt", ca)  # another authority is trusted from here on
        assert ask(port, made / "a.crt", other) is OK
        assert ask(port, made / "a.crt", mine) is UNAVAILABLE


def test_many_handshakes_while_files_change(made: Path, tmp_path: Path) -> None:
    live = install(made, "server-a", tmp_path)
    both = tmp_path / "both.crt"
    both.write_bytes((made / "a.crt").read_bytes() + (made / "b.crt").read_bytes())
    credentials = Certificates(live.certificate, live.key, None).for_grpc()
    with serving(credentials) as port, ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask, port, both) for _ in range(60)]
        for turn in range(20):
            install(made, "server-b" if turn % 2 else "server-a", tmp_path)
        assert {each.result() for each in asked} == {OK}


def handshake(door: ssl.SSLContext, roots: Path) -> None:
    """A TLS handshake in memory. Raises ssl.SSLError as the client does."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    trusting = ssl.create_default_context(cafile=str(roots))
    client = trusting.wrap_bio(down, up, server_hostname="localhost")
    server = door.wrap_bio(up, down, server_side=True)
    waiting = [client, server]
    while waiting:
        for side in tuple(waiting):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
                waiting.remove(side)


def test_the_door_of_https_is_renewed_beside_grpc(made: Path, tmp_path: Path) -> None:
    live = install(made, "server-a", tmp_path)
    found = Certificates(live.certificate, live.key, None)
    door = found.for_http()
    assert door.minimum_version >= ssl.TLSVersion.TLSv1_2
    with serving(found.for_grpc()) as port:
        handshake(door, made / "a.crt")
        install(made, "server-b", tmp_path)
        handshake(door, made / "b.crt")  # sees it first; gRPC must not miss it
        assert ask(port, made / "b.crt") is OK
        with pytest.raises(ssl.SSLCertVerificationError):
            handshake(door, made / "a.crt")


@pytest.mark.parametrize(
    ("certificate", "key", "client_ca", "said"),
    [
        ("missing.crt", "server-a.key", None, "--tls-certificate .* cannot be read: No such file"),
        ("server-a.crt", "missing.key", None, "--tls-key .* cannot be read"),
        ("server-a.crt", "server-b.key", None, "do not work together: key values mismatch"),
        ("a.key", "server-a.key", None, "do not work together"),
        ("server-a.crt", "locked.key", None, "--tls-key is encrypted"),
        ("server-a.crt", "server-a.key", "missing.crt", "--tls-client-ca .* cannot be read"),
        ("server-a.crt", "server-a.key", "a.key", "--tls-client-ca .* holds no certificates"),
        (".", "server-a.key", None, "Is a directory"),
    ],
)
def test_files_that_cannot_serve_are_refused_at_start(
    made: Path, certificate: str, key: str, client_ca: str | None, said: str
) -> None:
    encrypted(Pair(made / "server-a.crt", made / "server-a.key"), made / "locked.key")
    with pytest.raises(ConfigurationError, match=said):
        Certificates(made / certificate, made / key, made / client_ca if client_ca else None)


def test_settings_say_whether_there_is_tls(made: Path) -> None:
    store = "--store=file:///x"
    assert server_credentials(parse([store], {})) is None
    flags = [store, f"--tls-certificate={made}/server-a.crt", f"--tls-key={made}/server-a.key"]
    found = certificates(parse(flags, {}))
    assert found is not None
    assert found.pems.client_ca is None
    assert isinstance(server_credentials(parse(flags, {})), grpc.ServerCredentials)


def test_a_link_that_is_swapped_is_seen(made: Path, tmp_path: Path) -> None:
    """As Kubernetes mounts a secret: live files are links through ..data, which is replaced."""
    for name in "ab":
        (tmp_path / name).mkdir()
        for kind in ("crt", "key"):
            shutil.copy(made / f"server-{name}.{kind}", tmp_path / name / f"tls.{kind}")
    (tmp_path / "..data").symlink_to("a")
    for kind in ("crt", "key"):
        (tmp_path / f"tls.{kind}").symlink_to(f"..data/tls.{kind}")
    found = Certificates(tmp_path / "tls.crt", tmp_path / "tls.key", None)
    first = found.pems
    (tmp_path / "..fresh").symlink_to("b")
    (tmp_path / "..fresh").replace(tmp_path / "..data")
    found.renew()
    assert found.pems.certificate == (made / "server-b.crt").read_bytes() != first.certificate

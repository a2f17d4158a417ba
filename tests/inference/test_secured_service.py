"""TLS, mTLS, tokens, scopes and feedback on the real service, as its callers meet them."""

import asyncio
import hashlib
import json
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.bundles import LABELS, encoded, publish_bundle
from support.certificates import Pair, authority, signed
from support.inference_server import Server, running_server
from support.waiting import wait_for

from visionloop.bundle import Bundle
from visionloop.client import AsyncClient, Client
from visionloop.errors import (
    ConflictError,
    InvalidInputError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
)
from visionloop.feedback import FOLDER, parse_feedback
from visionloop.objectstore import open_store
from visionloop.proto.inference import open_inference_pb2 as oip
from visionloop.proto.inference import open_inference_pb2_grpc
from visionloop.repository import ModelRepository

LINE, OPS = "token-of-the-line-3", "token-of-the-operators"


def write_tokens(path: Path, *names: str) -> None:
    """The file in one step, as an operator replaces it."""
    entries = {
        "line-3": {
            "sha256": hashlib.sha256(LINE.encode()).hexdigest(),
            "scopes": ["infer", "feedback"],
        },
        "ops": {"token": OPS, "scopes": ["metadata", "admin"]},
    }
    fresh = path.with_suffix(".fresh")
    fresh.write_text(json.dumps([{"name": name, **entries[name]} for name in names]))
    fresh.replace(path)


@pytest.fixture(scope="module")
def guarded(
    tmp_path_factory: pytest.TempPathFactory, one_model: tuple[str, Bundle]
) -> Iterator[tuple[Server, Path]]:
    """A server with tokens, and their file."""
    folder = tmp_path_factory.mktemp("guarded")
    write_tokens(folder / "tokens", "line-3", "ops")
    flags = (f"--tokens={folder}/tokens", "--access-log=1")
    with running_server(folder, one_model[0], *flags) as server:
        yield server.ready(), folder / "tokens"


def load(channel: grpc.Channel, token: str | None) -> grpc.StatusCode:
    """What RepositoryModelLoad, which needs admin, is answered."""
    stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
    metadata = [("authorization", f"Bearer {token}")] if token else []
    try:
        stub.RepositoryModelLoad(
            oip.RepositoryModelLoadRequest(model_name="cells"), metadata=metadata, timeout=20
        )
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def test_tokens_open_what_their_scopes_say(guarded: tuple[Server, Path]) -> None:
    server, _ = guarded
    with Client(server.target, token=LINE) as client:
        assert client.recognize(encoded(1))[0].label
        assert [r.error for r in client.recognize_stream([encoded(1)] * 3)] == [None] * 3
    for token, kind in ((None, UnauthenticatedError), ("x" * 20, UnauthenticatedError),
                        (OPS, PermissionDeniedError)):  # fmt: skip
        with Client(server.target, token=token) as client:
            with pytest.raises(kind):
                client.recognize(encoded(1))
            with pytest.raises(kind):
                list(client.recognize_stream([encoded(1)] * 300))
            with pytest.raises(kind):
                client.submit_feedback("cells:1:1:0:0", image=encoded(1))
    assert load(server.channel, LINE) is grpc.StatusCode.PERMISSION_DENIED
    assert load(server.channel, None) is grpc.StatusCode.UNAUTHENTICATED
    # The door is open for ops; that models are loaded by the store alone is another matter.
    assert (
        load(server.channel, OPS)
        not in (
            grpc.StatusCode.PERMISSION_DENIED,
            grpc.StatusCode.UNAUTHENTICATED,
            grpc.StatusCode.OK,
        )
        or "explicit" in server.text()
    )


def test_an_async_stream_is_refused_in_words(guarded: tuple[Server, Path]) -> None:
    server, _ = guarded

    async def run() -> None:
        async with AsyncClient(server.target, token="x" * 20) as client:
            with pytest.raises(UnauthenticatedError, match="not one of this server's"):
                _ = [r async for r in client.recognize_stream([encoded(1)] * 200)]

    asyncio.run(run())


def test_health_and_probes_need_no_token(guarded: tuple[Server, Path]) -> None:
    server, _ = guarded
    stub = health_pb2_grpc.HealthStub(server.channel)
    assert stub.Check(health_pb2.HealthCheckRequest(), timeout=10).status == 1
    assert server.get("/readyz")[0] == 200
    ready = open_inference_pb2_grpc.GRPCInferenceServiceStub(server.channel)
    assert ready.ServerReady(oip.ServerReadyRequest(), timeout=10).ready


def test_callers_who_leave_streams_crash_nothing(guarded: tuple[Server, Path]) -> None:
    """Their streams are logged after they are gone, when grpc.aio has no call any more."""
    server, _ = guarded
    image = encoded(1)
    for _ in range(300):
        with Client(server.target, token=LINE, channels=1) as client:
            assert next(client.recognize_stream([image] * 3)).label
    assert server.metric("visionloop_restarts_total", process="front_end") == 0
    wait_for(lambda: server.metric("visionloop_inflight_requests") == 0)


def test_http_hands_the_token_on(guarded: tuple[Server, Path]) -> None:
    server, _ = guarded
    url = f"http://{server.address('http')}/v1/recognize"

    def post(**headers: str) -> httpx.Response:
        return httpx.post(url, content=encoded(1), headers=headers, timeout=30)

    assert post(Authorization=f"Bearer {LINE}").status_code == 200
    refused = post()
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    assert refused.json()["error"]["code"] == "UNAUTHENTICATED"
    assert post(Authorization=f"Bearer {OPS}").status_code == 403


def test_tokens_are_in_no_log_and_callers_are(guarded: tuple[Server, Path]) -> None:
    server, _ = guarded
    with Client(server.target, token=LINE) as client:
        client.recognize(encoded(1))
    wait_for(lambda: '"caller": "line-3"' in server.text(), hint="the access log")
    assert LINE not in server.text()
    assert OPS not in server.text()
    assert '"message": "settings in force"' in server.text()


def test_a_replaced_file_of_tokens_counts_soon(guarded: tuple[Server, Path]) -> None:
    server, file = guarded
    with Client(server.target, token=LINE) as client:
        client.recognize(encoded(1))
        write_tokens(file, "ops")

        def refused() -> bool:
            try:
                client.recognize(encoded(1))
            except UnauthenticatedError:
                return True
            return False

        wait_for(refused, hint="the token to be taken back")
        write_tokens(file, "line-3", "ops")
        wait_for(lambda: not refused(), hint="the token to be given again")


# --- feedback


def test_feedback_reaches_the_store(guarded: tuple[Server, Path], one_model: Any) -> None:
    server, _ = guarded
    image = encoded(9)
    with Client(server.target, token=LINE) as client:
        [result] = client.recognize(image)
        mine = str(uuid.uuid4())
        receipt = client.submit_feedback(
            result, class_id=LABELS[2], image=image, note="a crack", feedback_id=mine
        )
        assert (receipt.feedback_id, receipt.created) == (mine, True)
        again = client.submit_feedback(
            result, class_id=LABELS[2], image=image, note="a crack", feedback_id=mine
        )
        assert not again.created
        with pytest.raises(ConflictError):
            client.submit_feedback(result, image=image, feedback_id=mine)
        assert receipt.unknown_class_ids == ()
        with pytest.raises(InvalidInputError, match="'A dog' is no class of model 'cells'"):
            client.submit_feedback(result, class_id="A dog", image=image)
        with pytest.raises(InvalidInputError, match="the very bytes"):
            client.submit_feedback(result, class_id=LABELS[1], image=encoded(10))
    store = open_store(one_model[0])
    found = parse_feedback(store.get(f"{FOLDER}{mine}").data, mine)
    assert (found.image, found.header.class_id) == (image, LABELS[2])
    assert found.header.caller == "line-3"
    assert server.metric("visionloop_feedback_total", outcome="stored") == 1
    assert server.metric("visionloop_feedback_total", outcome="repeated") == 1


@pytest.mark.s3
def test_feedback_into_s3_and_while_it_is_away(tmp_path: Path, s3_url: str) -> None:
    publish_bundle(ModelRepository(open_store(s3_url)), seed=1, promote=True)
    image = encoded(1)
    with running_server(tmp_path / "there", s3_url) as server:
        server.ready()
        with Client(server.target) as client:
            [result] = client.recognize(image)
            receipt = client.submit_feedback(result, class_id=LABELS[0], image=image)
    stored = open_store(s3_url).get(f"{FOLDER}{receipt.feedback_id}")
    assert parse_feedback(stored.data, stored.key).image == image


def test_feedback_without_its_store(tmp_path: Path) -> None:
    """The inbox cannot be written; recognition goes on, and feedback says when to come back."""
    url = f"file://{tmp_path}/store"
    publish_bundle(ModelRepository(open_store(url)), seed=1, promote=True)
    inbox = tmp_path / "store" / "inbox"
    shutil.rmtree(inbox, ignore_errors=True)
    inbox.write_text("a file is in the way")
    image = encoded(1)
    with running_server(tmp_path / "server", url) as server, Client(server.target) as client:
        server.ready()
        [result] = client.recognize(image)
        with pytest.raises(UnavailableError, match="takes no feedback at the moment"):
            client.submit_feedback(result, class_id=LABELS[0], image=image, timeout=30)
        assert server.metric("visionloop_feedback_total", outcome="failed") == 1
        inbox.unlink()
        assert client.submit_feedback(result, class_id=LABELS[0], image=image).created


# --- TLS


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Authorities a and b, a server certificate of each, a client certificate of a."""
    folder = tmp_path_factory.mktemp("certificates")
    for name in "ab":
        signed(folder, f"server-{name}", authority(folder, name))
    pair = Pair(folder / "a.crt", folder / "a.key")
    signed(folder, "client", pair, extension="keyUsage=digitalSignature")
    return folder


def install(made: Path, name: str, live: Path) -> None:
    for kind in ("crt", "key"):
        shutil.copy(made / f"{name}.{kind}", live.with_suffix(f".{kind}.fresh"))
        live.with_suffix(f".{kind}.fresh").replace(live.with_suffix(f".{kind}"))


def credentials(made: Path, trusted: str, *, client: bool) -> grpc.ChannelCredentials:
    roots = (made / f"{trusted}.crt").read_bytes()
    if not client:
        return grpc.ssl_channel_credentials(roots)
    key, chain = (made / "client.key").read_bytes(), (made / "client.crt").read_bytes()
    return grpc.ssl_channel_credentials(roots, key, chain)


@pytest.mark.parametrize("front_ends", [pytest.param(0, marks=pytest.mark.long), 2])
def test_mutual_tls_and_tokens_beyond_this_machine(
    made: Path, tmp_path: Path, one_model: tuple[str, Bundle], front_ends: int
) -> None:
    """--insecure is not needed then; renewed certificates are picked up by every front end."""
    install(made, "server-a", tmp_path / "live")
    write_tokens(tmp_path / "tokens", "line-3")
    flags = (
        "--host=0.0.0.0", "--https-port=0", f"--tls-certificate={tmp_path}/live.crt",
        f"--tls-key={tmp_path}/live.key", f"--tls-client-ca={made}/a.crt",
        f"--tokens={tmp_path}/tokens", f"--front-ends={front_ends}",
    )  # fmt: skip
    with running_server(tmp_path / "server", one_model[0], *flags) as server:
        target = f"localhost:{server.target.rpartition(':')[2]}"
        probes = f"http://localhost:{server.address('http').rpartition(':')[2]}"
        wait_for(lambda: httpx.get(f"{probes}/readyz").status_code == 200)

        def ask(trusted: str, *, client: bool = True, token: str | None = LINE) -> None:
            secure = credentials(made, trusted, client=client)
            # Several channels reach several front ends.
            with Client(target, credentials=secure, token=token, channels=6, timeout=20) as caller:
                for _ in range(6):
                    assert caller.recognize(encoded(1))[0].label

        ask("a")
        with pytest.raises(UnauthenticatedError):
            ask("a", token=None)
        for trusted, client in (("a", False), ("b", True)):
            with pytest.raises(UnavailableError):
                ask(trusted, client=client)
        with Client(target, token=LINE, timeout=5) as plain, pytest.raises(UnavailableError):
            plain.recognize(encoded(1))
        install(made, "server-b", tmp_path / "live")
        ask("b")
        began = time.monotonic()
        assert server.terminate() == 0, server.text()
        assert time.monotonic() - began < 60


def test_certificates_that_cannot_serve_end_the_start_in_one_line(
    made: Path, tmp_path: Path, one_model: tuple[str, Bundle]
) -> None:
    flags = (f"--tls-certificate={made}/server-a.crt", f"--tls-key={made}/server-b.key")
    server = Server(tmp_path, one_model[0], *flags)
    try:
        assert server.process.wait(60) == 64
        assert "do not work together" in server.text()
        assert "Traceback" not in server.text()
    finally:
        server.close()


def test_tokens_that_cannot_be_read_end_the_start_in_one_line(
    tmp_path: Path, one_model: tuple[str, Bundle]
) -> None:
    (tmp_path / "tokens").write_text("- name: x\n  token: a-token-of-many-characters\n")
    server = Server(tmp_path, one_model[0], f"--tokens={tmp_path}/tokens")
    try:
        assert server.process.wait(60) == 64
        assert "is wrong at 1.scopes" in server.text()
        assert "Traceback" not in server.text()
        assert "a-token-of-many" not in server.text()
    finally:
        server.close()


def test_without_tokens_nobody_far_away_is_the_administrator(
    tmp_path: Path, one_model: tuple[str, Bundle]
) -> None:
    flags = ("--host=0.0.0.0", "--insecure", "--model-control=explicit")
    with running_server(tmp_path, one_model[0], *flags) as server:
        port = server.target.rpartition(":")[2]
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            assert load(channel, None) is grpc.StatusCode.PERMISSION_DENIED

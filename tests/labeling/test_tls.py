"""TLS on both ports of the real program, with accounts: what a network meets."""

import json
import shutil
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx
import pytest
from support.certificates import SERVER_NAMES, authority, signed
from support.labeling_server import running_labeling

from visionloop.cli.import_client import ImportClient
from visionloop.cli.main import main
from visionloop.errors import PermissionDeniedError, UnauthenticatedError, UnavailableError
from visionloop.labeling_client import LabelingClient
from visionloop_labeling import account_commands, passwords
from visionloop_labeling.passwords import Cost

PASSWORD = "long enough for a test"
IN_THE_CLUSTER = "vision-labeling-ingest.vision.svc"  # beside localhost in certificates


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Authorities a and b, each with a server's certificate."""
    folder = tmp_path_factory.mktemp("certificates")
    for name in "ab":
        names = f"{SERVER_NAMES},DNS:{IN_THE_CLUSTER}"
        signed(folder, f"server-{name}", authority(folder, name), extension=names)
    return folder


def install(made: Path, name: str, live: Path) -> None:
    """Puts a pair where the server reads it, each file in one step."""
    for kind in ("crt", "key"):
        fresh = live / f".fresh.{kind}"
        shutil.copy(made / f"{name}.{kind}", fresh)
        fresh.rename(live / f"live.{kind}")


@pytest.fixture(scope="module")
def secured(made: Path, tmp_path_factory: pytest.TempPathFactory):
    """The program with TLS and accounts, and the token of an administrator and of a program."""
    folder = tmp_path_factory.mktemp("secured")
    install(made, "server-a", folder)
    database = f"--database=sqlite:///{folder / 'labeling.db'}"
    file = folder / "password"
    file.write_text(PASSWORD)
    before, passwords.COST = passwords.COST, Cost(n=2**4, r=8, p=1)
    tokens = {}
    try:
        for name, role in (("root", "admin"), ("line-3", "service")):
            account_commands.run(["add", name, "--role", role, f"--password-file={file}", database])
    finally:
        passwords.COST = before
    flags = (
        f"--tls-certificate={folder / 'live.crt'}", f"--tls-key={folder / 'live.key'}",
        "--accounts", "--access-log=1", "--probe-port=0",
    )  # fmt: skip
    with running_labeling(folder, *flags) as server:
        ready = json.loads((folder / "ready.json").read_text())
        port = ready["http"].rpartition(":")[2]
        with browser(made, port) as root:
            for name in ("root", "line-3"):
                answer = root.post("/v1/tokens", json={"name": "t", "account": name})
                tokens[name] = answer.json()["token"]
        yield server, folder, port, ready["grpc"].rpartition(":")[2], tokens


def client(made: Path, port: str, authority: str = "a") -> httpx.Client:
    context = ssl.create_default_context(cafile=str(made / f"{authority}.crt"))
    return httpx.Client(base_url=f"https://localhost:{port}", verify=context)


@contextmanager
def browser(made: Path, port: str) -> Iterator[httpx.Client]:
    """The administrator's, signed in."""
    with client(made, port) as one:
        answer = one.post("/v1/session", json={"name": "root", "password": PASSWORD})
        assert answer.headers["set-cookie"].startswith("__Host-visionloop-login=")
        assert "Secure" in answer.headers["set-cookie"]
        one.headers["X-CSRF-Token"] = answer.json()["csrf"]
        yield one


def labeling(made: Path, port: str, token: str | None, authority: str = "a") -> LabelingClient:
    credentials = grpc.ssl_channel_credentials((made / f"{authority}.crt").read_bytes())
    return LabelingClient(f"localhost:{port}", credentials=credentials, token=token, timeout=20)


def test_both_ports_speak_tls_and_know_callers(made: Path, secured) -> None:
    server, _, http, grpc_port, tokens = secured
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://localhost:{http}/healthz")
    with client(made, http) as unknown:
        answer = unknown.get("/healthz")
        assert answer.status_code == 200
        assert answer.headers["strict-transport-security"]
        assert unknown.get("/v1/datasets").status_code == 401
        assert unknown.get("/metrics").status_code == 401
        bearer = {"Authorization": f"Bearer {tokens['line-3']}"}
        assert "visionloop_" in unknown.get("/metrics", headers=bearer).text
    with labeling(made, grpc_port, tokens["root"]) as admin:
        assert admin.create_dataset("d").name == "d"
    with labeling(made, grpc_port, tokens["line-3"]) as program:
        assert [one.name for one in program.list_datasets()] == ["d"]
        with pytest.raises(PermissionDeniedError, match="needs the role admin"):
            program.create_dataset("e")
    with labeling(made, grpc_port, None) as unknown, pytest.raises(UnauthenticatedError):
        unknown.list_datasets()
    with labeling(made, grpc_port, "vl_wrong") as unknown, pytest.raises(UnauthenticatedError):
        unknown.list_datasets()
    log = server.log.read_text()
    assert '"caller": "line-3"' in log
    assert not any(secret in log for secret in (PASSWORD, *tokens.values()))


def test_who_comes_by_another_address_may_say_the_name_in_the_certificate(
    made: Path, secured
) -> None:
    """As through `kubectl port-forward`. That the name counts shows in one that is not there."""
    _, _, http, grpc_port, tokens = secured
    credentials = grpc.ssl_channel_credentials((made / "a.crt").read_bytes())
    tls = ssl.create_default_context(cafile=str(made / "a.crt"))
    url, token = f"https://127.0.0.1:{http}", tokens["line-3"]

    def both(name: str) -> tuple[LabelingClient, ImportClient]:
        by_grpc = LabelingClient(
            f"127.0.0.1:{grpc_port}", credentials=credentials, token=token, server_name=name
        )
        return by_grpc, ImportClient(url, "d", token=token, tls=tls, server_name=name)

    by_grpc, by_http = both(IN_THE_CLUSTER)
    with by_grpc:
        assert by_grpc.list_datasets() is not None
    with pytest.raises(PermissionDeniedError, match="needs the role admin"):
        by_http.show("1")
    by_grpc, by_http = both("another.vision.svc")
    with by_grpc, pytest.raises(UnavailableError, match="does it hold this name"):
        by_grpc.list_datasets()
    with pytest.raises(UnavailableError, match="in it with --tls-server-name"):
        by_http.show("1")
    with pytest.raises(UnavailableError, match="begins with https://"):
        ImportClient(f"http://127.0.0.1:{http}", "d", token=token).show("1")


def test_who_may_not_make_a_dataset_is_told_that_there_is_none(
    made: Path, secured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    *_, grpc_port, tokens = secured
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.jpg").write_bytes(b"x")
    monkeypatch.setenv("VISIONLOOP_TOKEN", tokens["line-3"])
    where = ("--target", f"localhost:{grpc_port}", "--tls-ca", str(made / "a.crt"))
    assert main(["import", str(tmp_path), "--dataset", "celsl", *where]) == 77
    said = capsys.readouterr().err
    assert "there is no dataset 'celsl', and to make it: " in said
    assert "needs the role admin" in said


def test_probes_need_neither_tls_nor_a_token_and_get_nothing_else(secured) -> None:
    _, folder, *_ = secured
    probes = json.loads((folder / "ready.json").read_text())["probes"]
    with httpx.Client(base_url=f"http://{probes}") as anybody:
        assert anybody.get("/healthz").json() == {"status": "alive"}
        assert anybody.get("/readyz").json() == {"status": "ready"}
        told = anybody.get("/metrics").text
        assert "visionloop_queue_images" in told
        for loop in ("feedback", "imports", "models", "reconcile", "snapshots"):
            assert f'visionloop_background_runs_total{{loop="{loop}"' in told
        for path in ("/v1/datasets", "/", "/login", "/openapi.json", "/docs"):
            assert anybody.get(path).status_code == 404, path
        assert anybody.post("/v1/session", json={"name": "root"}).status_code == 404


def test_a_renewed_certificate_serves_the_next_connection_of_both(made: Path, secured) -> None:
    _, folder, http, grpc_port, tokens = secured
    install(made, "server-b", folder)
    try:
        with client(made, http, "b") as trusting:
            assert trusting.get("/healthz").status_code == 200
        with client(made, http, "a") as distrusting, pytest.raises(httpx.ConnectError):
            distrusting.get("/healthz")
        with labeling(made, grpc_port, tokens["line-3"], "b") as trusting:
            assert trusting.list_datasets() is not None
        with (
            labeling(made, grpc_port, tokens["line-3"], "a") as distrusting,
            pytest.raises(UnavailableError),
        ):
            distrusting.list_datasets()
        (folder / "live.key").write_text("nonsense")
        with client(made, http, "b") as trusting:
            assert trusting.get("/healthz").status_code == 200
    finally:
        install(made, "server-a", folder)
    with client(made, http, "a") as trusting:
        assert trusting.get("/healthz").status_code == 200


def test_the_settings_in_force_are_logged_without_secrets(secured) -> None:
    server, *_ = secured
    first = json.loads(server.log.read_text().splitlines()[0])
    assert first["message"] == "settings in force"
    assert (first["accounts"], first["access_log"]) == (True, 1.0)

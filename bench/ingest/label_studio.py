"""Label Studio taking in the same images, as its users do it: files posted to a project.

A venv of its own, its own server on SQLite and files, one account; eight uploads at a time, each of
`FILES` images in one request, its quickest way in over HTTP. What it does with an image: it stores
the file and a task. It decodes nothing, hashes nothing, looks for no duplicates; a second
upload of the same files doubles them.
"""

import os
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import socket

import httpx

from bench.serving.processes import usage
from bench.serving.venvs import Venv
from visionloop.errors import UnavailableError

PACKAGES = ("label-studio==1.23.2",)
FILES = 20  # images in one request
UPLOADS = 8  # requests at a time
READY_SECONDS = 300.0
_USER, _TOKEN = "bench@example.org", "b" * 40


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import into Label Studio took."""

    images: int
    seconds: float
    service_cpu: float
    version: str


def measure(venvs: Path, scratch: Path, images: list[bytes]) -> Imported:
    """Imports the images once. Raises UnavailableError where Label Studio cannot be had."""
    venv = Venv(venvs / "label-studio", PACKAGES)
    venv.install()
    with _running(venv, scratch) as (pid, client):
        project = client.post("/api/projects", json={"title": "bench", "label_config": _CONFIG})
        project.raise_for_status()
        path = f"/api/projects/{project.json()['id']}/import"
        parts = [images[start : start + FILES] for start in range(0, len(images), FILES)]

        def upload(part: list[bytes]) -> None:
            files = [
                (uuid.uuid4().hex, (f"{uuid.uuid4().hex}.jpg", image, "image/jpeg"))
                for image in part
            ]
            client.post(path, files=files).raise_for_status()

        before, start = usage(pid), time.perf_counter()
        with ThreadPoolExecutor(UPLOADS) as threads:
            list(threads.map(upload, parts))
        seconds = time.perf_counter() - start
        stored = client.get(f"/api/projects/{project.json()['id']}").json()["task_number"]
        if stored != len(images):
            raise UnavailableError(f"it has {stored} of {len(images)} images")
        cpu = usage(pid).cpu - before.cpu
    return Imported(len(images), seconds, cpu, venv.version("label-studio"))


_CONFIG = (
    '<View><Image name="image" value="$image"/><Choices name="choice" toName="image">'
    '<Choice value="a"/><Choice value="b"/></Choices></View>'
)


@contextmanager
def _running(venv: Venv, folder: Path) -> Iterator[tuple[int, httpx.Client]]:
    folder.mkdir(parents=True)
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        str(venv.python.parent / "label-studio"), "start", "--no-browser", "--port", str(port),
        "--internal-host", "127.0.0.1", "--data-dir", str(folder), "--username", _USER,
        "--password", uuid.uuid4().hex, "--user-token", _TOKEN,
    ]  # fmt: skip
    settings = {
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
    }
    log = folder / "label-studio.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, **settings}
        )
    try:
        _wait(f"http://127.0.0.1:{port}/health", process, log)
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}",
            headers={"Authorization": f"Token {_TOKEN}"},
            timeout=600,
        ) as client:
            yield process.pid, client
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    words = " ".join(log.read_text(errors="replace").split())[-300:]
    raise UnavailableError(f"it does not start: {words}")

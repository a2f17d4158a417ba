"""What is measured: the service and its transport limit here, its peers in bench.serving.peers.

Every subject serves one model at a time and says where it listens, what a request to it looks like,
and how many rows ran in how many batches so far.
"""

import json
import shutil
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from bench.peers.counters import total
from bench.serving.models import Model
from bench.serving.processes import Program
from visionloop.errors import UnavailableError

START_SECONDS = 120.0
GRPC_PATH = "/inference.GRPCInferenceService/ModelInfer"
RECOGNIZE_PATH = "/visionloop.v1.Recognition/Recognize"
_BOUNDARY = "bench-serving-7d1c0f"


@dataclass(slots=True)
class Serving:
    """A subject that was started for one model."""

    program: Program
    target: str  # host:port
    counters: Path
    metrics: str = ""  # URL; empty where the counters' folder is what counts

    def batches(self) -> tuple[int, int]:
        """(rows, runs) so far. Raises UnavailableError."""
        if not self.metrics:
            return total(self.counters)
        try:
            return rows_and_runs(httpx.get(self.metrics, timeout=10).text)
        except httpx.HTTPError as error:
            raise UnavailableError(f"{self.metrics} gave nothing: {error}") from error


def rows_and_runs(metrics: str) -> tuple[int, int]:
    """Of the service's /metrics: Triton's counters, else the histogram of batch sizes."""
    sums: dict[str, float] = {}
    for line in metrics.splitlines():
        series, _, value = line.rpartition(" ")
        if series and not series.startswith("#"):
            name = series.partition("{")[0]
            sums[name] = sums.get(name, 0.0) + float(value)
    for rows, runs in (
        ("nv_inference_count", "nv_inference_exec_count"),
        ("visionloop_batch_rows_sum", "visionloop_batch_rows_count"),
    ):
        if sums.get(runs):
            return int(sums[rows]), int(sums[runs])
    return 0, 0


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a request for one row is put: over gRPC by the Open Inference Protocol, over HTTP as the
    row's raw bytes, bare or as the only file of a form."""

    protocol: str = "grpc"
    path: str = GRPC_PATH
    form_field: str = ""
    json_answer: bool = False  # instead of the row's raw bytes

    @property
    def content_type(self) -> str:
        """Of an HTTP request."""
        if self.form_field:
            return f"multipart/form-data; boundary={_BOUNDARY}"
        return "application/octet-stream"

    def http_body(self, row: bytes) -> bytes:
        """Of an HTTP request."""
        if not self.form_field:
            return row
        head = (
            f"--{_BOUNDARY}\r\nContent-Disposition: form-data; "
            f'name="{self.form_field}"; filename="row"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        return head.encode() + row + f"\r\n--{_BOUNDARY}--\r\n".encode()


GRPC = Dialect()


class Subject(ABC):
    """One thing to measure."""

    name: str
    dialect: Dialect = GRPC
    answers_truly: bool = True  # False: its answers are not the graph's
    # Options of perf_analyzer that this subject needs.
    analyzer_options: tuple[str, ...] = ()

    @abstractmethod
    def prepare(self) -> None:
        """Installs what it needs. Raises UnavailableError that says why it is skipped."""

    def forget(self, model: Model) -> None:  # noqa: B027 — most keep nothing
        """Removes what earlier starts left behind, so that the next one is a cold one."""

    @abstractmethod
    def start(self, model: Model, graph: Path, folder: Path) -> Serving:
        """Starts it with an empty `folder` for its files; it need not answer yet."""


class Echo(Subject):
    """The bare gRPC server; `graph` is only a name to it."""

    name = "grpc-echo"
    answers_truly = False

    def prepare(self) -> None:
        """Nothing to install."""

    def start(self, model: Model, graph: Path, folder: Path) -> Serving:  # noqa: ARG002
        """One process."""
        port = free_port()
        command = [
            sys.executable, "-m", "bench.serving.echo", model.name, str(port), str(folder),
        ]  # fmt: skip
        return Serving(Program(command, folder / "log"), f"127.0.0.1:{port}", folder)


@dataclass
class Service(Subject):
    """visionloop-inference by its own command, on a store that holds the models."""

    store: str
    cache: Path  # kept between starts: fetched bundles and measured tunings
    name: str = "visionloop"
    flags: tuple[str, ...] = ()
    analyzer_options: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def prepare(self) -> None:
        """Knows the flags, or says which it does not."""
        known = _output([_script("visionloop-inference"), "--help"])
        for flag in self.flags:
            if flag not in known:
                raise UnavailableError(f"visionloop-inference has no flag {flag}")

    def forget(self, model: Model) -> None:
        """Fetched bundles and measured tunings of the model."""
        shutil.rmtree(self.cache / model.name, ignore_errors=True)

    def start(self, model: Model, graph: Path, folder: Path) -> Serving:  # noqa: ARG002
        """Supervisor and children; waits until it listens."""
        ready = folder / "ready.json"
        command = [
            _script("visionloop-inference"), "--store", self.store, "--models", model.name,
            "--port", "0", "--http-port", "0", "--ready-file", str(ready),
            "--cache", str(self.cache / model.name), *self.flags,
        ]  # fmt: skip
        program = Program(command, folder / "log", self.environment)
        end = time.perf_counter() + START_SECONDS
        while not ready.exists():
            if program.ended or time.perf_counter() > end:
                program.stop()
                raise UnavailableError(f"it did not start: {program.last_words()}")
            time.sleep(0.005)
        said = json.loads(ready.read_text())
        return Serving(program, said["grpc"], folder, f"http://{said['http']}/metrics")


def free_port() -> int:
    """A TCP port that nobody listens on just now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _script(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr

"""The peers: other projects' servers around the same graph, with the same session options.

What each does best here was tried; its server file in bench/peers/ says so. Two traps are worth
knowing: perf_analyzer asks for Triton's ModelConfig, which MLServer lacks and gets added; and a
fixed delay of a batcher (mosec, LitServe and Ray have one) is what their latency of one caller is.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.serving.echo import model_config
from bench.serving.models import Model
from bench.serving.processes import Program, cores
from bench.serving.subjects import GRPC, Dialect, Serving, Subject, free_port
from bench.serving.venvs import Venv

MAX_BATCH = 16
PEERS = Path(__file__).resolve().parent.parent / "peers"
# The interpreter inside PyTriton's Triton is an older 3.11 than the standard library it finds here,
# and so lacks a method of its locks that multiprocessing calls; the lock written in Python has it.
_OLDER_PYTHON = (
    "import threading, multiprocessing.resource_tracker as tracker; "
    "hasattr(threading.RLock(), '_recursion_count') "
    "or setattr(tracker._resource_tracker, '_lock', threading._PyRLock())"
)


@dataclass
class Peer(Subject):
    """Another project's server: a file of bench/peers/ in a venv of its own."""

    name: str
    venv: Venv
    dialect: Dialect = GRPC
    delay_ms: float = 0.0
    arguments: tuple[str, ...] = ()  # after the interpreter; {file}, {folder}, {port} are filled in
    analyzer_options: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def prepare(self) -> None:
        """Its venv, on the first call."""
        self.venv.install()

    def start(self, model: Model, graph: Path, folder: Path) -> Serving:
        """Its own way of starting, with all settings in the environment."""
        port = free_port()
        file = PEERS / f"{self.name}_server.py"
        arguments = self.arguments or ("{file}",)
        command = [
            str(self.venv.python),
            *(argument.format(file=file, folder=PEERS, port=port) for argument in arguments),
        ]
        environment = {
            "BENCH_GRAPH": str(graph.resolve()),
            "BENCH_MODEL": model.as_json(),
            "BENCH_THREADS": str(model.threads(cores())),
            "BENCH_PORT": str(port),
            "BENCH_COUNTERS": str(folder.resolve()),
            "BENCH_MAX_BATCH": str(MAX_BATCH),
            "BENCH_DELAY_MS": str(self.delay_ms),
            "BENCH_MODEL_CONFIG": model_config(model).SerializeToString().hex(),
            "PATH": f"{self.venv.python.parent}{os.pathsep}{os.environ.get('PATH', '')}",
            **self.environment,
        }
        program = Program(command, folder / "log", environment)
        return Serving(program, f"127.0.0.1:{port}", folder)


def peers(venvs: Path) -> dict[str, Peer]:
    """All peers by name. Versions are pinned; venvs/… keeps what was installed."""

    def venv(name: str, *packages: str, at_start: str = "") -> Venv:
        return Venv(venvs / name, ("onnxruntime==1.31.1", *packages), at_start)

    found = [
        Peer(
            name="pytriton",
            venv=venv("pytriton", "nvidia-pytriton==0.7.0", at_start=_OLDER_PYTHON),
            # It guards the calls that perf_analyzer makes first by a token.
            analyzer_options=("-H", "triton-grpc-protocol-triton-access-token:bench"),
        ),
        Peer(
            name="mlserver",
            # With a newer uvloop its parallel workers do not start.
            venv=venv("mlserver", "mlserver==1.7.1", "uvloop<0.22"),
        ),
        Peer(
            name="mosec",
            venv=venv("mosec", "mosec==0.9.8"),
            dialect=Dialect("http", "/inference"),
            delay_ms=1.0,
            arguments=("{file}", "--port", "{port}", "--address", "127.0.0.1"),
        ),
        Peer(
            name="litserve",
            venv=venv("litserve", "litserve==0.2.19", "python-multipart==0.0.34"),
            dialect=Dialect("http", "/predict", form_field="request"),
            delay_ms=2.0,
        ),
        Peer(
            name="bentoml",
            venv=venv("bentoml", "bentoml==1.4.39"),
            dialect=Dialect("http", "/infer", form_field="row", json_answer=True),
            arguments=(
                "-m",
                "bentoml",
                "serve",
                "bentoml_server:Served",
                "--working-dir",
                "{folder}",
                "--host",
                "127.0.0.1",
                "--port",
                "{port}",
                "--api-workers",
                "1",
            ),
            environment={"BENTOML_DO_NOT_TRACK": "1"},
        ),
        Peer(
            name="ray",
            venv=venv("ray", "ray[serve]==2.60.0"),
            dialect=Dialect("http", "/"),
            delay_ms=2.0,
        ),
    ]
    return {peer.name: peer for peer in found}

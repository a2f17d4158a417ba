"""Our own generator against real servers: what it counts is what was answered."""

import asyncio
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from bench.peers.counters import Counters, total
from bench.serving.generator import Callers, Outcome, Plan, content_length
from bench.serving.graphs import write_model
from bench.serving.load import read_own, run
from bench.serving.models import MODELS
from bench.serving.processes import Program
from bench.serving.subjects import Dialect, Echo, Serving, rows_and_runs
from bench.serving.workloads import Tensors
from visionloop.errors import UnavailableError


class Answering(BaseHTTPRequestHandler):
    """Echoes the body; refuses what begins with `bad`."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(400 if body.startswith(b"bad") else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def http_server() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def outcome(tmp_path: Path, target: str, *bodies: bytes) -> Outcome:
    files = []
    for index, body in enumerate(bodies):
        files.append(tmp_path / str(index))
        files[-1].write_bytes(body)
    plan = Plan("http", target, "/", [str(file) for file in files], concurrency=3, seconds=0.5)
    return asyncio.run(Callers(plan).run())


def test_http_answers_are_counted_and_timed(http_server: str, tmp_path: Path) -> None:
    found = outcome(tmp_path, http_server, b"one", b"x" * 200_000)
    assert found.answers > 0
    assert found.errors == 0
    assert 0 < found.p50_ms <= found.p99_ms


def test_refusals_are_errors_and_no_answers(http_server: str, tmp_path: Path) -> None:
    found = outcome(tmp_path, http_server, b"bad")
    assert found.answers == 0
    assert found.errors > 0
    assert "400" in found.problems[0]
    with pytest.raises(UnavailableError, match="400"):
        read_own(json.dumps(asdict(found)))


@pytest.mark.parametrize(
    ("head", "length"),
    [(b"HTTP/1.1 200 OK\r\ncontent-LENGTH: 12", 12), (b"HTTP/1.1 200 OK\r\nServer: x", None)],
)
def test_the_length_of_an_answer(head: bytes, length: int | None) -> None:
    assert content_length(head) == length


def test_a_form_carries_the_row_unchanged() -> None:
    row = bytes(range(256))
    dialect = Dialect("http", "/", form_field="row")
    body = dialect.http_body(row)
    assert row in body
    assert body.endswith(dialect.content_type.rpartition("=")[2].encode() + b"--\r\n")
    assert Dialect("http", "/").http_body(row) == row


def test_the_echo_under_load_by_our_generator(tmp_path: Path) -> None:
    """The whole way: a server's process, a generator's process, both sides' figures."""
    model = MODELS["tiny"]
    workload = Tensors("tiny", model, write_model(model, tmp_path), tmp_path)
    subject = Echo()
    serving = subject.start(model, workload.graph, tmp_path)
    try:
        assert workload.wait(subject, serving) > 0
        command = workload.command(subject, serving, 4, 0.5)
        window = (ran := run(command.argv, serving, 0.5)).window(command.read(ran.output))
    finally:
        serving.program.stop()
    assert window.images_per_second > 0
    assert window.p50_ms <= window.p99_ms
    assert window.mean_batch == 1.0
    assert window.errors == 0
    assert window.server_cores > 0
    assert window.generator_cores > 0
    rows, runs = total(tmp_path)
    assert rows == runs >= window.images_per_second * 0.5


def test_a_generator_that_fails_says_what(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.serving.generator", "none.json"]
    program = Program([sys.executable, "-c", "import time; time.sleep(600)"], tmp_path / "log")
    try:
        with pytest.raises(UnavailableError, match=r"generator failed: .*none\.json"):
            run(command, Serving(program, "127.0.0.1:1", tmp_path), 0.1)
    finally:
        program.stop()


def test_counts_of_several_processes_add_up(tmp_path: Path) -> None:
    counters = Counters(tmp_path)
    counters.ran(3)
    counters.ran(5)
    (tmp_path / "1.counts").write_bytes((2).to_bytes(8, "little") + (1).to_bytes(8, "little"))
    assert total(tmp_path) == (10, 3)


def test_counts_of_the_service_come_from_tritons_counters() -> None:
    text = (
        "# HELP nv_inference_count x\n"
        'nv_inference_count{model="a",version="1"} 12.0\n'
        'nv_inference_count{model="a",version="2"} 3.0\n'
        'nv_inference_exec_count{model="a",version="1"} 4.0\n'
        'nv_inference_exec_count{model="a",version="2"} 1.0\n'
        'visionloop_batch_rows_sum{model="a"} 99.0\n'
        'visionloop_batch_rows_count{model="a"} 9.0\n'
    )
    assert rows_and_runs(text) == (15, 5)
    assert rows_and_runs("\n".join(text.splitlines()[-2:])) == (99, 9)
    assert rows_and_runs("") == (0, 0)

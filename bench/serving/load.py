"""One window of load on one server, and what both sides used meanwhile.

gRPC tensors are sent by NVIDIA's perf_analyzer, which is written in C++ and belongs to none of the
servers; it needs NVIDIA's libcudart (from PyPI) and the system's libb64, and runs in a venv of its
own. Everything else is sent by `bench.serving.generator`.
"""

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.serving.generator import BEGINS, Plan
from bench.serving.processes import Usage, machine_cpu, usage
from bench.serving.subjects import Serving, Subject
from bench.serving.venvs import Venv
from visionloop.errors import UnavailableError

ANALYZER = ("tritonclient[grpc]==2.50.0", "nvidia-cuda-runtime-cu12==12.9.79")
WINDOWS = 3  # perf_analyzer's measurements in one of ours; it wants three to call itself stable
STABLE = "99999"  # percent: it may end without a figure where windows differ by more
START_SECONDS = 0.2  # until perf_analyzer sends; our own generator says when it begins
BEGIN, END = 0.1, 0.9  # of the window: between them CPU is read
GRACE_SECONDS = 60.0
_TOO_SHORT = "No valid requests recorded"  # perf_analyzer's words
_MISSING = {"libb64.so.0d": "libb64-0d"}  # what perf_analyzer links: its Debian and Ubuntu package


class TooShortError(UnavailableError):
    """No request was answered within the window: it must be longer."""


@dataclass(frozen=True, slots=True)
class Window:
    """One window's figures. An image is one row of one request."""

    images_per_second: float
    p50_ms: float
    p99_ms: float
    mean_batch: float  # 0 when nothing ran
    server_cores: float
    generator_cores: float
    other_cores: float  # used by everything else on the machine
    rss: int
    errors: int
    problems: tuple[str, ...]

    @property
    def cpu_s_per_image(self) -> float:
        """The server's."""
        return self.server_cores / self.images_per_second if self.images_per_second else 0.0


@dataclass(frozen=True, slots=True)
class Answers:
    """What a generator says at its end."""

    images_per_second: float
    p50_ms: float
    p99_ms: float
    errors: int = 0
    problems: tuple[str, ...] = ()


class PerfAnalyzer:
    """NVIDIA's generator."""

    name = "perf_analyzer"

    def __init__(self, venvs: Path, scratch: Path) -> None:
        self._venv = Venv(venvs / "perf_analyzer", ANALYZER)
        self._csv = scratch / "perf_analyzer.csv"

    def prepare(self) -> None:
        """Installs it and sees it start. Raises UnavailableError that says what is missing."""
        self._venv.install()
        done = subprocess.run(
            [self._program, "--version"],
            env=self.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode == 0:
            return
        words = (done.stderr or done.stdout).strip()
        for library, package in _MISSING.items():
            if library in words:
                raise UnavailableError(
                    f"perf_analyzer needs the system library {library}; install the package "
                    f"{package} (apt-get install {package})"
                )
        raise UnavailableError(f"perf_analyzer does not start: {words}")

    @property
    def _program(self) -> str:
        return str(self._venv.python.parent / "perf_analyzer")

    @property
    def environment(self) -> dict[str, str]:
        """It finds NVIDIA's runtime only by the loader's path."""
        found = self._venv.folder.absolute().glob("lib/python*/site-packages/nvidia/*/lib")
        return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(map(str, found))}

    def command(
        self, serving: Serving, subject: Subject, model: str, rows: Path, concurrency: int,
        seconds: float,
    ) -> list[str]:  # fmt: skip
        """`rows` is a folder with one raw row in a file named like the input."""
        self._csv.unlink(missing_ok=True)
        return [
            self._program, "-m", model, "-i", "grpc", "-u", serving.target,
            "--concurrency-range", str(concurrency), "--input-data", str(rows),
            "-p", str(round(1000 * seconds / WINDOWS)), "-r", str(WINDOWS), "-s", STABLE,
            "-f", str(self._csv), *subject.analyzer_options,
        ]  # fmt: skip

    def read(self, output: str) -> Answers:
        """From the file that it wrote."""
        if not self._csv.exists():
            raise UnavailableError(f"perf_analyzer gave no figures: {_last(output)}")
        with self._csv.open() as file:
            row = next(csv.DictReader(file))
        return Answers(
            images_per_second=float(row["Inferences/Second"]),
            p50_ms=float(row["p50 latency"]) / 1000,
            p99_ms=float(row["p99 latency"]) / 1000,
        )


def own_command(plan: Plan, scratch: Path) -> list[str]:
    """Our own generator's."""
    file = scratch / "plan.json"
    file.write_text(json.dumps(asdict(plan)))
    return [sys.executable, "-m", "bench.serving.generator", str(file)]


def read_own(output: str) -> Answers:
    """From its last line."""
    said = json.loads(output.strip().splitlines()[-1])
    if not said["answers"]:
        kind = UnavailableError if said["problems"] else TooShortError
        raise kind(f"no request was answered: {said['problems'] or 'too slow'}")
    return Answers(
        images_per_second=said["answers"] / said["seconds"],
        p50_ms=said["p50_ms"],
        p99_ms=said["p99_ms"],
        errors=said["errors"],
        problems=tuple(said["problems"]),
    )


@dataclass(frozen=True, slots=True)
class Run:
    """A generator that ran, and what was seen of the server meanwhile."""

    output: str
    mean_batch: float
    server_cores: float
    generator_cores: float
    other_cores: float
    rss: int

    def window(self, answers: Answers) -> Window:
        """Both sides' figures together."""
        return Window(
            images_per_second=answers.images_per_second,
            p50_ms=answers.p50_ms,
            p99_ms=answers.p99_ms,
            mean_batch=self.mean_batch,
            server_cores=self.server_cores,
            generator_cores=self.generator_cores,
            other_cores=self.other_cores,
            rss=self.rss,
            errors=answers.errors,
            problems=answers.problems,
        )


@dataclass(frozen=True, slots=True)
class _Both:
    """Everybody's use of the machine at one moment."""

    server: Usage
    generator: Usage
    machine: float

    @classmethod
    def of(cls, serving: Serving, generator: subprocess.Popen[bytes]) -> "_Both":
        return cls(usage(serving.program.pid), usage(generator.pid), machine_cpu())


def run(
    command: Sequence[str],
    serving: Serving,
    seconds: float,
    environment: Mapping[str, str] | None = None,
    *,
    announced: bool = True,
) -> Run:
    """Runs a generator against a server; `announced` if it says when it begins.

    Raises UnavailableError when either gives up.
    """
    rows, runs = serving.batches()
    log = serving.counters / "load.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    try:
        if announced:
            _wait_until_it_begins(process, log)
        else:
            time.sleep(START_SECONDS)
        time.sleep(BEGIN * seconds)
        first = _Both.of(serving, process)
        time.sleep((END - BEGIN) * seconds)
        last = _Both.of(serving, process)
        process.wait(seconds + GRACE_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"the load did not end within {error.timeout} s") from error
    finally:
        process.kill()  # without effect when it has ended
        process.wait()
    output = log.read_text(errors="replace")
    if serving.program.ended:
        raise UnavailableError(f"the server ended: {serving.program.last_words()}")
    if process.returncode != 0:
        kind = TooShortError if _TOO_SHORT in output else UnavailableError
        raise kind(f"the load generator failed: {_last(output)}")
    rows_after, runs_after = serving.batches()
    lap = last.server.at - first.server.at
    server = (last.server.cpu - first.server.cpu) / lap
    generator = (last.generator.cpu - first.generator.cpu) / lap
    return Run(
        output=output,
        mean_batch=(rows_after - rows) / (runs_after - runs) if runs_after > runs else 0.0,
        server_cores=server,
        generator_cores=generator,
        other_cores=max(0.0, (last.machine - first.machine) / lap - server - generator),
        rss=max(first.server.rss, last.server.rss),
    )


def _wait_until_it_begins(process: subprocess.Popen[bytes], log: Path) -> None:
    """Or ends. What it says then is looked at later."""
    end = time.monotonic() + GRACE_SECONDS
    while BEGINS not in log.read_text(errors="replace") and process.poll() is None:
        if time.monotonic() > end:
            raise subprocess.TimeoutExpired(process.args, GRACE_SECONDS)
        time.sleep(0.005)


def _last(output: str) -> str:
    return " | ".join(output.strip().splitlines()[-3:]) or "it said nothing"


if __name__ == "__main__":
    from bench.serving.options import Options

    # `make perf-analyzer`: for the tests that use it.
    venvs = Options().output / "venvs"
    PerfAnalyzer(venvs, venvs).prepare()

"""`make soak`: load, versions that change and processes that die, and what they do to memory.

A real server with mobilenet_v3_small gets calls at about a third of what it can do. Every
SWAP_EVERY seconds another version becomes stable, and every KILL_EVERY seconds a runner or a front
end is killed, until half of the time is over: then they may grow old. Callers repeat what fails
until it is answered. Exit code 0 means that it ran; the verdicts are for people.

Environment: SOAK_SECONDS (1800) and OUTPUT (build/bench), which gets soak.json and the log.
"""

import itertools
import json
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from bench.serving.processes import Program, cores
from bench.soak.callers import Callers, saturating_rate
from bench.soak.load import Call
from bench.soak.report import Sample, as_json, table, verdicts
from bench.soak.versions import Versions
from visionloop.errors import ConfigurationError, UnavailableError, VisionloopError
from visionloop.objectstore import open_store
from visionloop.repository import ModelRepository

LOAD_SHARE = 1 / 3
SWAP_EVERY, KILL_EVERY, SAMPLES = 10.0, 23.0, 60
READY_SECONDS = 120.0
MODULES = ("visionloop_inference.runner_process", "visionloop_inference.front_end")


class Heard:
    """The calls since the last look, counted as they come."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: list[Call] = []

    def __call__(self, call: Call) -> None:
        with self._lock:
            self._calls.append(call)

    def take(self) -> list[Call]:
        """All of them, once."""
        with self._lock:
            calls, self._calls = self._calls, []
        return calls


class Soak:
    """One run."""

    def __init__(self, seconds: float, output: Path, folder: Path) -> None:
        self._seconds = seconds
        self._folder = folder
        self._versions = Versions(output / "models")
        self._repository = ModelRepository(open_store(f"file://{folder}/store"))
        self._log = output / "soak.log"
        self._swaps = self._kills = 0
        self.samples: list[Sample] = []

    def run(self) -> None:
        """Raises UnavailableError when the server does not become ready or ends by itself."""
        self._versions.publish(self._repository, "soak")
        server = self._start()
        try:
            target = self._target(server)
            rate = LOAD_SHARE * saturating_rate(self._versions.plan(target), self._folder, 3.0)
            say(f"{rate:.0f} calls a second for {self._seconds:.0f} s; the log is {self._log}")
            heard = Heard()
            plan = self._versions.plan(target, rate=rate, retry=True)
            with Callers(plan, self._folder, heard=heard) as callers:
                callers.answering()
                self._soak(server, heard)
        finally:
            server.stop()

    def _start(self) -> Program:
        return Program(
            [
                sys.executable, "-m", "visionloop_inference", f"--store=file://{self._folder}/store",
                "--port=0", "--http-port=0", f"--ready-file={self._folder / 'ready.json'}",
                "--poll-seconds=0.5",
            ],
            self._log,
        )  # fmt: skip

    def _target(self, server: Program) -> str:
        """Where it listens, once the model answers."""
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end and not server.ended:
            with suppress(FileNotFoundError, OSError):
                target: str = json.loads((self._folder / "ready.json").read_text())["grpc"]
                with Callers(self._versions.plan(target, in_flight=1), self._folder, "try") as one:
                    one.answering()
                if any(call.status == "OK" for call in one.calls):
                    return target
            time.sleep(0.2)
        raise UnavailableError(f"the server does not serve: {server.last_words()}")

    def _soak(self, server: Program, heard: Heard) -> None:
        began = time.monotonic()
        swaps, kills, samples = (
            _every(began, seconds)
            for seconds in (SWAP_EVERY, KILL_EVERY, max(self._seconds / SAMPLES, 2.0))
        )
        swap, kill, sample = next(swaps), next(kills), next(samples)
        while (now := time.monotonic()) < began + self._seconds:
            if server.ended:
                raise UnavailableError(f"the server ended: {server.last_words()}")
            if now >= sample:
                self._sample(server, heard.take(), now - began)
                sample = next(samples)
            if now >= swap:
                self._versions.publish(self._repository, "soak")
                self._swaps += 1
                swap = next(swaps)
            if now >= kill and now < began + self._seconds / 2:
                self._kill(server)
                kill = next(kills)
            time.sleep(0.05)

    def _kill(self, server: Program) -> None:
        victims = _below(server.pid)[MODULES[self._kills % 2]]
        if victims:
            with suppress(ProcessLookupError):
                os.kill(victims[0], signal.SIGKILL)
            self._kills += 1

    def _sample(self, server: Program, calls: list[Call], at: float) -> None:
        answered = [call for call in calls if call.status == "OK"]
        if not answered:
            return
        times = sorted(1000 * call.seconds for call in answered)
        below = _below(server.pid)
        runners, front_ends = (below[module] for module in MODULES)
        self.samples.append(
            Sample(
                at=at,
                calls=len(answered),
                failed=len(calls) - len(answered),
                wrong=sum(not self._versions.is_right(call) for call in answered),
                p50_ms=statistics.median(times),
                p99_ms=times[min(len(times) - 1, int(0.99 * len(times)))],
                version=answered[-1].version,
                swaps=self._swaps,
                kills=self._kills,
                supervisor_mib=_memory([server.pid]),
                front_ends_mib=_memory(front_ends),
                runners_mib=_memory(runners),
                descriptors=sum(_descriptors(pid) for pid in (server.pid, *front_ends)),
                processes=1 + len(runners) + len(front_ends),
                machine_load=os.getloadavg()[0],
            )
        )
        say(
            table(self.samples[-1:]).splitlines()[-1]
            if len(self.samples) > 1
            else table(self.samples)
        )


def _every(began: float, seconds: float) -> Iterator[float]:
    return (began + count * seconds for count in itertools.count(1))


def _below(pid: int) -> dict[str, list[int]]:
    """The pids of the server's runners and front ends, the oldest first."""
    found: dict[str, list[int]] = {module: [] for module in MODULES}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # a thread that ended meanwhile
            for child in map(int, (task / "children").read_text().split()):
                with suppress(OSError):
                    command = Path(f"/proc/{child}/cmdline").read_bytes().decode()
                    for module in MODULES:
                        if module in command:
                            found[module].append(child)
    return {module: sorted(pids) for module, pids in found.items()}


def _memory(pids: list[int]) -> float:
    """MiB that are theirs alone."""
    kib = 0
    for pid in pids:
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Private_"):
                    kib += int(line.split()[1])
    return kib / 1024


def _descriptors(pid: int) -> int:
    with suppress(OSError):
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return 0


def say(text: str) -> None:
    """Progress, on stderr: stdout is for the table."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def main() -> int:
    """The exit code."""
    output = Path(os.environ.get("OUTPUT", "build/bench")).absolute()
    try:
        try:
            seconds = float(os.environ.get("SOAK_SECONDS", "1800"))
        except ValueError as error:
            raise ConfigurationError(f"SOAK_SECONDS: {error}", field="SOAK_SECONDS") from error
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="visionloop-soak-") as folder:
            soak = Soak(seconds, output, Path(folder))
            soak.run()
    except VisionloopError as error:
        sys.stderr.write(f"soak: {error}\n")
        return error.exit_code
    found = verdicts(soak.samples)
    document = {"seconds": seconds, "cores": cores(), **as_json(soak.samples, found)}
    (output / "soak.json").write_text(json.dumps(document, indent=1))
    print(table(soak.samples))
    print()
    for verdict in found:
        print(verdict)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`visionloop up`: all programs of the suite on this machine, in one data folder.

Each program is its own process, started by its own entry point, as in a cluster; this one only
starts them, waits until they listen, restarts one that dies, and passes the end signal on. On Linux
they end also when this one is killed.
"""

import argparse
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from visionloop.cli.output import Output
from visionloop.disk_space import room_for
from visionloop.errors import (
    ConfigurationError,
    ConflictError,
    UnavailableError,
    VisionloopError,
)
from visionloop.extras import require
from visionloop.flags import check_above_zero, check_port
from visionloop.objectstore.local import written_whole
from visionloop.orphans import ends_with_us

START_SECONDS = 60.0
STOP_SECONDS = 30.0
# A program that cannot live is not restarted for ever: this many deaths within a minute end `up`.
DEATHS_PER_MINUTE = 5


class _StartError(VisionloopError):
    """A program that did not start; its own exit code is ours, if it means something."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = code if 64 <= code <= 78 else VisionloopError.exit_code  # type: ignore[misc]


@dataclass
class Program:
    """One entry point with its flags, and the process that runs it now."""

    name: str
    arguments: list[str]
    ready_file: Path
    process: "subprocess.Popen[bytes] | None" = None
    deaths: tuple[float, ...] = ()

    def start(self) -> None:
        """Starts the process in a session of its own, so that Ctrl-C reaches it through us only."""
        self.ready_file.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [entry_point(self.name), *self.arguments, "--ready-file", str(self.ready_file)],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=ends_with_us(),
        )

    def exit_code(self) -> int | None:
        """The code it ended with; None while it runs."""
        return None if self.process is None else self.process.poll()

    def addresses(self) -> dict[str, object] | None:
        """What it listens on, once it does."""
        if not self.ready_file.is_file():
            return None
        addresses: dict[str, object] = json.loads(self.ready_file.read_text())
        return addresses

    def stop(self, deadline: float) -> None:
        """SIGTERM, then SIGKILL at the deadline (monotonic seconds)."""
        if self.process is None:
            return
        try:
            self.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def up(options: argparse.Namespace, output: Output) -> int:
    """Runs until SIGINT or SIGTERM; exit code 0 when all programs ended well."""
    require("inference")
    require("labeling")
    _check_flags(options)
    data = _data_folder(Path(options.data))
    with _alone_in(data):
        return _run(options, data, output)


def _run(options: argparse.Namespace, data: Path, output: Output) -> int:
    programs = _programs(options, data)
    stopping = _stop_signals()
    try:
        for program in programs:
            program.start()
        _wait_until_ready(programs, stopping)
        if not stopping.is_set():
            _announce(options, data, programs, output)
        while not stopping.wait(0.2):
            for program in programs:
                _restart_if_dead(program, output)
    finally:
        for program in programs:
            if program.exit_code() is None and program.process is not None:
                program.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for program in programs:
            program.stop(deadline)
    return 0


def _stop_signals() -> threading.Event:
    """An event that SIGINT, SIGTERM or the end of the terminal sets."""
    stopping = threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup sets it
        signal.signal(signal.SIGHUP, stop)
    return stopping


def _check_flags(options: argparse.Namespace) -> None:
    """What would fail in a child, told before anything starts. Raises ConfigurationError."""
    for name in ("inference-port", "inference-http-port", "labeling-port", "labeling-http-port"):
        check_port(name, getattr(options, name.replace("-", "_")))
    check_above_zero("poll-seconds", options.poll_seconds)
    if options.ready_file and not Path(options.ready_file).parent.is_dir():
        raise ConfigurationError(
            f"--ready-file {options.ready_file}: its folder is not there", field="ready_file"
        )


@contextmanager
def _alone_in(data: Path) -> Iterator[None]:
    """Two suites on one data folder would overwrite one another's addresses and cache.

    Raises ConflictError. The kernel frees the lock however the process ends.
    """
    with (data / "run" / "up.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            raise ConflictError(
                f"{data} is in use by another `visionloop up`, process {lock.read().strip()}; stop "
                "that one, or choose another folder by --data"
            ) from error
        with room_for(data, setting="--data"):
            lock.truncate(0)
            os.write(lock.fileno(), str(os.getpid()).encode())  # no buffer that fails once more
        yield


def _data_folder(data: Path) -> Path:
    try:
        with room_for(data, setting="--data"):
            (data / "run").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"cannot use {data} as data folder: {error.strerror}", field="data"
        ) from error
    return data.resolve()


def _programs(options: argparse.Namespace, data: Path) -> list[Program]:
    store = options.store or (data / "store").as_uri()
    # On a port of the system's choice its address is not known yet: then there are no suggestions.
    port = options.inference_port
    inference = ["--inference", f"127.0.0.1:{port}"] if port else []
    return [
        Program(
            "visionloop-labeling",
            ["--store", store, "--database", f"sqlite:///{data / 'labeling.db'}"]
            + ["--http-port", str(options.labeling_http_port)]
            + ["--grpc-port", str(options.labeling_port)]
            + inference,
            data / "run" / "labeling.json",
        ),
        Program(
            "visionloop-inference",
            ["--store", store, "--cache", str(data / "model-cache")]
            + ["--port", str(options.inference_port)]
            + ["--http-port", str(options.inference_http_port)]
            + ["--poll-seconds", str(options.poll_seconds)],
            data / "run" / "inference.json",
        ),
    ]


def entry_point(name: str) -> str:
    """The program beside this interpreter, else on the PATH."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise ConfigurationError(f"{name} is not installed beside {sys.executable}")
    return found


def _wait_until_ready(programs: list[Program], stopping: threading.Event) -> None:
    deadline = time.monotonic() + START_SECONDS
    for program in programs:
        while program.addresses() is None and not stopping.is_set():
            code = program.exit_code()
            if code is not None:
                raise _StartError(
                    f"{program.name} ended with code {code} at start; its message is above", code
                )
            if time.monotonic() > deadline:
                raise UnavailableError(f"{program.name} did not start in {START_SECONDS:.0f} s")
            stopping.wait(0.05)


def _announce(
    options: argparse.Namespace, data: Path, programs: list[Program], output: Output
) -> None:
    addresses = {program.name: program.addresses() or {} for program in programs}
    summary = {"pid": os.getpid(), "data": str(data), **addresses}
    if options.ready_file:
        try:
            with written_whole(Path(options.ready_file)) as file:
                file.write(json.dumps(summary).encode())
        except OSError as error:
            raise ConfigurationError(
                f"--ready-file {options.ready_file} cannot be written: {error.strerror}",
                field="ready_file",
            ) from error
    output.result(summary)
    labeling, inference = addresses["visionloop-labeling"], addresses["visionloop-inference"]
    output.line(f"labeling-ingest  page http://{labeling.get('http')}  gRPC {labeling.get('grpc')}")
    output.line(
        f"inference        gRPC {inference.get('grpc')}  metrics http://{inference.get('http')}/metrics"
    )
    output.line(f"data in {data}; Ctrl-C stops everything")
    output.flush()


def _restart_if_dead(program: Program, output: Output) -> None:
    code = program.exit_code()
    if code is None:
        return
    now = time.monotonic()
    program.deaths = (*(t for t in program.deaths if now - t < 60.0), now)
    if len(program.deaths) >= DEATHS_PER_MINUTE:
        raise UnavailableError(
            f"{program.name} ended {DEATHS_PER_MINUTE} times within a minute, "
            f"last with code {code}; its messages are above"
        )
    output.note(f"{program.name} ended with code {code}; starting it again")
    program.start()

"""Running the suite's commands as a user would, and showing each before it runs."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from visionloop.errors import RefusedError, UnavailableError
from visionloop.telemetry.logs import FORMAT_VARIABLE

START_SECONDS = 90.0
READABLE_LOGS = {FORMAT_VARIABLE: "text"}


def say(text: str = "") -> None:
    """One line to the person who watches."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def command(
    name: str, *arguments: str, accept: tuple[int, ...] = (0,), gives_way: bool = False
) -> dict[str, Any]:
    """Runs a command of the suite with --json; its progress is shown, its result returned.

    One that `gives_way` has a low priority for the processors. Raises UnavailableError or
    RefusedError, by the command's code, when that is another than accepted.
    """
    prefix = ["nice"] if gives_way else []
    line = [*prefix, _entry_point(name), *arguments]
    say(f"  $ {shlex.join([*prefix, name, *arguments])}")
    environment = {**os.environ, **READABLE_LOGS}
    done = subprocess.run([*line, "--json"], stdout=subprocess.PIPE, env=environment, check=False)
    if done.returncode not in accept:
        words = f"{name} {arguments[0]} ended with code {done.returncode}; its message is above"
        if done.returncode == UnavailableError.exit_code:
            raise UnavailableError(words)
        raise RefusedError(words)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _entry_point(name: str) -> str:
    return shutil.which(name, path=str(Path(sys.executable).parent)) or name


@contextmanager
def running(arguments: list[str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that lives as long as the block; SIGTERM at its end, SIGKILL if that is ignored."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [_entry_point(arguments[0]), *arguments[1:]],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **READABLE_LOGS},
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(
    what: str, ready: Callable[[], bool], process: "subprocess.Popen[bytes]", log: Path
) -> None:
    """Waits until `ready()`; raises UnavailableError when the process ends or time is up."""
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        if process.poll() is not None:
            raise UnavailableError(
                f"{what}: the program ended with code {process.returncode}; see {log}"
            )
        if time.monotonic() > deadline:
            raise UnavailableError(f"{what} did not happen in {START_SECONDS:.0f} s; see {log}")
        time.sleep(0.05)

"""A process of callers as its parent sees it: started, heard, ended."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from bench.soak.load import Call, Plan, parse

FIRST_ANSWER_SECONDS = 60.0


class Callers:
    """Calls that go on in a process of its own until the block ends; then they are all in `calls`.

    `heard` gets each call as it comes, in a thread.
    """

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        name: str = "load",
        heard: Callable[[Call], None] | None = None,
    ) -> None:
        self.calls: list[Call] = []
        self._heard = heard or self.calls.append
        self._first = threading.Event()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.soak.load", str(plan.write(folder / f"{name}.json"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._heard(parse(line))
            self._first.set()

    def answering(self) -> "Callers":
        """Waits until the first call is answered, well or badly."""
        assert self._first.wait(FIRST_ANSWER_SECONDS), "no answer at all"
        return self

    def stop(self) -> None:
        """No new calls; those under way are waited for."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._reader.join()
        assert self._process.wait() == 0, "the callers failed"

    def close(self) -> None:
        """Ends the process, whatever it does."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> "Callers":
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if error is None:
            self.stop()
        self.close()


def saturating_rate(plan: Plan, folder: Path, seconds: float) -> float:
    """Answers per second when callers never wait."""
    with Callers(plan, folder, "saturate") as callers:
        callers.answering()
        time.sleep(seconds)
    calls = callers.calls[plan.in_flight :]  # connections are made first
    return len(calls) / max(calls[-1].answered - calls[0].answered, 1e-3)

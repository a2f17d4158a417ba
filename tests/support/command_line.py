"""The CLI as a process: `visionloop("models", "list")` gives what it printed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def visionloop(*arguments: str | Path, code: int = 0, cwd: Path | None = None) -> str:
    """Runs the CLI; returns stdout, or stderr's one line where it is to fail."""
    done = subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
        env=environment(),
        check=False,
    )
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    if code == 0 or (code == 65 and done.stdout):  # 65: some rows, or the whole verb
        return done.stdout
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    return done.stderr


def result(*arguments: str | Path, code: int = 0) -> Any:
    """What the CLI gives with --json."""
    return json.loads(visionloop(*arguments, "--json", code=code))


def command(*arguments: str | Path) -> list[str]:
    """The process to start."""
    return [sys.executable, "-m", "visionloop.cli", *map(str, arguments)]


def environment() -> dict[str, str]:
    """This one, without VISIONLOOP_* that would steer the CLI."""
    return {k: v for k, v in os.environ.items() if not k.startswith("VISIONLOOP_")}

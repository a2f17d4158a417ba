"""The training program behind `reproduce` and `evaluate`: its end is ours."""

import signal
from pathlib import Path

import pytest

from visionloop.cli import trained
from visionloop.cli.main import main


@pytest.mark.parametrize(
    ("ends", "code"), [("exit 85", 85), ("kill -KILL $$", 128 + signal.SIGKILL)]
)
def test_the_programs_end_is_told_as_a_shell_tells_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str, code: int
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{ends}\n")
    python.chmod(0o755)
    monkeypatch.setattr(trained.sys, "executable", str(python))
    assert main(["reproduce", "cells@1", "--store", tmp_path.as_uri()]) == code

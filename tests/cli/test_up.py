"""`visionloop up`: one suite per data folder, mistakes told before anything starts, clean ends."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.process_tree import children, command, is_alive
from support.waiting import wait_for

from visionloop.demo.steps import Suite, suite_running

PROGRAMS = ("visionloop-labeling", "visionloop-inference")
PORTS = ("--inference-port", "--inference-http-port", "--labeling-port", "--labeling-http-port")
FREE = [word for flag in PORTS for word in (flag, "0")]


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    with suite_running(tmp_path_factory.mktemp("suite"), None) as running:
        yield running


def up(*flags: str | Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "visionloop.cli", "up", *map(str, flags)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("VISIONLOOP_")},
    )


def refused(*flags: str | Path) -> tuple[int, str]:
    process = up(*flags)
    _, told = process.communicate(timeout=120)
    assert "Traceback" not in told
    return process.returncode, told


def test_a_second_suite_leaves_the_first_ones_folder_alone(suite: Suite) -> None:
    data = Path(suite.store.removeprefix("file://")).parent
    files = sorted((data / "run").glob("*.json"))
    before = [file.read_text() for file in files]
    code, told = refused("--data", data, *FREE)
    assert (code, len(told.splitlines())) == (75, 1)
    assert "in use by another" in told
    assert [file.read_text() for file in files] == before


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--inference-port", "99999"], "--inference-port is 99999"),
        (["--poll-seconds", "0"], "--poll-seconds is 0"),
        (["--ready-file", "nowhere/ready.json"], "--ready-file nowhere/ready.json"),
    ],
)
def test_a_wrong_flag_starts_nothing(tmp_path: Path, flags: list[str], said: str) -> None:
    code, told = refused("--data", tmp_path / "data", *flags)
    assert code == 64
    assert said in told
    assert not (tmp_path / "data").exists()


def test_a_taken_port_ends_with_the_programs_own_code(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        code, told = refused("--data", tmp_path / "data", *FREE, "--labeling-http-port", port)
    assert code == 64
    assert port in told


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGHUP, marks=pytest.mark.long)]
)
def test_a_signal_stops_every_program(tmp_path: Path, number: signal.Signals) -> None:
    process = up("--data", tmp_path / "data", *FREE, "--json")
    started = announced(process)
    process.send_signal(number)
    assert process.communicate(timeout=90)[0] == ""
    assert process.returncode == 0
    for program in PROGRAMS:
        with pytest.raises(ProcessLookupError):
            os.kill(started[program]["pid"], 0)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_nothing_outlives_it_when_it_is_killed(tmp_path: Path) -> None:
    process = up("--data", tmp_path / "data", *FREE, "--json")
    started = announced(process)
    programs = [started[name]["pid"] for name in PROGRAMS]
    family = {pid for program in programs for pid in (program, *children(program))}
    assert len(family) > len(programs) == 2  # front ends, runners and inspectors as well
    process.kill()
    process.wait()
    for pid in family:
        wait_for(lambda pid=pid: not is_alive(pid), hint=f"the end of {command(pid)}")


def announced(process: "subprocess.Popen[str]") -> dict[str, Any]:
    """What --json says, once all programs listen."""
    assert process.stdout is not None
    lines = []
    while not lines or lines[-1] != "}\n":  # the document's own end; inner ones are indented
        lines.append(process.stdout.readline())
        assert lines[-1], process.communicate()[1]
    told: dict[str, Any] = json.loads("".join(lines))
    return told

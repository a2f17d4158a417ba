"""`visionloop doctor`: every program's own doctor as a process, one report, one exit code."""

import contextlib
import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
from support.bundles import publish_bundle
from support.command_line import command, environment, result, visionloop
from support.process_tree import children
from support.stores import free_ports

from visionloop.objectstore import open_store
from visionloop.repository import ModelRepository

PROGRAMS = {"visionloop-inference", "visionloop-labeling", "visionloop-train"}


def test_all_programs_on_a_fresh_store(tmp_path: Path) -> None:
    store = (tmp_path / "store").as_uri()
    publish_bundle(ModelRepository(open_store(store)), "cells", seed=1, promote=True)
    flags = ("--store", store, "--database", f"sqlite:///{tmp_path}/labeling.db")
    told = result("doctor", *flags)
    assert told["ok"] is True
    assert {finding["program"] for finding in told["findings"]} == PROGRAMS
    assert {finding["status"] for finding in told["findings"]} <= {"ok", "warning"}
    assert not (tmp_path / "labeling.db").exists()


def test_people_get_a_table(tmp_path: Path) -> None:
    (tmp_path / "visionloop-data" / "store").mkdir(parents=True)
    said = visionloop("doctor", "--program", "inference", cwd=tmp_path)  # the store of `up`
    header, *rows = said.splitlines()
    assert header.split() == ["program", "check", "finding"]
    assert any("a graph runs on cpu" in row for row in rows)
    assert rows[-1].startswith("nothing stands in the way; ")


@pytest.mark.s3
def test_the_first_failure_is_the_exit_code(
    s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    done = subprocess.run(
        command("doctor", "--program", "labeling", "--store", s3_url, "--database", "mysql://x/y"),
        capture_output=True,
        text=True,
        env=environment(),
        cwd=tmp_path,
        timeout=120,
        check=False,
    )
    assert done.returncode == 77, done.stderr
    assert "does not accept the credentials" in done.stdout
    assert "mysql is not supported" in done.stdout
    assert "2 of " in done.stdout.splitlines()[-1]
    assert done.stderr == ""


def test_settings_that_a_program_refuses(tmp_path: Path) -> None:
    environment_with_a_mistake = environment() | {"VISIONLOOP_MAX_BATCH": "many"}
    done = subprocess.run(
        command("doctor", "--program", "inference", "--store", tmp_path.as_uri(), "--json"),
        capture_output=True,
        text=True,
        env=environment_with_a_mistake,
        timeout=120,
        check=False,
    )
    assert done.returncode == 64
    [finding] = json.loads(done.stdout)["findings"]
    assert (finding["check"], finding["status"]) == ("settings", "failed")
    assert finding["said"] == "VISIONLOOP_MAX_BATCH is 'many'; it must be a whole number"


def test_the_password_of_the_database_is_on_no_command_line(tmp_path: Path) -> None:
    """Everybody on a machine sees the command lines of all programs, and nobody the environment."""
    database = f"postgresql://me:hunter2@127.0.0.1:{free_ports(1)[0]}/labels"
    doctor = subprocess.Popen(
        command("doctor", "--program", "labeling", "--store", tmp_path.as_uri()),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment() | {"VISIONLOOP_DATABASE": database},
    )
    try:
        arguments = b""
        while b"visionloop-labeling" not in arguments:
            assert doctor.poll() is None
            with contextlib.suppress(OSError):  # one has ended
                for child in children(doctor.pid):
                    arguments = Path(f"/proc/{child}/cmdline").read_bytes()
                    variables = Path(f"/proc/{child}/environ").read_bytes()
            time.sleep(0.02)
    finally:
        doctor.send_signal(signal.SIGINT)
        assert doctor.wait(60) == 130
    assert b"hunter2" not in arguments
    assert f"VISIONLOOP_DATABASE={database}".encode() in variables

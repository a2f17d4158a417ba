"""`visionloop doctor`: every program's own doctor as a process, one report, one exit code."""

import json
import subprocess
from pathlib import Path

import pytest
from support.bundles import publish_bundle
from support.command_line import command, environment, result, visionloop

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

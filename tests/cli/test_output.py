"""What the CLI writes, whatever the locale: every name comes out, and JSON stays JSON."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support.command_line import command, environment, visionloop

from visionloop.cli.output import Output
from visionloop.errors import VisionloopError

NAMES = ["Zürich", "東京", os.fsdecode(b"caf\xe9.png")]
PROGRAM = """
import sys
from visionloop.cli.output import Output
output = Output(as_json=sys.argv[1] == "json")
output.result(sys.argv[2:])
output.table(["image"], [[name] for name in sys.argv[2:]])
output.flush()
"""


def written(form: str, encoding: str) -> bytes:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, form, *NAMES],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
def test_json_gives_back_every_name(encoding: str) -> None:
    assert json.loads(written("json", encoding)) == NAMES


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("utf-8", ["Zürich", "東京", "caf\\udce9.png"]),
        ("latin-1", ["Zürich", "\\u6771\\u4eac", "caf\\udce9.png"]),
        ("ascii", ["Z\\xfcrich", "\\u6771\\u4eac", "caf\\udce9.png"]),
    ],
)
def test_people_see_what_their_terminal_has_letters_for(encoding: str, expected: list[str]) -> None:
    assert written("table", encoding).decode(encoding).splitlines() == ["image", *expected]


def test_what_others_wrote_breaks_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(as_json=False)
    output.table(["why", "who"], [["two\nlines\x1b[2J", "ada"]])
    output.note("a\rname")
    output.error(VisionloopError("one\nline"))
    told = capsys.readouterr()
    assert told.out.splitlines() == [f"{'why':17}  who", r"two\nlines\x1b[2J  ada"]
    assert told.err.splitlines() == [r"a\rname", r"visionloop: one\nline"]


def shell(line: str) -> "subprocess.CompletedProcess[str]":
    """What a shell makes of it; $CLI is the command line."""
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**environment(), "CLI": shlex.join(command()), "PYTHONUNBUFFERED": ""},
        check=False,
    )


def test_a_stdout_that_somebody_closed_is_said(tmp_path: Path) -> None:
    done = shell(f"$CLI models list --store {tmp_path.as_uri()} >&-")
    assert (done.returncode, len(done.stderr.splitlines())) == (64, 1)
    assert "cannot write the result to stdout" in done.stderr


def test_a_stderr_that_somebody_closed_changes_nothing_else(tmp_path: Path) -> None:
    assert "no model versions" in shell(f"$CLI models list --store {tmp_path.as_uri()} 2>&-").stdout
    assert shell("$CLI models list --store file:///nowhere/at/all 2>&-").returncode == 66


def test_help_that_nobody_reads_to_its_end_is_no_mistake() -> None:
    done = shell("$CLI import --help | true")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_mistake_that_nobody_reads_keeps_its_exit_code() -> None:
    assert shell("$CLI models list --store file:///nowhere/at/all 2>&1 | true").returncode == 66


def test_a_flag_is_never_abbreviated(tmp_path: Path) -> None:
    """--js was taken for --json by the parser, and not by what writes."""
    assert "--js" in visionloop("models", "list", "--store", tmp_path.as_uri(), "--js", code=64)

"""`visionloop-labeling migrate`, several at once on a real Postgres, as in a rollout."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory

from visionloop_labeling import database as module
from visionloop_labeling import migrate_command

PROGRAM = [sys.executable, "-m", "visionloop_labeling", "migrate", "--json"]


@pytest.mark.postgres
def test_of_several_that_start_at_once_one_migrates(postgres_url: str) -> None:
    started = [
        subprocess.Popen(
            [*PROGRAM, f"--database={postgres_url}"], stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    told = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0]
    head = ScriptDirectory(str(module._MIGRATIONS)).get_current_head()
    assert [json.loads(one)["revision"] for one in told] == [head] * 3


def test_it_says_where_the_tables_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert migrate_command.run([f"--database=sqlite:///{tmp_path / 'l.db'}"]) == 0
    head = ScriptDirectory(str(module._MIGRATIONS)).get_current_head()
    assert capsys.readouterr().out == f"the database is at revision {head}\n"


def test_what_is_wrong_is_one_line_and_a_code() -> None:
    done = subprocess.run(
        [*PROGRAM, "--database=postgresql://nobody@127.0.0.1:1/none"],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 69
    assert len(done.stderr.strip().splitlines()) == 1
    assert "cannot be used" in done.stderr

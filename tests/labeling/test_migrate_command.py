"""`visionloop-labeling migrate`, several at once on a real Postgres, as in a rollout."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory

from visionloop.errors import UnavailableError
from visionloop_labeling import database as module
from visionloop_labeling import migrate_command

PROGRAM = [sys.executable, "-m", "visionloop_labeling", "migrate", "--json"]


@pytest.mark.postgres
def test_of_several_that_start_at_once_one_migrates(postgres_url: str) -> None:
    started = [
        subprocess.Popen(
            [*PROGRAM, f"--database={postgres_url}"], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    told = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    head = ScriptDirectory(str(module.MIGRATIONS)).get_current_head()
    assert [json.loads(one)["revision"] for one in told] == [head] * 2


def test_it_says_where_the_tables_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert migrate_command.run([f"--database=sqlite:///{tmp_path / 'l.db'}"]) == 0
    head = ScriptDirectory(str(module.MIGRATIONS)).get_current_head()
    assert capsys.readouterr().out == f"the database is at revision {head}\n"


def test_a_database_that_is_not_there_is_to_be_tried_again() -> None:
    with pytest.raises(UnavailableError, match="cannot be used") as told:
        migrate_command.run(["--database=postgresql://nobody@127.0.0.1:1/none"])
    assert told.value.exit_code == 69

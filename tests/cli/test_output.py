"""What the CLI writes, whatever the locale: every name comes out, and JSON stays JSON."""

import json
import os
import subprocess
import sys

import pytest

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

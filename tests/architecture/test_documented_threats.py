"""The threat tables name code and tests that are there, so that no promise outlives its proof."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "threat-model.md"
# `path/of/a/file.py`, or `tests/….py::test_name`.
NAMED = re.compile(r"`((?:[a-z_\-]+/)+[\w.\-]+\.(?:py|tpl|yaml|md|sh))(?:::(\w+))?`")


def functions(path: Path) -> set[str]:
    """The names of all functions in a file, those in classes included."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {one.name for one in ast.walk(ast.parse(path.read_text())) if isinstance(one, kinds)}


def test_code_and_tests_that_the_tables_name_are_there() -> None:
    named = NAMED.findall(PAGE.read_text(encoding="utf-8"))
    assert len(named) > 60
    missing = [
        f"{name}::{test}"
        for name, test in named
        if not (ROOT / name).is_file() or (test and test not in functions(ROOT / name))
    ]
    assert missing == []


def test_every_threat_says_what_is_done_and_what_shows_it() -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.count("|") == 6]
    threats = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    threats = [row for row in threats if row[0] != "threat" and not row[0].startswith("---")]
    assert len(threats) > 18
    for threat, done, where, shown, _left in threats:
        assert done, threat
        assert bool(where) == bool(shown), threat
        if shown:
            assert NAMED.search(shown), threat

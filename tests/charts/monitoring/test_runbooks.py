"""What runbooks look for in the logs is what the programs write there."""

import ast
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
from support.documented_commands import ROOT, blocks

RUNBOOKS = sorted((ROOT / "docs" / "runbooks").glob("Visionloop*.md"))
SOURCES = ("services", "training", "visionloop")
# What a message is filled with, and what stands on every line beside it.
FILLED = ("refused", "failed", "signal 9", "with exit code 1", "CUDA error")
FRAMES = ('{"level": "ERROR"}', '{"level": "WARNING"}', '{"code": "INVALID_ARGUMENT"}')


@cache
def messages() -> list[str]:
    """Everything that the programs log, each filled in every way."""
    found = list(FRAMES)
    for folder in SOURCES:
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                    continue
                logger = node.func.value
                if not (isinstance(logger, ast.Name) and logger.id in ("log", "_log")):
                    continue
                if node.args and isinstance(first := node.args[0], ast.Constant):
                    found += [re.sub(r"%[sdg.0-9f]+", word, str(first.value)) for word in FILLED]
    return found


def looked_for() -> list[tuple[str, str, bool]]:
    """(page, pattern, whether case counts) of each grep over a program's log."""
    found = []
    for page in RUNBOOKS:
        for block in blocks(page, "sh"):
            for line in block.splitlines():
                logs, pipe, grep = line.partition("| grep ")
                if pipe and " logs " in logs:
                    *flags, pattern = shlex.split(grep, comments=True)
                    found.append((page.stem, pattern, "i" not in "".join(flags)))
    return found


def alternatives(pattern: str) -> list[str]:
    """The parts of a|b, and of x (a|b); each must be worth looking for."""
    within = re.fullmatch(r"(.*)\(([^()]*)\)(.*)", pattern)
    if within and "?" not in within[3][:1]:
        before, parts, after = within.groups()
        return [before + part + after for part in parts.split("|")]
    return pattern.split("|") if "(" not in pattern else [pattern]


@pytest.mark.parametrize(("page", "pattern", "cased"), looked_for())
def test_what_is_looked_for_in_a_log_is_written_there(page: str, pattern: str, cased: bool) -> None:
    flags = re.NOFLAG if cased else re.IGNORECASE
    for part in alternatives(pattern):
        assert any(re.search(part, message, flags) for message in messages()), (page, part)


def test_the_pages_look_into_logs() -> None:
    assert len(looked_for()) > 8
    assert Path(RUNBOOKS[0]).exists()

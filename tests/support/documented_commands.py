"""Commands and YAML that the documentation shows, as a reader would paste them.

Variables and what a shell would fill in are replaced by values that tests may use.
"""

import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
# What stands for what the reader's shell knows; $(…) is a password.
VARIABLES = {"TEAM": "team-a", "RELEASE": "vision", "NAMESPACE": "vision"}
PASSWORD = "password-of-the-tests"
_AFTER = {"|", "&", "&&", ";", ">"}  # what comes then is another program's
_LOOPS = {"until", "while"}  # before a command
_BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a page, split into words as a shell would."""

    page: Path
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {' '.join(self.words)}"


def pages() -> list[Path]:
    """Every page for users."""
    return [
        ROOT / "README.md",
        *sorted((ROOT / "docs").rglob("*.md")),
        *sorted((ROOT / "charts").glob("*/README.md")),
    ]


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page, without the indentation of a list around them."""
    found = _BLOCK.findall(page.read_text(encoding="utf-8"))
    return [textwrap.dedent(text) for _, said, text in found if said == language]


def commands(program: str) -> list[Command]:
    """Every command of a shell block that begins with `program`."""
    return [
        Command(page, tuple(words))
        for page in pages()
        for block in blocks(page, "sh")
        for words in _words(block)
        if words[0] == program
    ]


def _words(block: str) -> Iterator[list[str]]:
    joined = re.sub(r"\\\n\s*", " ", block)
    for line in joined.splitlines():
        filled = re.sub(r"\$\([^()]*\)", PASSWORD, line)
        for name, value in VARIABLES.items():
            filled = filled.replace(f"${name}", value)
        try:
            words = shlex.split(filled, comments=True)
        except ValueError:
            continue  # a quotation over several lines: no call of helm or kubectl
        if words and words[0] in _LOOPS:
            del words[0]
        ends = (place for place, word in enumerate(words) if word in _AFTER)
        if words:
            yield words[: next(ends, len(words))]

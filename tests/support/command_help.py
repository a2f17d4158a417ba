"""Whether helm and kubectl know the flags that somebody wrote down, by their own --help."""

import re
import subprocess
from collections.abc import Sequence
from functools import cache

from support.helm import helm, kubectl


def unknown_flags(program: str, words: Sequence[str]) -> list[str]:
    """The flags in `words` (without the program) that `program`, helm or kubectl, does not have."""
    own = list(words[: words.index("--")] if "--" in words else words)
    flags = [word.partition("=")[0] for word in own if re.fullmatch(r"--?[a-zA-Z].*", word)]
    verb = [own[0]]
    if program == "kubectl" and own[0] in ("create", "rollout", "top"):
        verb = own[: 3 if own[:2] == ["create", "secret"] else 2]
    said = _help(program, *verb)
    if program == "kubectl":
        said += _help(program, "options")
    return [flag for flag in flags if not _knows(said, flag)]


def without_namespace(words: Sequence[str]) -> list[str]:
    """The words without -n and what follows it, which may stand before the verb."""
    found = list(words)
    while "-n" in found:
        place = found.index("-n")
        del found[place : place + 2]
    return found


def _knows(said: str, flag: str) -> bool:
    each = [flag] if flag.startswith("--") else [f"-{letter}" for letter in flag[1:]]
    return all(re.search(rf"(?<![\w-]){re.escape(one)}(?![\w-])", said) for one in each)


@cache
def _help(program: str, *words: str) -> str:
    path = {"helm": helm, "kubectl": kubectl}[program]()
    done = subprocess.run(
        [path, *words, "--help"], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 0, done.stderr
    return done.stdout

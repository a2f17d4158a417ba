"""Settings as people look for them: by section in --help, by --settings WORD, and after a mistake.

Rows are (field, default, description), as `config.describe` gives them. Other tools have other
words for some; the most frequent of those are known.
"""

import difflib
import textwrap
from collections.abc import Mapping, Sequence
from typing import Final

from visionloop.errors import NotFoundError

Row = tuple[str, str, str]

_WIDTH: Final = 98
# What other tools call it -> what it is called here.
ELSEWHERE: Final[Mapping[str, str]] = {
    "lr": "fit.learning_rate",
    "early stopping": "fit.patience",
    "img size": "pixels.image_size",
    "imgsz": "pixels.image_size",
    "resolution": "pixels.image_size",
    "batch": "fit.batch_size",
    "num epochs": "fit.epochs",
    "wd": "fit.weight_decay",
    "scheduler": "fit.schedule",
    "criterion": "fit.loss",
    "arch": "backbone.name",
    "architecture": "backbone.name",
    "checkpoint": "backbone.weights",
    "pretrained": "backbone.weights",
    "workers": "threads",
    "num workers": "threads",
    "randaugment": "augment.trivial",
    "random erasing": "augment.erase",
    "gradient clipping": "fit.clip_norm",
    "mixed precision": "fit.amp",
    "hidden head": "head.hidden",
}


def by_section(rows: Sequence[Row]) -> str:
    """The names alone, a paragraph for each section."""
    sections: dict[str, list[str]] = {}
    for field, _, _ in rows:
        section, _, name = field.rpartition(".")
        sections.setdefault(section, []).append(name)
    lines = [
        textwrap.fill(
            " ".join(names),
            78,
            initial_indent=f"  {section + '.' if section else '':<12}",
            subsequent_indent=" " * 14,
        )
        for section, names in sections.items()
    ]
    return "\n".join(lines) + "\n"


def explained(rows: Sequence[Row], words: str) -> str:
    """Those whose name or description has the words (all of them where there are none), each with
    its default and what it does. Raises NotFoundError where nothing is found."""
    wanted = _plain(words)
    known = ELSEWHERE.get(wanted)
    found = [
        (field, default, text)
        for field, default, text in rows
        if field == known or wanted in _plain(field) or wanted in _plain(text)
    ]
    if not found:
        raise NotFoundError(
            f"--settings {words}: no setting has that in its name or description; --settings alone "
            "prints all"
        )
    return "\n".join(_explained(row) for row in found) + "\n"


def near(rows: Sequence[Row], wrong: str) -> list[str]:
    """What somebody may have meant by a name that is no setting, likeliest first; at most three."""
    names = [field for field, _, _ in rows]
    last = wrong.rpartition(".")[2]
    known = ELSEWHERE.get(_plain(last))
    same = [name for name in names if name.rpartition(".")[2] == last]
    if known or same:
        return list(dict.fromkeys([*([known] if known else []), *same]))[:3]
    return difflib.get_close_matches(wrong, names, n=3, cutoff=0.7)


def _explained(row: Row) -> str:
    field, default, description = row
    indented = textwrap.fill(description, _WIDTH, initial_indent="    ", subsequent_indent="    ")
    return f"{field}={default}\n{indented}"


def _plain(words: str) -> str:
    return words.lower().replace("_", " ").replace("-", " ").strip()

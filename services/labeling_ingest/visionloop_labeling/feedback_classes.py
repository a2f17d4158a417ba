"""The classes that apps name in feedback: by their id, or as people call them.

An app is to say a class's id. One that was built beside another list says "Tea pot" where the
dataset has `teapot`, and a class of the name "Tea pot" has an id that nobody guesses. So a name
finds its class as well, and for what neither finds there is a person who knows what was meant.
"""

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from visionloop.errors import InvalidInputError
from visionloop_labeling import validation
from visionloop_labeling.classes import ClassBook, ClassState
from visionloop_labeling.schema import LabelClass

_NO_LETTERS = re.compile(r"[\W_]+")


@dataclass(frozen=True, slots=True)
class UnknownClass:
    """What an app said that is no class. `alike` is a class that is written nearly so, "" for none;
    `name` what a new class would be called, "" where none can be."""

    said: str
    alike: str
    name: str


def find(classes: ClassBook, said: str) -> LabelClass | None:
    """The class of this id; else the one that has this name, or had it and nobody has it now."""
    found = classes.find(said)
    name = _name(said)
    return classes.named(name) if found is None and name else found


class Offered:
    """The classes that a dataset offers. `words` has each by what `find` finds it by: its name, or
    its id where another class has that name as its id, as after a class was renamed."""

    def __init__(self, classes: ClassBook) -> None:
        everything = classes.all()
        ids = {one.key for one in everything}
        active = [one for one in everything if one.state == ClassState.ACTIVE]
        self.words = [one.key if one.name in ids else one.name for one in active]
        self._alike: dict[str, str] = {}
        written = [*(one.name for one in active), *(one.key for one in active)]
        for spelling, word in zip(written, 2 * self.words, strict=True):
            self._alike.setdefault(_letters(spelling), word)

    def alike(self, said: str) -> str:
        """The word for a class that is written nearly so, "" for none."""
        letters = _letters(said)
        return self._alike.get(letters, "") if letters else ""


def unknown(classes: ClassBook, offered: Offered, shown: Iterable[str]) -> list[UnknownClass]:
    """Those of what an app said that are no classes."""
    missing = [said for said in shown if find(classes, said) is None]
    return [UnknownClass(said, offered.alike(said), _name(said)) for said in missing]


def _name(said: str) -> str:
    """What a class would be called; "" for what none can be called."""
    with suppress(InvalidInputError):
        return validation.text(said, "class_id")
    return ""


def _letters(written: str) -> str:
    return _NO_LETTERS.sub("", written).casefold()

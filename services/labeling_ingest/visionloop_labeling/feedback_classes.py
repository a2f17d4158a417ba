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


def unknown(classes: ClassBook, shown: Iterable[str]) -> list[UnknownClass]:
    """Those of what an app said that are no classes."""
    missing = [said for said in shown if find(classes, said) is None]
    if not missing:
        return []
    alike: dict[str, str] = {}
    for one in classes.all():
        if one.state == ClassState.ACTIVE:
            for written in (one.key, one.name):
                alike.setdefault(_letters(written), one.name)
    return [UnknownClass(said, alike.get(_letters(said), ""), _name(said)) for said in missing]


def _name(said: str) -> str:
    """What a class would be called; "" for what none can be called."""
    with suppress(InvalidInputError):
        return validation.text(said, "class_id")
    return ""


def _letters(written: str) -> str:
    return _NO_LETTERS.sub("", written).casefold()

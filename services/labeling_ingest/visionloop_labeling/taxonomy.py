"""Changing what classes mean without touching a label: rename, merge, split, retire, restore.

Every change is noted (`ClassEvent`) and counted (`Dataset.class_version`), and every one can be
taken back, because labels keep saying what was said: a merged class that is restored has its own
labels again, one that was split has its images labelled again. What follows from a change, the
counts of classes and the place of images in the work, is brought up to date in the same
transaction, in a few statements whatever the dataset's size; the dataset is locked for so long.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from visionloop.errors import ConflictError, InvalidInputError, NotFoundError
from visionloop_labeling import heads, validation
from visionloop_labeling.classes import ClassBook, ClassEventKind, ClassState
from visionloop_labeling.schema import ClassEvent, Dataset, LabelClass

MAX_HELP: Final = 2000  # characters
MAX_PARTS: Final = 100  # classes that one is split into
RESERVED_KEYS: Final = "bcdfhnsz"  # the labelling page's own letters (static/label/keys.js)
_HOTKEY = re.compile(r"[a-z0-9]?")
_COLOUR = re.compile(r"(#[0-9a-f]{6})?")


@dataclass(frozen=True, slots=True)
class ClassChange:
    """One change of a dataset's classes, for people."""

    class_version: int
    kind: ClassEventKind
    class_key: str
    detail: dict[str, Any]
    author: str
    at: datetime


class Taxonomy:
    """The classes of one dataset within one transaction, to be changed. The dataset is locked."""

    def __init__(self, session: Session, dataset: Dataset, author: str) -> None:
        self._session = session
        self._dataset = dataset
        self._author = author
        self.classes = ClassBook(session, dataset)

    def existing(self, key: str) -> LabelClass:
        """The class of this key. Raises NotFoundError."""
        found = self.classes.find(key)
        if found is None:
            raise NotFoundError(f'dataset "{self._dataset.name}" has no class {key[:80]!a}')
        return found

    def add(self, name: str) -> LabelClass:
        """A new class. Raises ConflictError when the name is taken."""
        name = validation.text(name, "name")
        self._check_free(name)
        added = self.classes.named_or_added([name], also_former=False)[name]
        self._note(ClassEventKind.ADD, added, {"name": name})
        return added

    def rename(self, one: LabelClass, name: str) -> None:
        """Gives a class another name; rows that still bring the old one find it."""
        name = validation.text(name, "name")
        if name == one.name:
            return
        self._check_free(name)
        before = one.name
        self.classes.renamed(one, name)
        self._note(ClassEventKind.RENAME, one, {"from": before, "to": name})

    def describe(
        self,
        one: LabelClass,
        *,
        hotkey: str | None = None,
        colour: str | None = None,
        help_text: str | None = None,
        place: int | None = None,
    ) -> None:
        """Sets how a class is shown; None leaves as it is."""
        wanted: dict[str, Any] = {}
        if hotkey is not None:
            wanted["hotkey"] = self._hotkey(one, hotkey)
        if colour is not None:
            wanted["colour"] = _colour(colour)
        if help_text is not None:
            wanted["help"] = validation.lines(help_text, "help", limit=MAX_HELP)
        if place is not None:
            wanted["place"] = place
        changed = {name: value for name, value in wanted.items() if getattr(one, name) != value}
        for name, value in changed.items():
            setattr(one, name, value)
        if changed:
            self._note(ClassEventKind.DESCRIBE, one, changed)

    def merge(self, one: LabelClass, into: LabelClass) -> None:
        """From now on labels that name `one` mean `into`."""
        self._check_active(one)
        self._check_active(into)
        if one.id == into.id:
            raise InvalidInputError(
                f'class "{one.name}" cannot be merged into itself', field="into"
            )
        one.state = ClassState.MERGED
        one.merged_into_id = into.id
        self._follow(one, into)
        self._note(ClassEventKind.MERGE, one, {"into": into.key})

    def split(self, one: LabelClass, names: Sequence[str]) -> list[LabelClass]:
        """Puts classes of these names in the place of one; its images are to be labelled again.

        Names of active classes are taken as they are, others are added.
        """
        self._check_active(one)
        parts = self._parts(one, names)
        one.state = ClassState.SPLIT
        self._follow(one)
        self._note(ClassEventKind.SPLIT, one, {"into": [part.key for part in parts]})
        return parts

    def retire(self, one: LabelClass) -> None:
        """No longer offers a class; labels that name it keep counting."""
        self._check_active(one)
        one.state = ClassState.RETIRED
        self._note(ClassEventKind.RETIRE, one, {})

    def restore(self, one: LabelClass) -> None:
        """Takes back that a class was retired, merged or split."""
        if one.state == ClassState.ACTIVE:
            return
        before = self.classes.meaning(one)
        detail = {"was": one.state}
        one.state = ClassState.ACTIVE
        one.merged_into_id = None
        if self._has_hotkey(one.hotkey, but=one) is not None:
            one.hotkey = ""
        self._follow(one, before)
        self._note(ClassEventKind.RESTORE, one, detail)

    def _parts(self, one: LabelClass, names: Sequence[str]) -> list[LabelClass]:
        checked = list(dict.fromkeys(validation.text(name, "into") for name in names))
        if not 2 <= len(checked) <= MAX_PARTS:
            raise InvalidInputError(
                f"a class is split into 2 to {MAX_PARTS} others; {len(checked)} different names "
                "are given",
                field="into",
            )
        known = {name: self.classes.named(name) for name in checked}
        taken = [part for name, part in known.items() if part and part.name == name]
        for part in taken:
            if part.id == one.id or part.state != ClassState.ACTIVE:
                raise InvalidInputError(
                    f'"{part.name}" is the class itself or was {part.state}; split into active or '
                    "new classes",
                    field="into",
                )
        parts = self.classes.named_or_added(checked, also_former=False)
        for part in parts.values():
            if part not in taken:
                part.split_from_id = one.id
        return list(parts.values())

    def _follow(self, *changed: LabelClass) -> None:
        """Brings up to date what follows from what these classes mean now."""
        self._session.flush()
        meant = {self.classes.meaning(one).id: self.classes.meaning(one) for one in changed}
        affected = sorted({i for one in meant.values() for i in self.classes.absorbed(one)})
        for one in meant.values():
            heads.recount(self._session, self.classes, one)
        heads.requeue(self._session, self._dataset, self.classes, affected)

    def _note(self, kind: ClassEventKind, one: LabelClass, detail: dict[str, Any]) -> None:
        self._dataset.class_version += 1
        self._session.add(
            ClassEvent(
                dataset_id=self._dataset.id,
                class_version=self._dataset.class_version,
                kind=kind,
                class_id=one.id,
                detail=detail,
                author=self._author,
                at=datetime.now(UTC),
            )
        )
        self._session.flush()

    def _check_free(self, name: str) -> None:
        found = self.classes.named(name)
        if found is not None and found.name == name:
            raise ConflictError(
                f'dataset "{self._dataset.name}" has a class "{name}" ({found.state}); choose '
                "another name, or restore that one"
            )

    def _check_active(self, one: LabelClass) -> None:
        if one.state != ClassState.ACTIVE:
            raise ConflictError(f'class "{one.name}" was {one.state}; restore it first')

    def _hotkey(self, one: LabelClass, hotkey: str) -> str:
        hotkey = hotkey.lower()
        if not _HOTKEY.fullmatch(hotkey) or (hotkey and hotkey in RESERVED_KEYS):
            raise InvalidInputError(
                f"hotkey {hotkey[:20]!a} cannot be used; use one of 0-9 and a-z except "
                f"{', '.join(RESERVED_KEYS)}, or nothing",
                field="hotkey",
            )
        other = self._has_hotkey(hotkey, but=one)
        if other is not None:
            raise ConflictError(f'hotkey {hotkey} is that of class "{other.name}"; choose another')
        return hotkey

    def _has_hotkey(self, hotkey: str, *, but: LabelClass) -> LabelClass | None:
        """The active class that has this key."""
        active = (one for one in self.classes.all() if one.state == ClassState.ACTIVE)
        having = (one for one in active if hotkey and one.hotkey == hotkey and one.id != but.id)
        return next(having, None)


def changes(session: Session, dataset: Dataset) -> list[ClassChange]:
    """Every change of the classes, oldest first."""
    query = (
        select(ClassEvent, LabelClass.key)
        .join(LabelClass, LabelClass.id == ClassEvent.class_id)
        .where(ClassEvent.dataset_id == dataset.id)
        .order_by(ClassEvent.class_version)
    )
    return [
        ClassChange(e.class_version, ClassEventKind(e.kind), key, e.detail, e.author, e.at)
        for e, key in session.execute(query).tuples()
    ]


def _colour(colour: str) -> str:
    colour = colour.lower()
    if not _COLOUR.fullmatch(colour):
        raise InvalidInputError(
            f"colour {colour[:20]!a} is not one; write #rrggbb, or nothing", field="colour"
        )
    return colour

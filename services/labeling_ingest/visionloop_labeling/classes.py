"""The classes of a dataset: looked up by id and by name, added, and read through their changes.

A class's key, its id everywhere outside, never changes, and no label is ever rewritten when classes
change. So a label that names a merged class means the class it was merged into (`meaning`), and one
that names a class that was split no longer says enough (`outdated`). A name that a class had before
it was renamed still finds it, unless another class has that name now: so the file that a dataset
was imported from can be imported again.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from visionloop.class_ids import may_be_of_a_dataset
from visionloop.errors import InvalidInputError
from visionloop_labeling.annotation import Annotation, stored_class_ids
from visionloop_labeling.schema import (
    ClassEvent,
    Dataset,
    Item,
    LabelClass,
    LabelHead,
    LabelHeadClass,
)

MAX_CLASSES: Final = 10_000
_KEY = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


class ClassState(StrEnum):
    """What became of a class."""

    ACTIVE = "active"
    RETIRED = "retired"  # no longer offered; labels that name it count
    MERGED = "merged"  # labels that name it mean the class it was merged into
    SPLIT = "split"  # labels that name it must be given again


class ClassEventKind(StrEnum):
    """A change of a dataset's classes."""

    ADD = "add"
    RENAME = "rename"
    DESCRIBE = "describe"
    MERGE = "merge"
    SPLIT = "split"
    RETIRE = "retire"
    RESTORE = "restore"


class ClassBook:
    """The classes of one dataset within one transaction, each read once.

    They are held, because the session forgets what nobody holds and would ask the database again
    for every row.
    """

    def __init__(self, session: Session, dataset: Dataset) -> None:
        self._session = session
        self._dataset = dataset
        self._by_id: dict[int, LabelClass] = {}
        self._by_key: dict[str, LabelClass] = {}
        self._by_name: dict[str, LabelClass] = {}
        self._former: dict[str, int] | None = None

    def all(self) -> list[LabelClass]:
        """Every class, in the order of the page."""
        query = select(LabelClass).where(LabelClass.dataset_id == self._dataset.id)
        found = [self._hold(one) for one in self._session.scalars(query)]
        return sorted(found, key=lambda one: (one.place, one.id))

    def learn(self, keys: Iterable[str]) -> None:
        """Reads the classes of these keys, and what they were merged into, in a query a step.

        Unknown ones are passed over.
        """
        # What does not look like a key is not asked for: it may hold what no database takes.
        unknown = {key for key in keys if key not in self._by_key}
        if not unknown:  # as with most labels
            return
        wanted = sorted(key for key in unknown if may_be_of_a_dataset(key))
        if wanted:
            self._read(LabelClass.key.in_(wanted))

    def learn_named(self, annotations: Iterable[Mapping[str, Any]]) -> None:
        """As `learn`, of all classes that stored annotations name, those of soft labels as well."""
        self.learn(
            key
            for said in annotations
            for key in (*stored_class_ids(said), *(said.get("probabilities") or ()))
        )

    def learn_names(self, names: Iterable[str]) -> None:
        """Reads the classes that have these (validated) names in one query."""
        wanted = sorted(name for name in set(names) if name not in self._by_name)
        if wanted:
            self._read(LabelClass.name.in_(wanted))

    def find(self, key: str) -> LabelClass | None:
        """The class of this key."""
        self.learn([key])
        return self._by_key.get(key)

    def get(self, key: str, field: str = "class_id") -> LabelClass:
        """The class of this key. Raises InvalidInputError when there is none."""
        found = self.find(key)
        if found is None:
            raise InvalidInputError(
                f'{field}: {key[:80]!a} is no class of dataset "{self._dataset.name}"; GET '
                f"/v1/datasets/{self._dataset.name}/classes lists them",
                field=field,
            )
        return found

    def name_of(self, key: str) -> str:
        """The present name of a key; the key itself where there is no such class."""
        found = self.find(key)
        return key if found is None else found.name

    def named(self, name: str) -> LabelClass | None:
        """The class that has this (validated) name, or had it and nobody has it now."""
        if name not in self._by_name:
            query = select(LabelClass).where(
                LabelClass.dataset_id == self._dataset.id, LabelClass.name == name
            )
            found = self._session.scalar(query)
            if found is not None:
                return self._hold(found)
            former = self._former_names().get(name)
            return None if former is None else self._with_id(former)
        return self._by_name[name]

    def named_or_added(
        self, names: Iterable[str], *, also_former: bool = True
    ) -> dict[str, LabelClass]:
        """The classes of these (validated) names; unknown ones are added, or none if too many."""
        found = {name: self.named(name) for name in names}
        if not also_former:
            found = {n: one if one and one.name == n else None for n, one in found.items()}
        missing = [name for name, one in found.items() if one is None]
        if missing:
            self._check_room(len(missing), missing[0])
        return {name: one or self.add(name) for name, one in found.items()}

    def add(self, name: str) -> LabelClass:
        """A new class of this (validated, free) name. The dataset is locked."""
        mine = LabelClass.dataset_id == self._dataset.id
        last = self._session.scalar(select(func.max(LabelClass.place)).where(mine)) or 0
        added = LabelClass(
            dataset_id=self._dataset.id, key=self._key_for(name), name=name, place=last + 1
        )
        self._session.add(added)
        self._session.flush()
        return self._hold(added)

    def renamed(self, one: LabelClass, name: str) -> None:
        """Gives a class another (validated, free) name."""
        self._by_name.pop(one.name, None)
        one.name = name
        self._by_name[name] = one
        self._former = None

    def meaning(self, one: LabelClass) -> LabelClass:
        """What labels that name the class mean now: merges are followed to their end."""
        while one.merged_into_id is not None:
            one = self._with_id(one.merged_into_id)
        return one

    def meanings(self, annotation: Mapping[str, Any]) -> list[LabelClass]:
        """The classes that a stored annotation means now, each once, those of the image first."""
        keys = stored_class_ids(annotation)
        self.learn(keys)
        meant = (self.meaning(self.get(key)) for key in keys)
        return list({one.id: one for one in meant}.values())

    def outdated(self, annotation: Mapping[str, Any]) -> bool:
        """Whether a stored annotation names a class that was split since."""
        return any(one.state == ClassState.SPLIT for one in self.meanings(annotation))

    def resolved(self, annotation: Mapping[str, Any]) -> dict[str, Any]:
        """A stored annotation with the class ids that it means now."""
        said = Annotation.model_validate(annotation)
        self.learn_named([annotation])
        return said.with_classes(lambda key: self.meaning(self.get(key)).key).stored()

    def absorbed(self, one: LabelClass) -> list[int]:
        """The row ids of all classes whose labels mean this one, itself included."""
        return [other.id for other in self.all() if self.meaning(other).id == one.id]

    def check_choosable(self, annotation: Annotation) -> None:
        """Raises InvalidInputError for a class that is no longer offered to people."""
        self.learn(annotation.class_ids())
        for key in annotation.class_ids():
            one = self.meaning(self.get(key, "annotation"))
            if one.state != ClassState.ACTIVE:
                raise InvalidInputError(
                    f'class "{one.name}" was {one.state}; choose one that is offered (GET '
                    f"/v1/datasets/{self._dataset.name}/classes), or have a reviewer restore it",
                    field="annotation",
                )

    def _read(self, condition: ColumnElement[bool]) -> None:
        """Holds the classes of which this is so, and those that their labels mean."""
        query = select(LabelClass).where(LabelClass.dataset_id == self._dataset.id, condition)
        found = [self._hold(one) for one in self._session.scalars(query)]
        into = {one.merged_into_id for one in found if one.merged_into_id is not None}
        further = sorted(into - self._by_id.keys())
        if further:
            self._read(LabelClass.id.in_(further))

    def _check_room(self, wanted: int, first: str) -> None:
        mine = LabelClass.dataset_id == self._dataset.id
        known = self._session.scalar(select(func.count()).select_from(LabelClass).where(mine)) or 0
        if known + wanted > MAX_CLASSES:
            raise InvalidInputError(
                f'class "{first}" would be number {known + 1} of the dataset; the limit is '
                f"{MAX_CLASSES}. Is the label column the right one?",
                field="label",
            )

    def _key_for(self, name: str) -> str:
        # Readable, and the same for the same name in another dataset or after a fresh import: so
        # equal content has an equal snapshot id. The digest tells apart what the slug cannot.
        if _KEY.fullmatch(name) and self.find(name) is None:
            return name
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]
        digest = hashlib.sha256(name.encode()).hexdigest()
        length = 8
        while self.find(key := f"{slug}-{digest[:length]}".lstrip("-")) is not None:
            length += 8
        return key

    def _former_names(self) -> dict[str, int]:
        if self._former is None:
            query = (
                select(ClassEvent)
                .where(
                    ClassEvent.dataset_id == self._dataset.id,
                    ClassEvent.kind == ClassEventKind.RENAME,
                )
                .order_by(ClassEvent.class_version)
            )
            self._former = {e.detail["from"]: e.class_id for e in self._session.scalars(query)}
        return self._former

    def _with_id(self, row_id: int) -> LabelClass:
        if row_id not in self._by_id:
            self._hold(self._session.get_one(LabelClass, row_id))
        return self._by_id[row_id]

    def _hold(self, one: LabelClass) -> LabelClass:
        self._by_id[one.id] = self._by_key[one.key] = self._by_name[one.name] = one
        return one


def naming(class_row_ids: Iterable[int]) -> ColumnElement[bool]:
    """The condition that an item's current label names one of these classes (see `absorbed`)."""
    wanted = sorted(class_row_ids)
    first = select(LabelHead.item_id).where(LabelHead.class_id.in_(wanted))
    others = select(LabelHeadClass.item_id).where(LabelHeadClass.class_id.in_(wanted))
    return Item.id.in_(first.union_all(others))

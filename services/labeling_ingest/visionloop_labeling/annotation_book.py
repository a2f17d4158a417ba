"""What somebody says of an image, in the terms of its dataset: class ids, attributes, task.

Names become class ids (unknown ones are added), positions are brought within the image, attributes
into the form that the dataset declares or has learned.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

from sqlalchemy.orm import Session

from visionloop_labeling import annotation as annotations
from visionloop_labeling import datasets, validation
from visionloop_labeling.annotation import MAX_NOTE, Annotation, AnyAnnotation, Draft, Size
from visionloop_labeling.attributes import AttributeBook
from visionloop_labeling.classes import ClassBook
from visionloop_labeling.schema import Dataset


class AnnotationBook:
    """The annotations of one dataset within one transaction. The dataset is locked."""

    def __init__(self, session: Session, dataset: Dataset) -> None:
        self.classes = ClassBook(session, dataset)
        self._attributes = AttributeBook(session, dataset)
        self._task = datasets.settings_of(dataset).task

    def learn_names(self, drafts: Iterable[Draft]) -> None:
        """Reads together what resolving these (checked) drafts will ask."""
        names = {name for draft in drafts for name in draft.class_names()}
        self.classes.learn_names(validation.text(name, "label") for name in names)

    def resolve(self, draft: Draft, size: Size) -> Annotation:
        """What a draft says of an image of this size, with ids; unknown classes are added.

        A name of a merged class means the class it was merged into. Raises InvalidInputError, and
        then nothing was added.
        """
        fitting = self._fitted(draft, size, learn=True)
        names = {name: validation.text(name, "label") for name in fitting.class_names()}
        found = self.classes.named_or_added(names.values())
        said = fitting.annotation(lambda name: self.classes.meaning(found[names[name]]).key)
        self._learn(said)
        return said

    def taken(self, said: Annotation, size: Size, *, chosen: bool) -> Annotation:
        """What an annotation says of an image of this size, with what its classes mean now.

        `chosen`: by a person, now, who can only choose classes and attributes that there are.
        Raises InvalidInputError.
        """
        said = self._fitted(said, size, learn=not chosen)
        if chosen:
            self.classes.check_choosable(said)
        said = said.with_classes(self._meaning)
        self._learn(said)
        return said

    def known(self, said: Annotation | Draft, size: Size) -> dict[str, Any] | None:
        """As stored, with what its classes mean now; None when one is not known."""
        if isinstance(said, Annotation):
            return self.classes.resolved(self._fitted(said, size, learn=True).stored())
        draft = self._fitted(said, size, learn=True)
        found = {n: self.classes.named(validation.text(n, "label")) for n in draft.class_names()}
        named = {n: one.key for n, one in found.items() if one is not None}
        if len(named) < len(found):
            return None
        return self.classes.resolved(draft.annotation(named.__getitem__).stored())

    def words(self, said: Annotation) -> str:
        """An annotation in a few words for people."""
        return annotations.describe(said, self.classes.name_of)

    def _fitted(self, said: AnyAnnotation, size: Size, *, learn: bool) -> AnyAnnotation:
        """In canonical form for the image, the task and the attributes. Writes nothing."""
        said = annotations.fitted(said, self._task, size)
        named = {*said.attributes, *(name for box in said.boxes or () for name in box.attributes)}
        if learn and named:
            self._attributes.check_room(named, "annotation.attributes")
        fit = partial(self._attributes.fitted, learn=learn)
        changed: dict[str, object] = {}
        if said.note:
            changed["note"] = validation.lines(said.note, "annotation.note", limit=MAX_NOTE)
        if said.attributes:
            changed["attributes"] = fit(said.attributes, field="annotation.attributes")
        if any(box.attributes for box in said.boxes or ()):
            changed["boxes"] = tuple(
                box.model_copy(
                    update={"attributes": fit(box.attributes, field=f"annotation.boxes.{number}")}
                )
                for number, box in enumerate(said.boxes or ())
            )
        return said.model_copy(update=changed) if changed else said

    def _learn(self, said: Annotation) -> None:
        for values in (said.attributes, *(box.attributes for box in said.boxes or ())):
            if values:
                self._attributes.learned(values)

    def _meaning(self, key: str) -> str:
        return self.classes.meaning(self.classes.get(key, "annotation")).key

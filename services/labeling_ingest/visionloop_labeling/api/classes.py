"""Classes and what becomes of them."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from visionloop_labeling import datasets, taxonomy, validation
from visionloop_labeling.accounts import Caller
from visionloop_labeling.api.callers import current
from visionloop_labeling.api.errors import ERRORS
from visionloop_labeling.api.resources import RequestBody
from visionloop_labeling.classes import ClassBook, ClassEventKind, ClassState
from visionloop_labeling.schema import Dataset, LabelClass, SplitCount
from visionloop_labeling.service import LabelingService
from visionloop_labeling.taxonomy import Taxonomy


class LabelClassOut(BaseModel):
    """A class. Its id never changes; `images` counts those with a person's or import's label."""

    id: str
    name: str
    state: ClassState
    merged_into: str | None
    split_from: str | None
    place: int
    hotkey: str
    colour: str
    help: str
    images: int


class ClassIn(RequestBody):
    """What can be set for a class; what is missing stays as it is."""

    name: str | None = None
    hotkey: Annotated[str | None, Field(description="One of 0-9, a-z, or empty.")] = None
    colour: Annotated[str | None, Field(description="#rrggbb, or empty.")] = None
    help: Annotated[str | None, Field(description="When to choose it, for labellers.")] = None
    place: Annotated[int | None, Field(ge=0, le=1_000_000, description="Order on the page.")] = None


class NewClassIn(ClassIn):
    """A class to add."""

    name: str


class MergeIn(RequestBody):
    """The class (id) that labels shall mean from now on."""

    into: str


class SplitIn(RequestBody):
    """Names of the classes to choose from instead."""

    into: Annotated[list[str], Field(min_length=2, max_length=taxonomy.MAX_PARTS)]


class ClassChangeOut(BaseModel):
    """One change of the classes."""

    class_version: int
    kind: ClassEventKind
    class_id: str
    detail: dict[str, Any]
    author: str
    at: datetime


Change = Callable[[Taxonomy], LabelClass]


def routes(service: LabelingService) -> APIRouter:
    """Classes."""
    api = APIRouter(prefix="/v1/datasets/{dataset}", tags=["classes"])
    classes = _Classes(service)
    api.get("/classes", responses=ERRORS)(classes.list_classes)
    api.post("/classes", status_code=201, responses=ERRORS)(classes.add_class)
    api.get("/classes/history", responses=ERRORS)(classes.class_history)
    api.patch("/classes/{class_id}", responses=ERRORS)(classes.change_class)
    api.post("/classes/{class_id}/merge", responses=ERRORS)(classes.merge)
    api.post("/classes/{class_id}/split", responses=ERRORS)(classes.split)
    api.post("/classes/{class_id}/retire", responses=ERRORS)(classes.retire)
    api.post("/classes/{class_id}/restore", responses=ERRORS)(classes.restore)
    return api


class _Classes:
    """The calls, over a service."""

    def __init__(self, service: LabelingService) -> None:
        self._service = service

    async def list_classes(self, dataset: str) -> list[LabelClassOut]:
        """All classes, in the order of the page."""
        return await self._service.run(_classes, self._service, dataset)

    async def add_class(
        self, dataset: str, new: NewClassIn, caller: Annotated[Caller, Depends(current)]
    ) -> LabelClassOut:
        """Adds a class."""
        return await self._changed(dataset, caller, lambda classes: _add(classes, new))

    async def class_history(self, dataset: str) -> list[ClassChangeOut]:
        """Every change of the classes, oldest first."""
        return await self._service.run(_history, self._service, dataset)

    async def change_class(
        self,
        dataset: str,
        class_id: str,
        wanted: ClassIn,
        caller: Annotated[Caller, Depends(current)],
    ) -> LabelClassOut:
        """Renames a class, or changes how it is shown; labels stay as they are."""
        return await self._changed(dataset, caller, lambda classes: _set(classes, class_id, wanted))

    async def merge(
        self,
        dataset: str,
        class_id: str,
        wanted: MergeIn,
        caller: Annotated[Caller, Depends(current)],
    ) -> LabelClassOut:
        """Labels of this class mean another one from now on; restoring it takes that back."""
        return await self._changed(
            dataset, caller, lambda classes: _merge(classes, class_id, wanted.into)
        )

    async def split(
        self,
        dataset: str,
        class_id: str,
        wanted: SplitIn,
        caller: Annotated[Caller, Depends(current)],
    ) -> LabelClassOut:
        """Puts finer classes in its place; its images, and no others, wait to be labelled again."""
        return await self._changed(
            dataset, caller, lambda classes: _split(classes, class_id, wanted.into)
        )

    async def retire(
        self, dataset: str, class_id: str, caller: Annotated[Caller, Depends(current)]
    ) -> LabelClassOut:
        """No longer offers a class; its labels stay."""
        return await self._changed(dataset, caller, lambda classes: _retire(classes, class_id))

    async def restore(
        self, dataset: str, class_id: str, caller: Annotated[Caller, Depends(current)]
    ) -> LabelClassOut:
        """Takes back that a class was retired, merged or split."""
        return await self._changed(dataset, caller, lambda classes: _restore(classes, class_id))

    async def _changed(self, dataset: str, caller: Caller, change: Change) -> LabelClassOut:
        return await self._service.run(_change, self._service, dataset, caller, change)


def _add(classes: Taxonomy, new: NewClassIn) -> LabelClass:
    one = classes.add(new.name)
    _describe(classes, one, new)
    return one


def _set(classes: Taxonomy, class_id: str, wanted: ClassIn) -> LabelClass:
    one = classes.existing(class_id)
    _describe(classes, one, wanted)
    if wanted.name is not None:
        classes.rename(one, wanted.name)
    return one


def _merge(classes: Taxonomy, class_id: str, into: str) -> LabelClass:
    one = classes.existing(class_id)
    classes.merge(one, classes.classes.get(into, "into"))
    return one


def _split(classes: Taxonomy, class_id: str, into: Sequence[str]) -> LabelClass:
    one = classes.existing(class_id)
    classes.split(one, into)
    return one


def _retire(classes: Taxonomy, class_id: str) -> LabelClass:
    one = classes.existing(class_id)
    classes.retire(one)
    return one


def _restore(classes: Taxonomy, class_id: str) -> LabelClass:
    one = classes.existing(class_id)
    classes.restore(one)
    return one


def _describe(classes: Taxonomy, one: LabelClass, wanted: ClassIn) -> None:
    classes.describe(
        one,
        hotkey=wanted.hotkey,
        colour=wanted.colour,
        help_text=wanted.help,
        place=wanted.place,
    )


def _change(
    service: LabelingService, dataset_name: str, caller: Caller, change: Change
) -> LabelClassOut:
    with service.database.write() as session:
        dataset = datasets.find(session, validation.dataset_name(dataset_name), lock=True)
        classes = Taxonomy(session, dataset, caller.name)
        changed = change(classes)
        session.flush()
        outs = _outs(session, dataset, classes.classes)
    return next(one for one in outs if one.id == changed.key)


def _classes(service: LabelingService, dataset_name: str) -> list[LabelClassOut]:
    with service.database.read() as session:
        dataset = datasets.find(session, validation.dataset_name(dataset_name))
        return _outs(session, dataset, ClassBook(session, dataset))


def _outs(session: Session, dataset: Dataset, book: ClassBook) -> list[LabelClassOut]:
    counted = (
        select(SplitCount.class_id, func.sum(SplitCount.images))
        .join(LabelClass, LabelClass.id == SplitCount.class_id)
        .where(LabelClass.dataset_id == dataset.id)
        .group_by(SplitCount.class_id)
    )
    images = dict(session.execute(counted).tuples().all())
    found = book.all()
    keys = {one.id: one.key for one in found}
    return [
        LabelClassOut(
            id=one.key,
            name=one.name,
            state=ClassState(one.state),
            merged_into=keys.get(one.merged_into_id or 0),
            split_from=keys.get(one.split_from_id or 0),
            place=one.place,
            hotkey=one.hotkey,
            colour=one.colour,
            help=one.help,
            images=images.get(one.id, 0),
        )
        for one in found
    ]


def _history(service: LabelingService, dataset_name: str) -> list[ClassChangeOut]:
    with service.database.read() as session:
        dataset = datasets.find(session, validation.dataset_name(dataset_name))
        return [
            ClassChangeOut(
                class_version=one.class_version,
                kind=one.kind,
                class_id=one.class_key,
                detail=one.detail,
                author=one.author,
                at=one.at,
            )
            for one in taxonomy.changes(session, dataset)
        ]

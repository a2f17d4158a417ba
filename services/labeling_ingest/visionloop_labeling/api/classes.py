"""Classes and what becomes of them, attributes, and what people set for a dataset."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from visionloop_labeling import attributes, datasets, taxonomy, validation
from visionloop_labeling.accounts import Caller
from visionloop_labeling.api.callers import current
from visionloop_labeling.api.errors import ERRORS
from visionloop_labeling.api.resources import RequestBody
from visionloop_labeling.attributes import AttributeSpec
from visionloop_labeling.classes import ClassBook, ClassEventKind, ClassState
from visionloop_labeling.datasets import MAX_INSTRUCTIONS, Preferences
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
    """Classes, attributes, preferences."""
    api = APIRouter(tags=["classes"])
    _class_routes(api, service)
    _surgery_routes(api, service)
    _setting_routes(api, service)
    return api


def _class_routes(api: APIRouter, service: LabelingService) -> None:
    @api.get("/v1/datasets/{dataset}/classes", responses=ERRORS)
    async def list_classes(dataset: str) -> list[LabelClassOut]:
        """All classes, in the order of the page."""
        return await service.run(_classes, service, dataset)

    @api.post("/v1/datasets/{dataset}/classes", status_code=201, responses=ERRORS)
    async def add_class(
        dataset: str, new: NewClassIn, caller: Annotated[Caller, Depends(current)]
    ) -> LabelClassOut:
        """Adds a class."""

        def change(classes: Taxonomy) -> LabelClass:
            one = classes.add(new.name)
            _describe(classes, one, new)
            return one

        return await service.run(_change, service, dataset, caller, change)

    @api.get("/v1/datasets/{dataset}/classes/history", responses=ERRORS)
    async def class_history(dataset: str) -> list[ClassChangeOut]:
        """Every change of the classes, oldest first."""
        return await service.run(_history, service, dataset)

    @api.patch("/v1/datasets/{dataset}/classes/{class_id}", responses=ERRORS)
    async def change_class(
        dataset: str,
        class_id: str,
        wanted: ClassIn,
        caller: Annotated[Caller, Depends(current)],
    ) -> LabelClassOut:
        """Renames a class, or changes how it is shown; labels stay as they are."""

        def change(classes: Taxonomy) -> LabelClass:
            one = classes.existing(class_id)
            _describe(classes, one, wanted)
            if wanted.name is not None:
                classes.rename(one, wanted.name)
            return one

        return await service.run(_change, service, dataset, caller, change)


def _surgery_routes(api: APIRouter, service: LabelingService) -> None:
    @api.post("/v1/datasets/{dataset}/classes/{class_id}/merge", responses=ERRORS)
    async def merge(
        dataset: str,
        class_id: str,
        wanted: MergeIn,
        caller: Annotated[Caller, Depends(current)],
    ) -> LabelClassOut:
        """Labels of this class mean another one from now on; restoring it takes that back."""

        def change(classes: Taxonomy) -> LabelClass:
            one = classes.existing(class_id)
            classes.merge(one, classes.classes.get(wanted.into, "into"))
            return one

        return await service.run(_change, service, dataset, caller, change)

    @api.post("/v1/datasets/{dataset}/classes/{class_id}/split", responses=ERRORS)
    async def split(
        dataset: str,
        class_id: str,
        wanted: SplitIn,
        caller: Annotated[Caller, Depends(current)],
    ) -> LabelClassOut:
        """Puts finer classes in its place; its images, and no others, wait to be labelled again."""

        def change(classes: Taxonomy) -> LabelClass:
            one = classes.existing(class_id)
            classes.split(one, wanted.into)
            return one

        return await service.run(_change, service, dataset, caller, change)

    @api.post("/v1/datasets/{dataset}/classes/{class_id}/retire", responses=ERRORS)
    async def retire(
        dataset: str, class_id: str, caller: Annotated[Caller, Depends(current)]
    ) -> LabelClassOut:
        """No longer offers a class; its labels stay."""

        def change(classes: Taxonomy) -> LabelClass:
            one = classes.existing(class_id)
            classes.retire(one)
            return one

        return await service.run(_change, service, dataset, caller, change)

    @api.post("/v1/datasets/{dataset}/classes/{class_id}/restore", responses=ERRORS)
    async def restore(
        dataset: str, class_id: str, caller: Annotated[Caller, Depends(current)]
    ) -> LabelClassOut:
        """Takes back that a class was retired, merged or split."""

        def change(classes: Taxonomy) -> LabelClass:
            one = classes.existing(class_id)
            classes.restore(one)
            return one

        return await service.run(_change, service, dataset, caller, change)


def _setting_routes(api: APIRouter, service: LabelingService) -> None:
    @api.get("/v1/datasets/{dataset}/attributes", responses=ERRORS)
    async def list_attributes(dataset: str) -> list[AttributeSpec]:
        """What labellers can say beside the class."""
        return await service.run(_attributes, service, dataset)

    @api.put("/v1/datasets/{dataset}/attributes", responses=ERRORS)
    async def set_attributes(dataset: str, wanted: list[AttributeSpec]) -> list[AttributeSpec]:
        """Sets all attributes; one that is missing is retired, its values stay."""
        return await service.run(_set_attributes, service, dataset, wanted)

    @api.get("/v1/datasets/{dataset}/preferences", responses=ERRORS)
    async def preferences(dataset: str) -> Preferences:
        """What people set for a dataset."""
        return await service.run(_preferences, service, dataset)

    @api.put("/v1/datasets/{dataset}/preferences", responses=ERRORS)
    async def set_preferences(dataset: str, wanted: Preferences) -> Preferences:
        """Sets all of it."""
        return await service.run(_set_preferences, service, dataset, wanted)


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


def _attributes(service: LabelingService, dataset_name: str) -> list[AttributeSpec]:
    with service.database.read() as session:
        dataset = datasets.find(session, validation.dataset_name(dataset_name))
        return attributes.specs(session, dataset)


def _set_attributes(
    service: LabelingService, dataset_name: str, wanted: list[AttributeSpec]
) -> list[AttributeSpec]:
    with service.database.write() as session:
        dataset = datasets.find(session, validation.dataset_name(dataset_name), lock=True)
        attributes.define(session, dataset, wanted)
        return attributes.specs(session, dataset)


def _preferences(service: LabelingService, dataset_name: str) -> Preferences:
    with service.database.read() as session:
        dataset = datasets.find(session, validation.dataset_name(dataset_name))
        return datasets.preferences_of(dataset)


def _set_preferences(
    service: LabelingService, dataset_name: str, wanted: Preferences
) -> Preferences:
    checked = Preferences(
        instructions=validation.lines(wanted.instructions, "instructions", limit=MAX_INSTRUCTIONS),
        suggestions_model=validation.text(
            wanted.suggestions_model, "suggestions_model", required=False
        ),
    )
    with service.database.write() as session:
        dataset = datasets.find(session, validation.dataset_name(dataset_name), lock=True)
        dataset.preferences = checked.model_dump(mode="json")
    return checked

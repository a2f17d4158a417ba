"""Classes and attributes: what there is to say about an image, and changing it without relabelling.

Each change says beforehand how many images it concerns; the forms call the API (static/forms.js).
"""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from visionloop.errors import NotFoundError
from visionloop_labeling import attributes, datasets, taxonomy, validation
from visionloop_labeling.accounts import Role
from visionloop_labeling.api.callers import current
from visionloop_labeling.attributes import AttributeSpec
from visionloop_labeling.classes import ClassBook, ClassState
from visionloop_labeling.datasets import Preferences
from visionloop_labeling.pages import naming
from visionloop_labeling.pages.errors import PageRoute
from visionloop_labeling.pages.naming import NamedClass
from visionloop_labeling.pages.rendering import render
from visionloop_labeling.schema import LabelClass
from visionloop_labeling.service import LabelingService
from visionloop_labeling.taxonomy import ClassChange

_SHOWN_CHANGES = 50


@dataclass(frozen=True, slots=True)
class _Shown:
    rows: list[LabelClass]
    images: dict[str, int]  # class id -> images whose current label means it
    merged_into: dict[str, str]
    changes: list[ClassChange]
    attributes: list[AttributeSpec]
    preferences: Preferences


def routes(service: LabelingService) -> APIRouter:
    """The page."""
    api = APIRouter(include_in_schema=False, route_class=PageRoute)

    @api.get("/datasets/{dataset}/classes")
    async def classes(
        request: Request, dataset: str, edit: Annotated[str, Query(max_length=80)] = ""
    ) -> Response:
        shown = await service.run(_shown, service, dataset)
        named = await service.run(naming.classes, service, dataset)
        if edit and edit not in named:
            raise NotFoundError(f'dataset "{dataset}" has no class {edit!a}')
        return render(
            request,
            "classes.html",
            dataset=dataset,
            shown=shown,
            named=named,
            chosen=next((one for one in shown.rows if one.key == edit), None),
            offered=[one for one in shown.rows if one.state == ClassState.ACTIVE],
            gone=[one for one in shown.rows if one.state != ClassState.ACTIVE],
            attributes=[one for one in shown.attributes if not one.retired],
            told=_told(shown.changes, named),
            may_change=current(request).may(Role.REVIEWER),
        )

    return api


def _shown(service: LabelingService, dataset_name: str) -> _Shown:
    counted = {one.key: one.labelled for one in service.overviews.of(dataset_name).classes}
    with service.database.read() as session:
        dataset = datasets.find(session, validation.dataset_name(dataset_name))
        book = ClassBook(session, dataset)
        rows = book.all()
        return _Shown(
            rows=rows,
            images=counted,
            merged_into={
                one.key: book.meaning(one).name for one in rows if one.state == ClassState.MERGED
            },
            changes=taxonomy.changes(session, dataset)[: -_SHOWN_CHANGES - 1 : -1],
            attributes=attributes.specs(session, dataset),
            preferences=datasets.preferences_of(dataset),
        )


def _told(
    changes: list[ClassChange], named: dict[str, NamedClass]
) -> list[tuple[ClassChange, str]]:
    """The changes in words."""

    def name_of(key: Any) -> str:
        return named[key].name if key in named else str(key)

    def words(change: ClassChange) -> str:
        detail, name = change.detail, name_of(change.class_key)
        match change.kind:
            case "add":
                return f"added {name}"
            case "rename":
                return f"renamed {detail.get('from')} to {detail.get('to')}"
            case "merge":
                return f"merged {name} into {name_of(detail.get('into'))}"
            case "split":
                return f"split {name} into {', '.join(map(name_of, detail.get('into', [])))}"
            case "describe":
                return f"set {', '.join(sorted(detail))} of {name}"
            case _:
                return f"{change.kind}d {name}"

    return [(change, words(change)) for change in changes]

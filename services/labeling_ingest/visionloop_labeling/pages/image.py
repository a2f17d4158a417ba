"""One image: what it shows, what was said about it and by whom, and what looks like it."""

from dataclasses import dataclass
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from visionloop_labeling import datasets, history, labels, queue, validation
from visionloop_labeling.accounts import Caller, Role
from visionloop_labeling.api.callers import current
from visionloop_labeling.fold import AuthorKind, EventKind
from visionloop_labeling.history import HistoryEntry
from visionloop_labeling.pages import naming
from visionloop_labeling.pages.errors import PageRoute
from visionloop_labeling.pages.rendering import render
from visionloop_labeling.queue import ItemOut
from visionloop_labeling.schema import Blob, Dataset, Item, NearDuplicate
from visionloop_labeling.service import LabelingService

_SHOWN_ALIKE: Final = 12


@dataclass(frozen=True, slots=True)
class Alike:
    """An image that shows the same. `correlation` of their pixels, 1.0 for equal ones."""

    item: ItemOut
    correlation: float
    turned: bool


@dataclass(frozen=True, slots=True)
class Shown:
    """All that the page shows. Events are newest first."""

    item: ItemOut
    size: int
    media_type: str
    arrived: Any
    quality: dict[str, Any]
    events: list[HistoryEntry]
    alike: list[Alike]


def routes(service: LabelingService) -> APIRouter:
    """The page."""
    api = APIRouter(include_in_schema=False, route_class=PageRoute)

    @api.get("/datasets/{dataset}/images/{sha256}")
    async def image(request: Request, dataset: str, sha256: str) -> Response:
        shown = await service.run(_shown, service, dataset, sha256)
        caller = current(request)
        return render(
            request,
            "image.html",
            dataset=dataset,
            shown=shown,
            item=shown.item,
            classes=await service.run(naming.classes, service, dataset),
            undoable=_undoable(shown.events, caller),
            may_retract=caller.may(Role.REVIEWER),
        )

    return api


def _shown(service: LabelingService, dataset_name: str, sha256: str) -> Shown:
    with service.database.read() as session:
        dataset = datasets.find(session, validation.dataset_name(dataset_name))
        item = labels.find_item(session, dataset, validation.sha256(sha256))
        blob = session.get_one(Blob, item.sha256)
        return Shown(
            item=queue.item_outs(session, dataset, [item])[0],
            size=blob.size,
            media_type=blob.media_type,
            arrived=item.created,
            quality=blob.quality or {},
            events=history.of_image(session, dataset_name, sha256)[::-1],
            alike=_alike(session, dataset, item),
        )


def _alike(session: Session, dataset: Dataset, item: Item) -> list[Alike]:
    """What looks like the image, most alike first."""
    query = (
        select(NearDuplicate)
        .where(or_(NearDuplicate.later_id == item.id, NearDuplicate.earlier_id == item.id))
        .order_by(NearDuplicate.correlation.desc(), NearDuplicate.later_id)
        .limit(_SHOWN_ALIKE)
    )
    pairs = session.scalars(query).all()
    other = {
        pair.later_id if pair.earlier_id == item.id else pair.earlier_id: pair for pair in pairs
    }
    found = session.scalars(select(Item).where(Item.id.in_(other))).all()
    outs = zip(found, queue.item_outs(session, dataset, found), strict=True)
    alike = [
        Alike(out, other[one.id].correlation, turned=other[one.id].orientation != 0)
        for one, out in outs
    ]
    return sorted(alike, key=lambda one: -one.correlation)


def _undoable(events: list[HistoryEntry], caller: Caller) -> HistoryEntry | None:
    """The caller's last word on the image that still counts."""
    own = (
        event
        for event in events
        if event.author == caller.name
        and event.author_kind is AuthorKind.HUMAN
        and event.kind is not EventKind.UNDO
        and not event.undone
    )
    return next(own, None)

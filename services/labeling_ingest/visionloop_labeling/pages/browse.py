"""Browsing: the images of a dataset by conditions, a page at a time. Works without scripts."""

from typing import Annotated, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response

from visionloop.errors import InvalidInputError
from visionloop_labeling.api.browse import page
from visionloop_labeling.browse import NO_SPLIT, Order, Wanted
from visionloop_labeling.fold import ItemState
from visionloop_labeling.pages import naming
from visionloop_labeling.pages.errors import PageRoute
from visionloop_labeling.pages.rendering import render
from visionloop_labeling.service import LabelingService

_SHOWN: Final = 60
_STATES: Final = (
    *(("open", "To label"), ("labelled", "Labelled"), ("review", "To review")),
    ("skipped", "Skipped"),
)
_SPLITS: Final = (("train", "Train"), ("val", "Validation"), ("test", "Test"), (NO_SPLIT, "None"))
_ORDERS: Final = (
    (Order.ARRIVAL, "Oldest first"),
    (Order.NEWEST, "Newest first"),
    (Order.QUEUE, "As labelled next"),
    (Order.SURE, "Surest prediction"),
    (Order.UNSURE, "Least sure prediction"),
)
_Text = Annotated[str, Query(max_length=100)]


def routes(service: LabelingService) -> APIRouter:
    """The page."""
    api = APIRouter(include_in_schema=False, route_class=PageRoute)

    @api.get("/datasets/{dataset}/browse")
    async def browse(
        request: Request,
        dataset: str,
        state: _Text = "",
        class_id: _Text = "",
        split: _Text = "",
        flag: _Text = "",
        predicted: _Text = "",
        order: _Text = "",
        after: _Text = "",
    ) -> Response:
        conditions = {
            "state": state,
            "class_id": class_id,
            "split": split,
            "flag": flag,
            "predicted": predicted,
            "order": order,
        }
        given = {name: value for name, value in conditions.items() if value}
        shown = await service.run(page, service, dataset, _wanted(given), after, _SHOWN)
        overview = await service.run(service.overviews.of, dataset)
        return render(
            request,
            "browse.html",
            dataset=dataset,
            page=shown,
            conditions=conditions,
            given=given,
            after=after,
            query=urlencode(given),
            next_query=urlencode({**given, "after": shown.next or ""}),
            classes=await service.run(naming.classes, service, dataset),
            states=_STATES,
            splits=_SPLITS,
            # The first is what an address without an order means.
            orders=[
                ("", title) if one is Order.ARRIVAL else (one, title)
                for one, title in _possible(given)
            ],
            flags=sorted({*overview.flags, *([flag] if flag else [])}),
            total=overview.images,
        )

    return api


def _wanted(given: dict[str, str]) -> Wanted:
    """The conditions; an order that they do not allow is dropped: a form may leave one behind."""
    try:
        state = ItemState(given["state"]) if "state" in given else None
        order = Order(given.get("order", Order.ARRIVAL))
    except ValueError as error:
        raise InvalidInputError(f"{error}; choose one of those in the list") from error
    if order not in [one for one, _ in _possible(given)]:
        order = Order.ARRIVAL
    return Wanted(
        state=state,
        class_id=given.get("class_id", ""),
        split=given.get("split", ""),
        flag=given.get("flag", ""),
        predicted=given.get("predicted", ""),
        order=order,
    )


def _possible(given: dict[str, str]) -> list[tuple[Order, str]]:
    needs = {Order.QUEUE: "state", Order.SURE: "predicted", Order.UNSURE: "predicted"}
    return [(one, title) for one, title in _ORDERS if one not in needs or needs[one] in given]

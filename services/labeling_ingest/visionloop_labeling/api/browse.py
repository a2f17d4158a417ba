"""Looking through a dataset: its images by conditions, and its numbers."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel

from visionloop_labeling import browse, datasets, queue, validation
from visionloop_labeling.api.errors import ERRORS
from visionloop_labeling.browse import MAX_PAGE, Order, Wanted
from visionloop_labeling.fold import ItemState
from visionloop_labeling.overview import Overview
from visionloop_labeling.queue import ItemOut
from visionloop_labeling.service import LabelingService


class ImagesOut(BaseModel):
    """A page of images; `next` is the `after` of the next one, null at the end.

    `short`: the search gave up before the page was full; go on with `next`.
    """

    items: list[ItemOut]
    next: str | None
    short: bool


def routes(service: LabelingService) -> APIRouter:
    """Images by conditions, and the overview."""
    api = APIRouter(tags=["images"])

    @api.get("/v1/datasets/{dataset}/images", responses=ERRORS)
    async def images(
        dataset: str,
        state: ItemState | None = None,
        class_id: Annotated[
            str, Query(max_length=80, description="The current label names it.")
        ] = "",
        predicted: Annotated[
            str, Query(max_length=80, description="The suggestion's likeliest class.")
        ] = "",
        split: Annotated[str, Query(description="train, val, test or unassigned")] = "",
        flag: Annotated[str, Query(max_length=20, description="A remark on quality: dark, …")] = "",
        order: Annotated[
            Order,
            Query(description="queue needs a state; sure and unsure need predicted."),
        ] = Order.ARRIVAL,
        after: Annotated[str, Query(max_length=100, description="`next` of the page before.")] = "",
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 60,
    ) -> ImagesOut:
        """The images for which all conditions hold, a page at a time."""
        wanted = Wanted(state, class_id, split, flag, predicted, order)
        return await service.run(page, service, dataset, wanted, after, limit)

    @api.get("/v1/datasets/{dataset}/overview", responses=ERRORS)
    async def overview(dataset: str) -> Overview:
        """The dataset in numbers; of a large and busy one they may be some seconds old."""
        return await service.run(service.overviews.of, dataset)

    return api


def page(
    service: LabelingService, dataset_name: str, wanted: Wanted, after: str, limit: int
) -> ImagesOut:
    """A page of images. Raises NotFoundError and InvalidInputError."""
    with service.database.read() as session:
        dataset = datasets.find(session, validation.dataset_name(dataset_name))
        found = browse.find(session, dataset, wanted, after=after, limit=limit)
        items = queue.item_outs(session, dataset, found.items)
    return ImagesOut(items=items, next=found.after or None, short=found.short)

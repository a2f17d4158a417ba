"""What to look at next, and one image as it stands."""

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field
from sqlalchemy import select

from visionloop.errors import PermissionDeniedError
from visionloop_labeling import datasets, labels, queue, validation
from visionloop_labeling.accounts import Caller, Role
from visionloop_labeling.api.callers import current
from visionloop_labeling.api.errors import ERRORS
from visionloop_labeling.api.resources import RequestBody
from visionloop_labeling.fold import ItemState
from visionloop_labeling.heads import remaining
from visionloop_labeling.queue import MAX_LEASED, ItemOut
from visionloop_labeling.schema import Item
from visionloop_labeling.service import LabelingService


class QueueOut(BaseModel):
    """The images leased to the caller, and how many are in this place in the work in all."""

    remaining: int
    items: list[ItemOut]


class ReleaseIn(RequestBody):
    """Leased images to give back."""

    sha256: Annotated[list[str], Field(max_length=1000)]


class ReleasedOut(BaseModel):
    """How many leases ended."""

    released: int


def routes(service: LabelingService) -> APIRouter:
    """The queue."""
    api = APIRouter(tags=["queue"])

    @api.get("/v1/datasets/{dataset}/queue", responses=ERRORS)
    async def next_images(
        dataset: str,
        caller: Annotated[Caller, Depends(current)],
        n: Annotated[int, Query(ge=1, le=MAX_LEASED)] = 8,
        state: Annotated[Literal["open", "review", "skipped"], Query()] = "open",
    ) -> QueueOut:
        """Leases the next images to the caller for five minutes; those he holds stay his."""
        wanted = ItemState(state)
        if wanted is ItemState.REVIEW and not caller.may(Role.REVIEWER):
            raise PermissionDeniedError(
                f"{caller.name} is a {caller.role}; the review queue needs the role reviewer"
            )
        return await service.run(_lease, service, dataset, caller.name, n, wanted)

    @api.post("/v1/datasets/{dataset}/queue/release", responses=ERRORS)
    async def give_back(
        dataset: str, leases: ReleaseIn, caller: Annotated[Caller, Depends(current)]
    ) -> ReleasedOut:
        """Gives leases back, so that others get the images; what is not leased is passed over."""
        return await service.run(_release, service, dataset, caller.name, leases.sha256)

    @api.get("/v1/datasets/{dataset}/images/{sha256}", responses=ERRORS)
    async def image(dataset: str, sha256: str) -> ItemOut:
        """An image as it stands."""
        return await service.run(item_out, service, dataset, sha256)

    return api


def item_out(service: LabelingService, dataset_name: str, sha256: str) -> ItemOut:
    """One image as it stands. Raises NotFoundError."""
    with service.database.read() as session:
        dataset = datasets.find(session, validation.dataset_name(dataset_name))
        item = labels.find_item(session, dataset, validation.sha256(sha256))
        return queue.item_outs(session, dataset, [item])[0]


def as_they_stand(
    service: LabelingService, dataset_name: str, digests: Collection[str]
) -> dict[str, ItemOut]:
    """Images by their digests; those that are not there are passed over."""
    if not digests:
        return {}
    wanted = {validation.sha256(one) for one in digests}
    with service.database.read() as session:
        dataset = datasets.find(session, validation.dataset_name(dataset_name))
        query = select(Item).where(Item.dataset_id == dataset.id, Item.sha256.in_(wanted))
        items = session.scalars(query).all()
        return {one.sha256: one for one in queue.item_outs(session, dataset, items)}


def _lease(
    service: LabelingService, dataset_name: str, holder: str, n: int, state: ItemState
) -> QueueOut:
    now = datetime.now(UTC)
    with service.database.write() as session:
        dataset = datasets.find(session, validation.dataset_name(dataset_name))
        items = queue.lease(session, dataset, holder, n, state, now)
    with service.database.read() as session:  # nobody needs to wait for this part
        items_out = queue.item_outs(session, dataset, items)
    return QueueOut(remaining=remaining(dataset)[state], items=items_out)


def _release(
    service: LabelingService, dataset_name: str, holder: str, digests: list[str]
) -> ReleasedOut:
    checked = [validation.sha256(one) for one in digests]
    with service.database.write() as session:
        dataset = datasets.find(session, validation.dataset_name(dataset_name))
        return ReleasedOut(released=queue.release(session, dataset, holder, checked))

"""Images in quarantine: looked through, thrown away, looked at again. For admins."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel

from visionloop_labeling import quarantine
from visionloop_labeling.api.errors import ERRORS
from visionloop_labeling.api.resources import ReceiptOut
from visionloop_labeling.quarantine import PutAside
from visionloop_labeling.service import LabelingService


class PutAsideOut(BaseModel):
    """An image in quarantine. `row` is what came with it: label, group, attributes."""

    sha256: str
    size: int
    reason: str
    message: str
    source: str
    author: str
    at: datetime
    row: dict[str, Any]


class PutAsidePage(BaseModel):
    """Some images in quarantine; `next` is the `after` of the next page, null at the end."""

    items: list[PutAsideOut]
    next: str | None


def routes(service: LabelingService) -> APIRouter:
    """The quarantine of a dataset."""
    api = APIRouter(
        prefix="/v1/datasets/{dataset}/quarantine",
        tags=["quarantine"],
        responses=ERRORS,
    )

    @api.get("")
    async def list_quarantine(
        dataset: str,
        after: Annotated[str, Query(max_length=64)] = "",
        limit: Annotated[int, Query(ge=1, le=500)] = 100,
    ) -> PutAsidePage:
        """Images that could not be decoded, by digest."""

        def read() -> list[PutAside]:
            with service.database.read() as session:
                return quarantine.page(session, dataset, after=after, limit=limit)

        found = await service.run(read)
        return PutAsidePage(
            items=[PutAsideOut.model_validate(one, from_attributes=True) for one in found],
            next=found[-1].sha256 if len(found) == limit else None,
        )

    @api.delete("/{sha256}", status_code=204)
    async def throw_away(dataset: str, sha256: str) -> None:
        """Removes an image from quarantine, and its bytes for good."""
        await service.run(quarantine.remove, service.database, service.store, dataset, sha256)

    @api.post("/{sha256}/retry")
    async def retry(dataset: str, sha256: str) -> ReceiptOut:
        """Looks at an image again: it joins the dataset with what came with it, or stays."""
        row = await service.run(quarantine.row_of, service.database, service.store, dataset, sha256)
        return ReceiptOut.of(await service.submit_image(row))

    return api

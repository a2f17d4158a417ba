"""Labels: saying them, their history, their export."""

import uuid
from collections.abc import AsyncIterator

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from visionloop_labeling import exports
from visionloop_labeling.api.errors import ERRORS
from visionloop_labeling.api.resources import EventOut, LabelIn, LabelOut
from visionloop_labeling.service import LabelingService


def routes(service: LabelingService) -> APIRouter:
    """Labels, their history and their export."""
    api = APIRouter(tags=["labels"])

    @api.post("/v1/datasets/{dataset}/labels", responses=ERRORS)
    async def submit_label(dataset: str, new: LabelIn) -> LabelOut:
        """A first label or a correction for an image that is there."""
        recorded = await service.submit_label(
            dataset=dataset,
            sha256=new.sha256,
            class_name=new.label,
            event_id=str(new.event_id or uuid.uuid4()),
            author_kind=new.author_kind,
            author=new.author,
            base_sequence=new.base_sequence,
        )
        return LabelOut(
            sequence=recorded.sequence, class_id=recorded.class_key, current=recorded.applied
        )

    @api.get("/v1/datasets/{dataset}/images/{sha256}/history", responses=ERRORS)
    async def history(dataset: str, sha256: str) -> list[EventOut]:
        """Every label event of an image, oldest first."""
        return [EventOut.of(entry) for entry in await service.history(dataset, sha256)]

    @api.get(
        "/v1/datasets/{dataset}/labels.csv",
        response_class=StreamingResponse,
        responses={200: {"content": {"text/csv": {}}}, **ERRORS},
    )
    async def labels_csv(dataset: str) -> StreamingResponse:
        """The current labels as CSV; cells that a spreadsheet would run are made text."""
        await service.check_dataset(dataset)
        return StreamingResponse(
            _csv(service, dataset),
            media_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": f'attachment; filename="{dataset}-labels.csv"'},
        )

    return api


async def _csv(service: LabelingService, dataset: str) -> AsyncIterator[str]:
    yield exports.csv_header()
    async for page in service.export(dataset):
        yield exports.csv_page(page)

"""Labels: saying them, and their history."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Depends

from visionloop_labeling import labels
from visionloop_labeling.accounts import Caller, may_review, spoken_by
from visionloop_labeling.api.callers import current
from visionloop_labeling.api.errors import ERRORS
from visionloop_labeling.api.resources import EventOut, LabelIn, LabelOut
from visionloop_labeling.service import LabelingService


def routes(service: LabelingService) -> APIRouter:
    """Labels and their history."""
    api = APIRouter(tags=["labels"])

    @api.post("/v1/datasets/{dataset}/labels", responses=ERRORS)
    async def submit_label(
        dataset: str, new: LabelIn, caller: Annotated[Caller, Depends(current)]
    ) -> LabelOut:
        """A first label or a correction for an image that is there."""
        statement = labels.statement(
            event_id=str(new.event_id or uuid.uuid4()),
            class_name=new.label,
            author_kind=new.author_kind,
            author=spoken_by(caller, new.author, new.author_kind),
            base_sequence=new.base_sequence,
            may_review=may_review(caller),
        )
        recorded = await service.submit_event(dataset, new.sha256, statement)
        return LabelOut(
            sequence=recorded.sequence, class_id=recorded.class_key, current=recorded.applied
        )

    @api.get("/v1/datasets/{dataset}/images/{sha256}/history", responses=ERRORS)
    async def history(dataset: str, sha256: str) -> list[EventOut]:
        """Every label event of an image, oldest first."""
        return [EventOut.of(entry) for entry in await service.history(dataset, sha256)]

    return api

"""Refused feedback: what apps said that could not be used, why, and what to do about it."""

from typing import Annotated, Final

from fastapi import APIRouter, Query, Request, Response

from visionloop.objectstore.keys import MAX_KEY_BYTES
from visionloop_labeling import refused_feedback
from visionloop_labeling.api.feedback import RefusedFeedbackOut
from visionloop_labeling.pages.errors import PageRoute
from visionloop_labeling.pages.rendering import render
from visionloop_labeling.service import LabelingService

_SHOWN: Final = 50


def routes(service: LabelingService) -> APIRouter:
    """The page."""
    api = APIRouter(include_in_schema=False, route_class=PageRoute)

    @api.get("/feedback")
    async def page(
        request: Request, after: Annotated[str, Query(max_length=MAX_KEY_BYTES)] = ""
    ) -> Response:
        found, following = await service.run(
            lambda: refused_feedback.page(service.store, after=after, limit=_SHOWN)
        )
        return render(
            request,
            "feedback.html",
            found=[RefusedFeedbackOut.of(one) for one in found],
            after=after,
            next=following,
        )

    return api

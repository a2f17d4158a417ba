"""The review: disputed and flagged images one by one, both sides with who said so, decided by key.

The page comes with the classes and how many wait; static/review.js leases images from the review
queue and shows the sides from their histories.
"""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from visionloop_labeling.fold import ItemState
from visionloop_labeling.pages import naming
from visionloop_labeling.pages.errors import PageRoute
from visionloop_labeling.pages.rendering import render
from visionloop_labeling.service import LabelingService


def routes(service: LabelingService) -> APIRouter:
    """The page."""
    api = APIRouter(include_in_schema=False, route_class=PageRoute)

    @api.get("/datasets/{dataset}/review")
    async def review(
        request: Request,
        dataset: str,
        image: Annotated[str, Query(pattern="^([0-9a-f]{64})?$")] = "",
    ) -> Response:
        overview = await service.run(service.overviews.of, dataset)
        classes = await service.run(naming.classes, service, dataset)
        return render(
            request,
            "review.html",
            dataset=dataset,
            task=overview.task,
            waiting=overview.states[ItemState.REVIEW],
            image=image,
            named=[{"id": c.key, "name": c.name, "colour": c.colour} for c in classes.values()],
            offered=naming.for_scripts(classes),
        )

    return api

"""The quarantine: images that could not be decoded, why, and what to do with them."""

from typing import Annotated, Final

from fastapi import APIRouter, Query, Request, Response

from visionloop_labeling import quarantine
from visionloop_labeling.pages.errors import PageRoute
from visionloop_labeling.pages.rendering import render
from visionloop_labeling.quarantine import PutAside
from visionloop_labeling.service import LabelingService

_SHOWN: Final = 50


def routes(service: LabelingService) -> APIRouter:
    """The page."""
    api = APIRouter(include_in_schema=False, route_class=PageRoute)

    @api.get("/datasets/{dataset}/quarantine")
    async def page(
        request: Request, dataset: str, after: Annotated[str, Query(max_length=64)] = ""
    ) -> Response:
        def read() -> list[PutAside]:
            with service.database.read() as session:
                return quarantine.page(session, dataset, after=after, limit=_SHOWN)

        found = await service.run(read)
        following = found[-1].sha256 if len(found) == _SHOWN else ""
        return render(
            request, "quarantine.html", dataset=dataset, found=found, after=after, next=following
        )

    return api

"""The pages' routes."""

from fastapi import APIRouter

from visionloop_labeling.overview import Overviews
from visionloop_labeling.pages import assets, labelling, overview, start
from visionloop_labeling.service import LabelingService


def routes(service: LabelingService) -> APIRouter:
    """The pages."""
    overviews = Overviews(service.database)
    api = APIRouter(include_in_schema=False)
    api.include_router(assets.routes())
    api.include_router(start.routes(service))
    api.include_router(overview.routes(service, overviews))
    api.include_router(labelling.routes(service))
    return api

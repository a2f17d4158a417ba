"""The pages' routes."""

from typing import Final

from fastapi import APIRouter

from visionloop_labeling.pages import (
    assets,
    browse,
    classes,
    feedback,
    grid,
    image,
    imports,
    labelling,
    overview,
    people,
    quarantine,
    review,
    snapshots,
    start,
)
from visionloop_labeling.service import LabelingService

_PAGES: Final = (
    *(start, overview, labelling, grid, review, browse, image, classes),
    *(imports, snapshots, quarantine, feedback, people),
)


def routes(service: LabelingService) -> APIRouter:
    """The pages."""
    api = APIRouter(include_in_schema=False)
    api.include_router(assets.routes())
    for page in _PAGES:
        api.include_router(page.routes(service))
    return api

"""The pages' routes."""

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from visionloop_labeling.pages import assets
from visionloop_labeling.pages.rendering import render
from visionloop_labeling.service import LabelingService


def routes(service: LabelingService) -> APIRouter:
    """The pages."""
    api = APIRouter(include_in_schema=False)
    api.include_router(assets.routes())

    @api.get("/", response_class=HTMLResponse)
    async def start_page(request: Request) -> HTMLResponse:
        return render(request, "start.html", datasets=await service.list_datasets())

    return api

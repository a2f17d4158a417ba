"""The pages' routes."""

from typing import Final

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from visionloop_labeling.pages import start
from visionloop_labeling.service import LabelingService

# Nothing here is meant for another site's page, and no stored text may run as a script.
SAFE_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
}


def routes(service: LabelingService) -> APIRouter:
    """The pages."""
    api = APIRouter(include_in_schema=False)

    @api.get("/", response_class=HTMLResponse)
    async def start_page() -> HTMLResponse:
        return HTMLResponse(start.start(await service.list_datasets()), headers=SAFE_HEADERS)

    return api

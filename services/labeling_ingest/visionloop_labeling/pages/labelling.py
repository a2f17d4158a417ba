"""The labelling page's route: which dataset, which queue, which task. The rest is static/label."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from visionloop_labeling import datasets, validation
from visionloop_labeling.datasets import DatasetSettings
from visionloop_labeling.pages.errors import PageRoute
from visionloop_labeling.pages.rendering import render
from visionloop_labeling.service import LabelingService


def routes(service: LabelingService) -> APIRouter:
    """The page for labelling the images of one dataset."""
    api = APIRouter(include_in_schema=False, route_class=PageRoute)

    @api.get("/datasets/{dataset}/label", response_class=HTMLResponse)
    async def labelling_page(
        request: Request,
        dataset: str,
        state: Literal["open", "review", "skipped"] = "open",
        image: Annotated[str, Query(pattern="^([0-9a-f]{64})?$")] = "",
    ) -> HTMLResponse:
        settings = await service.run(_settings, service, dataset)
        return render(
            request, "label.html", dataset=dataset, task=settings.task, state=state, image=image
        )

    return api


def _settings(service: LabelingService, dataset: str) -> DatasetSettings:
    """Raises NotFoundError or InvalidInputError where there is no such dataset."""
    with service.database.read() as session:
        return datasets.settings_of(datasets.find(session, validation.dataset_name(dataset)))

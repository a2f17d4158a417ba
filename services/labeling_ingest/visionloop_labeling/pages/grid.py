"""The grid: many images that a model calls the same, decided at once by what is not so.

The page is made here with the classes that have predictions; its images come and go in
static/grid.js over the API.
"""

from typing import Annotated, Final

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy import func, select

from visionloop_labeling import datasets, validation
from visionloop_labeling.classes import ClassBook, ClassState
from visionloop_labeling.pages import naming
from visionloop_labeling.pages.errors import PageRoute
from visionloop_labeling.pages.rendering import render
from visionloop_labeling.schema import Prediction
from visionloop_labeling.service import LabelingService

SIZES: Final = (12, 24, 48)


def routes(service: LabelingService) -> APIRouter:
    """The page."""
    api = APIRouter(include_in_schema=False, route_class=PageRoute)

    @api.get("/datasets/{dataset}/grid")
    async def grid(
        request: Request,
        dataset: str,
        predicted: Annotated[str, Query(max_length=80)] = "",
        size: int = 24,
        order: Annotated[str, Query(pattern="^(sure|unsure)$")] = "sure",
    ) -> Response:
        counts = await service.run(_predicted, service, dataset)
        classes = await service.run(naming.classes, service, dataset)
        offered = {key: one for key, one in classes.items() if one.state is ClassState.ACTIVE}
        chosen = (
            predicted if predicted in offered else max(counts, key=counts.__getitem__, default="")
        )
        task = (await service.run(service.overviews.of, dataset)).task
        return render(
            request,
            "grid.html",
            dataset=dataset,
            task=task,
            counts=counts,
            classes=offered,
            chosen=chosen,
            order=order,
            size=size if size in SIZES else 24,
            sizes=SIZES,
            offered=naming.for_scripts(classes),
        )

    return api


def _predicted(service: LabelingService, dataset_name: str) -> dict[str, int]:
    """Class → predictions of it, whatever became of the image; from one index."""
    with service.database.read() as session:
        dataset = datasets.find(session, validation.dataset_name(dataset_name))
        book = ClassBook(session, dataset)
        classes = {one.id: one for one in book.all()}
        query = (
            select(Prediction.class_id, func.count())
            .where(Prediction.class_id.in_(classes))
            .group_by(Prediction.class_id)
        )
        counts: dict[str, int] = {}
        for class_id, images in session.execute(query).tuples():
            meant = book.meaning(classes[class_id or 0])
            if meant.state == ClassState.ACTIVE:
                counts[meant.key] = counts.get(meant.key, 0) + images
        return counts

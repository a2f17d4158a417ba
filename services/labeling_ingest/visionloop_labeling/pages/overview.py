"""The overview of a dataset: where it stands, in plots that are tables too."""

from fastapi import APIRouter, Request, Response

from visionloop_labeling.accounts import Role
from visionloop_labeling.api.callers import current
from visionloop_labeling.pages import plots
from visionloop_labeling.pages.errors import PageRoute
from visionloop_labeling.pages.rendering import render
from visionloop_labeling.service import LabelingService
from visionloop_labeling.snapshot_list import SnapshotBrief

_SHOWN_SNAPSHOTS = 5


def routes(service: LabelingService) -> APIRouter:
    """The page."""
    api = APIRouter(include_in_schema=False, route_class=PageRoute)

    @api.get("/datasets/{dataset}")
    async def overview(request: Request, dataset: str) -> Response:
        counted = await service.run(service.overviews.of, dataset)
        snapshots = await service.run(_last_snapshots, service, dataset)
        return render(
            request,
            "overview.html",
            dataset=dataset,
            overview=counted,
            days=plots.days(counted.days),
            segments=plots.segments,
            largest=max((one.accepted for one in counted.classes), default=0),
            snapshots=snapshots,
            may_review=current(request).may(Role.REVIEWER),
            may_import=current(request).may(Role.ADMIN),
        )

    return api


def _last_snapshots(service: LabelingService, dataset: str) -> list[SnapshotBrief]:
    """The newest first."""
    return service.snapshots.of(dataset)[: -_SHOWN_SNAPSHOTS - 1 : -1]

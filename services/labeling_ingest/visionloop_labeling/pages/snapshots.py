"""Snapshots: cutting one, what is in each, what changed between two, what kept it free of leaks."""

from typing import Annotated, Final

from fastapi import APIRouter, Query, Request, Response

from visionloop.snapshot import SnapshotManifest, SnapshotRepository
from visionloop_labeling import datasets, validation
from visionloop_labeling.pages import naming
from visionloop_labeling.pages.errors import PageRoute
from visionloop_labeling.pages.rendering import render
from visionloop_labeling.service import LabelingService
from visionloop_labeling.snapshot_list import SnapshotBrief

_SHOWN: Final = 100
_SHOWN_IMAGES: Final = 24
FORMATS: Final = (
    ("csv", "CSV", "one line an image"),
    ("coco", "COCO", "JSON"),
    ("yolo", "YOLO", "ZIP with the images"),
    ("folder", "Folders", "ZIP, a folder for each class"),
)
_Name = Annotated[str, Query(max_length=80)]


def routes(service: LabelingService) -> APIRouter:
    """The page."""
    api = APIRouter(include_in_schema=False, route_class=PageRoute)

    @api.get("/datasets/{dataset}/snapshots")
    async def snapshots(
        request: Request,
        dataset: str,
        before: Annotated[str, Query(alias="from", max_length=80)] = "",
        to: _Name = "",
        show: _Name = "",
    ) -> Response:
        found = await service.run(_newest, service, dataset)
        chosen = next((one.id for one in found if one.id == show), found[0].id if found else "")
        compared = (
            await service.compare(dataset, before, to or "latest", _SHOWN_IMAGES)
            if before
            else None
        )
        shown = await service.run(_manifest, service, dataset, chosen) if chosen else None
        return render(
            request,
            "snapshots.html",
            dataset=dataset,
            snapshots=found[:_SHOWN],
            more=max(0, len(found) - _SHOWN),
            shown=shown,
            compared=compared,
            formats=FORMATS,
            classes=await service.run(naming.classes, service, dataset),
        )

    return api


def _manifest(service: LabelingService, dataset: str, snapshot: str) -> SnapshotManifest:
    return SnapshotRepository(service.store).manifest(dataset, snapshot)


def _newest(service: LabelingService, dataset_name: str) -> list[SnapshotBrief]:
    """The newest first. Raises NotFoundError for an unknown dataset."""
    with service.database.read() as session:
        datasets.find(session, validation.dataset_name(dataset_name))
    return service.snapshots.of(dataset_name)[::-1]

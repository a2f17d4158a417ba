"""Imports: sending files or naming a prefix, how far each is, and receipts to download."""

from dataclasses import dataclass
from typing import Final

from fastapi import APIRouter, Request, Response

from visionloop_labeling import import_jobs
from visionloop_labeling.classes import ClassState
from visionloop_labeling.importers.album import MAX_FILES
from visionloop_labeling.importers.names import IMAGE_SUFFIXES
from visionloop_labeling.importers.opening import needs_file, takes_several_files
from visionloop_labeling.pages import naming
from visionloop_labeling.pages.errors import PageRoute
from visionloop_labeling.pages.rendering import render
from visionloop_labeling.receipts import Outcome
from visionloop_labeling.service import LabelingService

_SHOWN: Final = 50
_ARCHIVES: Final = ".zip,.tar,.tgz,.gz,.bz2,.xz"


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of source; `accept` is what its file may end with, "" where it has none."""

    name: str
    title: str
    text: str
    accept: str

    @property
    def most_files(self) -> int:
        """How many files one form may have."""
        if takes_several_files(self.name):
            return MAX_FILES
        return 1 if needs_file(self.name) else 0


_KINDS: Final = (
    _Kind(
        "images",
        "Images",
        "One or many; all of one class, or still to be labelled.",
        ",".join(sorted(IMAGE_SUFFIXES)),
    ),
    _Kind(
        "archive", "Archive of folders", "ZIP or TAR; an image's folder is its class.", _ARCHIVES
    ),
    _Kind("csv", "CSV", "A row for each image; alone or in an archive.", f".csv,{_ARCHIVES}"),
    _Kind("coco", "COCO", "Boxes, polygons, masks; the JSON and the images.", f".json,{_ARCHIVES}"),
    _Kind("yolo", "YOLO", "An archive with data.yaml, labels and images.", _ARCHIVES),
    _Kind(
        "label-studio",
        "Label Studio",
        "Its JSON export; alone or in an archive.",
        f".json,{_ARCHIVES}",
    ),
    _Kind("urls", "List of addresses", "A text file with a URL in each line.", ".txt,.csv"),
    _Kind("s3", "Prefix of a store", "What is new under a prefix that the operator allowed.", ""),
)


def routes(service: LabelingService) -> APIRouter:
    """The page."""
    api = APIRouter(include_in_schema=False, route_class=PageRoute)

    @api.get("/datasets/{dataset}/imports")
    async def imports(request: Request, dataset: str) -> Response:
        jobs = await service.run(import_jobs.latest, service.database, dataset, _SHOWN)
        named = await service.run(naming.classes, service, dataset)
        return render(
            request,
            "imports.html",
            dataset=dataset,
            jobs=jobs,
            unfinished=any(not job.state.finished for job in jobs),
            kinds=_KINDS,
            largest=request.app.state.max_import_bytes,
            classes=[one.name for one in named.values() if one.state is ClassState.ACTIVE],
            outcomes=list(Outcome),
        )

    return api

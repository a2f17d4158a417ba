"""A dataset's labels as files, streamed: they may be larger than memory."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from visionloop_labeling.api.errors import ERRORS
from visionloop_labeling.exporters import Export, Format, open_export
from visionloop_labeling.service import LabelingService

_FILES: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The file. One that breaks off was not finished: ask again.",
        "content": {kind: {} for kind in ("text/csv", "application/json", "application/zip")},
    }
}


def routes(service: LabelingService) -> APIRouter:
    """Exports."""
    api = APIRouter(tags=["exports"])

    @api.get(
        "/v1/datasets/{dataset}/export",
        response_class=StreamingResponse,
        responses={**_FILES, **ERRORS},
    )
    async def export(
        dataset: str,
        format: Annotated[
            Format,
            Query(description="CSV, COCO JSON, or a ZIP with the images: YOLO, folder per class."),
        ] = "csv",
        snapshot: Annotated[
            str | None,
            Query(description='A snapshot\'s id, its beginning, or "latest"; else what is now.'),
        ] = None,
    ) -> StreamingResponse:
        """Labels as a file of this format."""
        return _file(
            service,
            await service.run(
                open_export, service.database, service.store, dataset, format, snapshot
            ),
        )

    @api.get(
        "/v1/datasets/{dataset}/labels.csv",
        response_class=StreamingResponse,
        responses={200: {"content": {"text/csv": {}}}, **ERRORS},
    )
    async def labels_csv(dataset: str) -> StreamingResponse:
        """The current labels as CSV; cells that a spreadsheet would run are made text."""
        return _file(
            service,
            await service.run(open_export, service.database, service.store, dataset, "csv"),
        )

    return api


def _file(service: LabelingService, export: Export) -> StreamingResponse:
    return StreamingResponse(
        service.pieces(export),
        media_type=export.media_type,
        headers={"Content-Disposition": f'attachment; filename="{export.name}"'},
    )

"""Operation: alive, ready, metrics."""

from fastapi import APIRouter, Response

from visionloop.telemetry import metrics
from visionloop_labeling.api.errors import ERRORS
from visionloop_labeling.service import LabelingService


def routes(service: LabelingService) -> APIRouter:
    """Health and metrics."""
    api = APIRouter(tags=["operation"])

    @api.get("/healthz")
    async def alive() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "alive"}

    @api.get("/readyz", responses=ERRORS)
    async def ready() -> dict[str, str]:
        """Whether to send work: not while draining, nor without the database."""
        await service.check_ready()
        return {"status": "ready"}

    @api.get("/metrics")
    async def prometheus() -> Response:
        """Prometheus metrics."""
        await service.measure()
        body, content_type = metrics.exposition()
        return Response(body, media_type=content_type)

    return api

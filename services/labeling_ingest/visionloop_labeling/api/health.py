"""Operation: alive, ready, metrics."""

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse

from visionloop.errors import UnavailableError
from visionloop.telemetry import metrics
from visionloop_labeling.api.errors import ERRORS
from visionloop_labeling.auth import Gate
from visionloop_labeling.service import LabelingService


def routes(service: LabelingService, gate: Gate) -> APIRouter:
    """Health and metrics."""
    api = APIRouter(tags=["operation"])

    @api.get("/healthz")
    async def alive() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "alive"}

    @api.get("/readyz", responses=ERRORS)
    async def ready() -> dict[str, str]:
        """Whether to send work: not while draining, nor without the database."""
        if reason := gate.readiness.reason():
            raise UnavailableError(f"this replica is {reason}; send to another one")
        await service.check_ready()
        return {"status": "ready"}

    @api.get(
        "/metrics",
        response_class=PlainTextResponse,
        responses={200: {"content": {"text/plain": {}}}, **ERRORS},
    )
    async def prometheus() -> Response:
        """Prometheus metrics."""
        await service.measure()
        body, content_type = metrics.exposition()
        return Response(body, media_type=content_type)

    return api

"""The plain port for what asks whether the service is well: Kubernetes, Prometheus.

Under TLS and accounts a probe would need the authority's certificate and a scraper a token. Here
/healthz, /readyz and /metrics are answered to whoever reaches the port, and nothing else is there.
Metrics name datasets and models, so the port is for the inside of a cluster; it is off by default.
"""

from fastapi import FastAPI

from visionloop_labeling.api import errors, health
from visionloop_labeling.api.guards import SafeAnswers
from visionloop_labeling.auth import Gate
from visionloop_labeling.service import LabelingService


def make_probes(service: LabelingService, gate: Gate) -> FastAPI:
    """The application of the port."""
    api = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    api.add_middleware(SafeAnswers)
    errors.add_handlers(api)
    api.include_router(health.routes(service, gate))
    return api

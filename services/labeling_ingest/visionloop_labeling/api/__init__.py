"""The HTTP face: the same operations as gRPC, as JSON, described at /openapi.json.

One module for each kind of resource, each with `routes(service)`; `errors` and `guards` are what
they share. Errors have one shape, {"reason", "message", "field"}, and the status of
`visionloop.errors`. Uploads are counted while they are read and cut off at the limit, whatever
Content-Length says.
"""

from typing import Final

from fastapi import FastAPI

import visionloop
from visionloop_labeling.api import datasets, errors, health, images, labels
from visionloop_labeling.api.guards import BodyLimit, OwnSiteOnly
from visionloop_labeling.pages import routes as pages
from visionloop_labeling.service import LabelingService

_FORM_OVERHEAD: Final = 256 * 2**10  # bytes, of fields and boundaries beside the image


def make_api(service: LabelingService) -> FastAPI:
    """The application over a service."""
    api = FastAPI(
        title="Visionloop labeling-ingest",
        version=visionloop.__version__,
        description="Labelled images in, dataset snapshots out.",
        # The documentation pages load their scripts from another site, which clusters cannot reach.
        docs_url=None,
        redoc_url=None,
    )
    api.add_middleware(OwnSiteOnly)
    api.add_middleware(BodyLimit, limit=service.limits.max_bytes + _FORM_OVERHEAD)
    errors.add_handlers(api)
    for part in (health, datasets, images, labels, pages):
        api.include_router(part.routes(service))
    return api

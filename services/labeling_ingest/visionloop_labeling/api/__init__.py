"""The HTTP face: the same operations as gRPC, as JSON, described at /openapi.json.

One module for each kind of resource, each with `routes(service)`; `errors` and `guards` are what
they share. Errors have one shape, {"reason", "message", "field"}, and the status of
`visionloop.errors`. Uploads are counted while they are read and cut off at the limit, whatever
Content-Length says.
"""

from typing import Final

from fastapi import FastAPI

import visionloop
from visionloop.telemetry.request_lines import RequestLines
from visionloop_labeling.access_log import LoggedRequests
from visionloop_labeling.api import (
    accounts,
    browse,
    classes,
    datasets,
    errors,
    events,
    exports,
    feedback,
    health,
    images,
    imports,
    labels,
    preferences,
    previews,
    quarantine,
    queue,
    sessions,
    snapshots,
    tokens,
)
from visionloop_labeling.api.description import add_description
from visionloop_labeling.api.guards import (
    BodyLimit,
    KnownCallers,
    OwnHostOnly,
    OwnSiteOnly,
    SafeAnswers,
)
from visionloop_labeling.auth import Gate
from visionloop_labeling.pages import login
from visionloop_labeling.pages import routes as pages
from visionloop_labeling.permissions import Body
from visionloop_labeling.service import LabelingService

_FORM_OVERHEAD: Final = 256 * 2**10  # bytes, of fields and boundaries beside the image
_JSON_BYTES: Final = 8 * 2**20
MAX_IMPORT_BYTES: Final = 20 * 2**30


def make_api(
    service: LabelingService,
    gate: Gate | None = None,
    *,
    max_import_bytes: int = MAX_IMPORT_BYTES,
    own_host_only: bool = False,
    lines: RequestLines | None = None,
) -> FastAPI:
    """The application over a service; without a gate everybody may do everything."""
    gate = gate or Gate(service.database)
    api = FastAPI(
        title="Visionloop labeling-ingest",
        version=visionloop.__version__,
        description="Labelled images in, dataset snapshots out.",
        # The documentation pages load their scripts from another site, which clusters cannot reach.
        docs_url=None,
        redoc_url=None,
    )
    api.state.max_import_bytes = max_import_bytes  # for the page that uploads
    sizes = {
        Body.JSON: _JSON_BYTES,
        Body.IMAGE: service.limits.max_bytes + _FORM_OVERHEAD,
        Body.IMPORT: max_import_bytes + _FORM_OVERHEAD,
    }
    # The last one added is the first that a request meets.
    api.add_middleware(BodyLimit, sizes=sizes)
    api.add_middleware(KnownCallers, gate=gate, routes=api.router)
    api.add_middleware(OwnSiteOnly)
    if own_host_only:
        api.add_middleware(OwnHostOnly)
    api.add_middleware(SafeAnswers)
    api.add_middleware(LoggedRequests, lines=lines or RequestLines(0.0))
    errors.add_handlers(api)
    labelling = (classes, preferences, labels, events, queue, browse)
    for part in (
        datasets,
        *labelling,
        snapshots,
        exports,
        previews,
        quarantine,
        imports,
        feedback,
        tokens,
        pages,
    ):
        api.include_router(part.routes(service))
    for part in (health, images, sessions, accounts, login):
        api.include_router(part.routes(service, gate))
    add_description(api)
    return api

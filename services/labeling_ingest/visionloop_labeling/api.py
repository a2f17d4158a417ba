"""The HTTP face: the same operations as gRPC, as JSON, described at /openapi.json.

Errors have one shape, {"reason", "message", "field"}, and the status of `visionloop.errors`.
Uploads are counted while they are read and cut off at the limit, whatever Content-Length says.
"""

import json
import uuid
from collections.abc import AsyncIterator
from typing import Annotated, Any, Final

from fastapi import Depends, FastAPI, File, Form, Header, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import visionloop
from visionloop.errors import InvalidInputError, VisionloopError
from visionloop.telemetry import metrics
from visionloop_labeling import exports, pages
from visionloop_labeling.labels import AuthorKind
from visionloop_labeling.receipts import ImageRow, Outcome, Receipt
from visionloop_labeling.resources import (
    DatasetOut,
    ErrorOut,
    EventOut,
    LabelIn,
    LabelOut,
    NewDataset,
    ReceiptOut,
    SnapshotOut,
)
from visionloop_labeling.service import LabelingService

_MAX_KEY: Final = 195  # characters; with "http:" the 200 of a batch's name
_FORM_OVERHEAD: Final = 256 * 2**10  # bytes, of fields and boundaries beside the image
_ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": ErrorOut} for status in (400, 404, 409, 412, 413, 422, 503)
}
# Nothing here is meant for another site's page, and no stored text may run as a script.
_SAFE_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
}


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
    api.add_middleware(_OwnSiteOnly)
    api.add_middleware(_BodyLimit, limit=service.limits.max_bytes + _FORM_OVERHEAD)
    api.add_exception_handler(VisionloopError, _on_our_error)
    api.add_exception_handler(HTTPException, _on_http_error)
    api.add_exception_handler(RequestValidationError, _on_invalid_request)
    api.add_exception_handler(Exception, _on_our_fault)
    _add_health(api, service)
    _add_datasets(api, service)
    _add_images(api, service)
    _add_labels(api, service)
    return api


def _add_health(api: FastAPI, service: LabelingService) -> None:
    @api.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def start_page() -> HTMLResponse:
        return HTMLResponse(pages.start(await service.list_datasets()), headers=_SAFE_HEADERS)

    @api.get("/healthz", tags=["operation"])
    async def alive() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "alive"}

    @api.get("/readyz", tags=["operation"], responses=_ERRORS)
    async def ready() -> dict[str, str]:
        """Whether to send work: not while draining, nor without the database."""
        await service.check_ready()
        return {"status": "ready"}

    @api.get("/metrics", tags=["operation"])
    async def prometheus() -> Response:
        """Prometheus metrics."""
        await service.measure()
        body, content_type = metrics.exposition()
        return Response(body, media_type=content_type)


def _add_datasets(api: FastAPI, service: LabelingService) -> None:
    @api.post("/v1/datasets", tags=["datasets"], responses=_ERRORS)
    async def create_dataset(new: NewDataset) -> DatasetOut:
        """Makes a dataset, or returns the one of this name. Its settings never change."""
        return DatasetOut.of(await service.create_dataset(new.name, new.settings))

    @api.get("/v1/datasets", tags=["datasets"], responses=_ERRORS)
    async def list_datasets() -> list[DatasetOut]:
        """All datasets by name."""
        return [DatasetOut.of(one) for one in await service.list_datasets()]

    @api.post("/v1/datasets/{dataset}/snapshots", tags=["datasets"], responses=_ERRORS)
    async def create_snapshot(dataset: str) -> SnapshotOut:
        """Cuts a snapshot of what is labelled now; the same content gives the same id."""
        return SnapshotOut.of(await service.create_snapshot(dataset))


def _add_images(api: FastAPI, service: LabelingService) -> None:
    @api.post("/v1/datasets/{dataset}/images", tags=["images"], status_code=201, responses=_ERRORS)
    async def submit_image(
        response: Response,
        row: Annotated[ImageRow, Depends(_row)],
    ) -> ReceiptOut:
        """One image, with or without a label. 201 when it is new, 200 when it was there."""
        receipt = await service.submit_image(row)
        if receipt.outcome is Outcome.REJECTED:
            raise _RejectedRowError(receipt)
        if receipt.outcome is Outcome.DUPLICATE or receipt.replayed:
            response.status_code = 200
        return ReceiptOut.of(receipt)


async def _row(
    dataset: str,
    file: Annotated[UploadFile, File(description="The encoded image.")],
    label: Annotated[str | None, Form(description="The class's name.")] = None,
    group: Annotated[str, Form(description="Images of one group share a split.")] = "",
    attributes: Annotated[str, Form(description='A JSON object of strings: {"line": "3"}.')] = "{}",
    author_kind: Annotated[AuthorKind, Form()] = AuthorKind.HUMAN,
    author: Annotated[str, Form()] = "",
    idempotency_key: Annotated[
        str, Header(description="The same key is one upload, however often it is sent.")
    ] = "",
) -> ImageRow:
    if not (idempotency_key.isascii() and len(idempotency_key) <= _MAX_KEY):
        raise InvalidInputError(
            f"Idempotency-Key must be at most {_MAX_KEY} ASCII characters; a UUID is fine",
            field="Idempotency-Key",
        )
    return ImageRow(
        dataset=dataset,
        batch=f"http:{idempotency_key or uuid.uuid4()}",
        ordinal=0,
        image=await file.read(),
        label=label or None,
        group=group,
        attributes=_attributes(attributes),
        author_kind=author_kind,
        author=author,
        source=file.filename or "",
    )


def _attributes(text: str) -> dict[str, str]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(
            f"attributes is not JSON ({error}); send an object of strings", field="attributes"
        ) from error
    if not isinstance(values, dict) or not all(isinstance(v, str) for v in values.values()):
        raise InvalidInputError(
            'attributes must be a JSON object of strings, as {"line": "3"}', field="attributes"
        )
    return values


def _add_labels(api: FastAPI, service: LabelingService) -> None:
    @api.post("/v1/datasets/{dataset}/labels", tags=["labels"], responses=_ERRORS)
    async def submit_label(dataset: str, new: LabelIn) -> LabelOut:
        """A first label or a correction for an image that is there."""
        recorded = await service.submit_label(
            dataset=dataset,
            sha256=new.sha256,
            class_name=new.label,
            event_id=str(new.event_id or uuid.uuid4()),
            author_kind=new.author_kind,
            author=new.author,
            base_sequence=new.base_sequence,
        )
        return LabelOut(
            sequence=recorded.sequence, class_id=recorded.class_key, current=recorded.applied
        )

    @api.get("/v1/datasets/{dataset}/images/{sha256}/history", tags=["labels"], responses=_ERRORS)
    async def history(dataset: str, sha256: str) -> list[EventOut]:
        """Every label event of an image, oldest first."""
        return [EventOut.of(entry) for entry in await service.history(dataset, sha256)]

    @api.get(
        "/v1/datasets/{dataset}/labels.csv",
        tags=["labels"],
        response_class=StreamingResponse,
        responses={200: {"content": {"text/csv": {}}}, **_ERRORS},
    )
    async def labels_csv(dataset: str) -> StreamingResponse:
        """The current labels as CSV; cells that a spreadsheet would run are made text."""
        await service.check_dataset(dataset)
        return StreamingResponse(
            _csv(service, dataset),
            media_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": f'attachment; filename="{dataset}-labels.csv"'},
        )


async def _csv(service: LabelingService, dataset: str) -> AsyncIterator[str]:
    yield exports.csv_header()
    async for page in service.export(dataset):
        yield exports.csv_page(page)


class _RejectedRowError(VisionloopError):
    """A refused row as an error, so that one handler answers all."""

    def __init__(self, receipt: Receipt) -> None:
        super().__init__(receipt.message)
        self.receipt = receipt


async def _on_our_error(_request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, _RejectedRowError):
        receipt = error.receipt
        status = {"not_found": 404, "conflict": 409}.get(receipt.reason, 400)
        return _error_body(status, receipt.reason, receipt.message, receipt.field)
    if not isinstance(error, VisionloopError):
        raise error
    field = error.field if isinstance(error, InvalidInputError) else ""
    return _error_body(error.http_status, error.reason, str(error), field)


async def _on_our_fault(_request: Request, _error: Exception) -> JSONResponse:
    # Starlette logs the traceback; callers need not see what it names.
    return _error_body(500, "internal", "the service failed; its log says why", "")


async def _on_http_error(_request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        raise error
    words = {404: "not_found", 405: "method_not_allowed", 413: "too_many_bytes"}
    reason = words.get(error.status_code, "invalid_input")
    return _error_body(error.status_code, reason, str(error.detail), "")


async def _on_invalid_request(_request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, RequestValidationError):
        raise error
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"][1:])
    return _error_body(422, "invalid_input", f"{field}: {first['msg']}", field)


def _error_body(status: int, reason: str, message: str, field: str) -> JSONResponse:
    body = ErrorOut(reason=reason, message=message, field=field)
    headers = {"Retry-After": "1"} if status == 503 else None
    return JSONResponse(body.model_dump(), status, headers)


class _OwnSiteOnly:
    """Refuses what another site's page sends through the browser of somebody who can reach us.

    A form on any page may post to a loopback address, and a label it sent would count as a
    person's. Browsers say where a request comes from; programs do not, and are let through.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Looks at requests that change something."""
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            if origin is not None and origin.partition("://")[2] != headers.get("host"):
                text = f"a page of {origin[:100]!a} may not change anything here"
                await _error_body(403, "permission_denied", text, "")(scope, receive, send)
                return
        await self._app(scope, receive, send)


class _BodyLimit:
    """Stops reading a request's body once it is larger than `limit` bytes."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Counts what is received."""
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit:
                raise HTTPException(
                    413, f"the request has more than {self._limit} bytes; send a smaller image"
                )
            return message

        await self._app(scope, counted if scope["type"] == "http" else receive, send)

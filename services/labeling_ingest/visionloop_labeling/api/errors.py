"""Errors as HTTP answers: {"reason", "message", "field"}, with the status of `visionloop.errors`.

What is not one of our errors is a fault of ours: logged, and told without its words.
"""

import math
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from visionloop.errors import (
    InvalidInputError,
    OverloadedError,
    UnauthenticatedError,
    UnavailableError,
    VisionloopError,
)
from visionloop_labeling.api.headers import SAFE_HEADERS
from visionloop_labeling.api.resources import ErrorOut
from visionloop_labeling.pages.errors import error_page
from visionloop_labeling.receipts import Receipt

# What a route may answer beside its result, for OpenAPI.
ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": ErrorOut}
    for status in (400, 401, 403, 404, 408, 409, 412, 413, 422, 429, 503)
}


def add_handlers(api: FastAPI) -> None:
    """Registers the handlers."""
    api.add_exception_handler(VisionloopError, _on_our_error)
    api.add_exception_handler(HTTPException, _on_http_error)
    api.add_exception_handler(RequestValidationError, _on_invalid_request)
    api.add_exception_handler(Exception, _on_our_fault)


class RejectedRowError(VisionloopError):
    """A refused row as an error, so that one handler answers all."""

    def __init__(self, receipt: Receipt) -> None:
        super().__init__(receipt.message)
        self.receipt = receipt


async def _on_our_error(_request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, RejectedRowError):
        receipt = error.receipt
        status = {"not_found": 404, "conflict": 409}.get(receipt.reason, 400)
        return error_body(status, receipt.reason, receipt.message, receipt.field)
    if not isinstance(error, VisionloopError):
        raise error
    return answer_to(error)


def answer_to(error: VisionloopError) -> JSONResponse:
    """An error of ours as JSON."""
    field = error.field if isinstance(error, InvalidInputError) else ""
    headers: dict[str, str] = {}
    if isinstance(error, OverloadedError | UnavailableError):
        headers["Retry-After"] = str(math.ceil(error.retry_after_seconds or 1.0))
    if isinstance(error, UnauthenticatedError):
        headers["WWW-Authenticate"] = "Bearer"
    return error_body(error.http_status, error.reason, str(error), field, headers)


async def _on_our_fault(request: Request, _error: Exception) -> Response:
    # Starlette logs the traceback; callers need not see what it names.
    # The guards are inside of what calls this: the headers that they put on answers are missing.
    text = "the service failed; its log says why"
    if wants_page(request.scope):
        return error_page(request, 500, f"{text}. Try again in a moment.")
    return error_body(500, "internal", text, "", dict(SAFE_HEADERS))


async def _on_http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    if error.status_code == 404 and wants_page(request.scope):
        return error_page(request, 404, f"there is no page {request.url.path[:100]!a}")
    words = {
        404: "not_found",
        405: "method_not_allowed",
        408: "too_slow",
        413: "too_many_bytes",
    }
    reason = words.get(error.status_code, "invalid_input")
    headers = dict(error.headers) if error.headers else None
    return error_body(error.status_code, reason, str(error.detail), "", headers)


async def _on_invalid_request(_request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, RequestValidationError):
        raise error
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"][1:])
    return error_body(422, "invalid_input", f"{field}: {first['msg']}", field)


def wants_page(scope: Scope) -> bool:
    """Whether a browser follows a link, and its reader should see a page."""
    return (
        scope["method"] == "GET"
        and not scope["path"].startswith("/v1/")
        and "text/html" in Headers(scope=scope).get("accept", "")
    )


def refusal(scope: Scope, error: VisionloopError) -> Response:
    """An error as a page or as JSON, for what stands before the routes."""
    if wants_page(scope):
        return error_page(Request(scope), error.http_status, str(error))
    return answer_to(error)


def error_body(
    status: int, reason: str, message: str, field: str, headers: dict[str, str] | None = None
) -> JSONResponse:
    """An error's answer."""
    body = ErrorOut(reason=reason, message=message, field=field)
    return JSONResponse(body.model_dump(), status, headers)

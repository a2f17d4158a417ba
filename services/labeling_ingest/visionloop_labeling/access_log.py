"""One line per request for operators, of both faces: who asked what, how it ended, how long it
took. HTTP requests are counted here too; those of gRPC by `visionloop.telemetry.rpc`.

`--access-log 0.01` keeps one of a hundred; what failed is kept always, at most 10 lines a second.
Bodies, query strings, cookies and tokens are never written: a line has the path alone.
"""

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import unquote

import grpc
import grpc.aio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from visionloop.rpc_handlers import Handler, around
from visionloop.telemetry import labeling as metrics
from visionloop.telemetry.request_lines import RequestLines, short
from visionloop_labeling.auth import CALLER

log = logging.getLogger(__name__)

_FAILED_STATUS = 400
_CLIENT_LEFT = 499  # no answer was begun; nginx's number for it
# Asked by machines all the time, and nobody's business when they are well.
_PROBES = frozenset({"/healthz", "/readyz", "/metrics"})

_Context = grpc.aio.ServicerContext[Any, Any]


class LoggedRequests:
    """The HTTP face's lines and counts, as a guard around all others."""

    def __init__(self, app: ASGIApp, lines: RequestLines) -> None:
        self._app = app
        self._lines = lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Measures a request from its head to the end of its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status, received, sent = _CLIENT_LEFT, 0, 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        async def watched(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
            sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, counted, watched)
        except BaseException:
            status = 500 if status == _CLIENT_LEFT else status
            raise
        finally:
            failed = status >= _FAILED_STATUS
            _count(scope, status, time.perf_counter() - began)
            if (failed or scope["path"] not in _PROBES) and self._lines.wants(failed=failed):
                caller = scope.get("state", {}).get("caller")
                facts: dict[str, object] = {
                    "method": scope["method"],
                    "path": short(scope["path"]),
                    "status": status,
                    "seconds": round(time.perf_counter() - began, 6),
                    "peer": short(scope["client"][0]) if scope.get("client") else "",
                    "bytes": received,
                    "answered_bytes": sent,
                }
                if caller is not None and caller.account is not None:
                    facts["caller"] = caller.name
                log.info("request", extra=facts | self._lines.left_out())


def _count(scope: Scope, status: int, seconds: float) -> None:
    # By the table's template, and "other" for what is not in it: a scanner makes no new series.
    route = scope.get("template", "other")
    method = scope["method"] if route != "other" else "any"
    metrics.HTTP_REQUESTS.labels(method, route, str(status)).inc()
    metrics.HTTP_SECONDS.labels(route).observe(seconds)


class LoggedCalls(grpc.aio.ServerInterceptor):
    """The gRPC face's lines, as an interceptor before that which asks who calls."""

    def __init__(self, lines: RequestLines) -> None:
        self._lines = lines

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], "Awaitable[Handler | None]"],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """The handler of this call, watched; those of grpcio's own services are left alone."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method.startswith("/grpc."):
            return handler
        watched = self._stream if handler.response_streaming else self._answer
        return around(handler, lambda behaviour: watched(method, behaviour))

    def _answer(self, method: str, behaviour: Any) -> Any:
        async def watched(request: Any, context: _Context) -> Any:
            began, peer = time.perf_counter(), unquote(context.peer())
            failed = True
            try:
                answer = await behaviour(request, context)
                failed = False
                return answer
            finally:
                self._write(method, context, began, peer, failed=failed)

        return watched

    def _stream(self, method: str, behaviour: Any) -> Any:
        async def watched(request: Any, context: _Context) -> AsyncIterator[Any]:
            # The peer is asked now: of a call that has ended grpc.aio reads freed memory.
            began, peer = time.perf_counter(), unquote(context.peer())
            failed = True
            try:
                async for answer in behaviour(request, context):
                    yield answer
                failed = False
            finally:
                self._write(method, context, began, peer, failed=failed)

        return watched

    def _write(
        self, method: str, context: _Context, began: float, peer: str, *, failed: bool
    ) -> None:
        if not self._lines.wants(failed=failed):
            return
        caller = CALLER.get(None)
        facts: dict[str, object] = {
            "method": method.lstrip("/"),
            "code": _code(context) if failed else "OK",
            "seconds": round(time.perf_counter() - began, 6),
            "peer": short(peer),
        }
        if caller is not None and caller.account is not None:
            facts["caller"] = caller.name
        log.info("request", extra=facts | self._lines.left_out())


def _code(context: _Context) -> str:
    """How a failed call ended; one that its caller left has no code."""
    code = context.code()
    for known in grpc.StatusCode:
        if known is not grpc.StatusCode.OK and code in (known, known.value[0]):
            return known.name
    return "CANCELLED"

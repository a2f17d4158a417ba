"""The gRPC server metrics under the names that dashboards know, by one interceptor for grpc.aio.

Names and labels are those of go-grpc-prometheus, codes in its spelling ("ResourceExhausted").
A call counts once it has been handed to a handler; calls of unknown methods are not counted, so
that a scanner cannot make a time series per guess. Handlers that are plain functions (ours are
all async) count as OK or Unknown, because grpc.aio does not let one read the code they set. The
price is about 10 microseconds a call.
"""

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import grpc.aio

from visionloop.rpc_handlers import Handler, around
from visionloop.telemetry import metrics

_LABELS = ("grpc_type", "grpc_service", "grpc_method")

STARTED = metrics.counter(
    "inference, labeling-ingest",
    "grpc_server_started_total",
    "RPCs handed to a handler.",
    _LABELS,
)
HANDLED = metrics.counter(
    "inference, labeling-ingest",
    "grpc_server_handled_total",
    "RPCs finished, by status code.",
    (*_LABELS, "grpc_code"),
)
HANDLING_SECONDS = metrics.histogram(
    "inference, labeling-ingest",
    "grpc_server_handling_seconds",
    "Time that handlers took, streams from their first to their last message.",
    _LABELS,
)


def _camel(code: grpc.StatusCode) -> str:
    if code in (grpc.StatusCode.OK, grpc.StatusCode.CANCELLED):
        return "OK" if code is grpc.StatusCode.OK else "Canceled"
    return "".join(word.capitalize() for word in code.name.split("_"))


SPELLED = {code.name: _camel(code) for code in grpc.StatusCode}  # RESOURCE_EXHAUSTED -> …


class Method:
    """The series of one method, for servers that count without the interceptor (0.5 us a call)."""

    def __init__(self, kind: str, path: str) -> None:
        """`path` as /package.Service/Method, `kind` as go-grpc-prometheus has it."""
        self.path = path
        _, service, method = path.split("/", 2)
        self._labels = (kind, service, method)
        self._started = STARTED.labels(*self._labels)
        self._seconds = HANDLING_SECONDS.labels(*self._labels)
        self._handled = {"OK": HANDLED.labels(*self._labels, "OK")}

    def started(self) -> None:
        self._started.inc()

    def finished(self, code: str, seconds: float) -> None:
        """`code` in the spelling of SPELLED."""
        counter = self._handled.get(code)
        if counter is None:
            counter = self._handled[code] = HANDLED.labels(*self._labels, code)
        counter.inc()
        self._seconds.observe(seconds)


class MetricsInterceptor(grpc.aio.ServerInterceptor):
    """Give it to `grpc.aio.server(interceptors=[MetricsInterceptor()])`."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], "Awaitable[Handler | None]"],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """The handler of this call, measured; None where there is no such method."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        _, service, method = handler_call_details.method.split("/", 2)
        return _measured(handler, service, method)


# By whether requests and answers are streams, as go-grpc-prometheus calls them.
_KINDS = {
    (False, False): "unary",
    (True, False): "client_stream",
    (False, True): "server_stream",
    (True, True): "bidi_stream",
}


def _measured(handler: Handler, service: str, method: str) -> Handler:
    kind = _KINDS[handler.request_streaming, handler.response_streaming]
    return around(handler, lambda behaviour: _wrapped(behaviour, (kind, service, method)))


def _wrapped(function: Any, labels: tuple[str, str, str]) -> Callable[[Any, Any], Any]:
    """The handler in the same style (async or not, generator or not), which grpc looks at."""
    if inspect.isasyncgenfunction(function):

        async def async_stream(request: Any, context: Any) -> AsyncIterator[Any]:
            with _call(labels, context):
                async for response in function(request, context):
                    yield response

        return async_stream
    if inspect.iscoroutinefunction(function):

        async def async_answer(request: Any, context: Any) -> Any:
            with _call(labels, context):
                return await function(request, context)

        return async_answer
    if inspect.isgeneratorfunction(function):

        def stream(request: Any, context: Any) -> Iterator[Any]:
            with _call(labels, context):
                yield from function(request, context)

        return stream

    def answer(request: Any, context: Any) -> Any:
        with _call(labels, context):
            return function(request, context)

    return answer


@contextmanager
def _call(labels: tuple[str, str, str], context: Any) -> Iterator[None]:
    STARTED.labels(*labels).inc()
    began = time.perf_counter()
    code = "OK"
    try:
        yield
        code = _spelled(_code(context))
    except (asyncio.CancelledError, GeneratorExit):
        code = "Canceled"
        raise
    except BaseException:
        # context.abort sets the code and raises; any other exception reaches callers as UNKNOWN.
        code = _spelled(_code(context), when_unset="Unknown")
        raise
    finally:
        HANDLED.labels(*labels, code).inc()
        HANDLING_SECONDS.labels(*labels).observe(time.perf_counter() - began)


def _code(context: Any) -> grpc.StatusCode | int | None:
    read = getattr(context, "code", None)
    return read() if read else None


def _spelled(code: grpc.StatusCode | int | None, when_unset: str = "OK") -> str:
    """RESOURCE_EXHAUSTED, or its number, as ResourceExhausted."""
    if isinstance(code, int):
        code = next((known for known in grpc.StatusCode if known.value[0] == code), None)
    if code is None or code is grpc.StatusCode.OK:
        return when_unset
    return SPELLED[code.name]

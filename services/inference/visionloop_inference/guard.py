"""What stands around every call of a front end's services, and where errors become status codes.

It checks who calls, counts, times and logs. Servicers raise `visionloop.errors`; a fault of ours
becomes INTERNAL with an id that finds its traceback in the log, and nothing else gets out. It wraps
each handler once, when the server is made, instead of in interceptors, which grpc.aio runs anew for
every call (40 microseconds of the 200 that a small request takes).
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from time import perf_counter
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from visionloop.errors import (
    InvalidInputError,
    OverloadedError,
    UnavailableError,
    VisionloopError,
)
from visionloop.rpc_errors import abort
from visionloop.telemetry import inference as metrics
from visionloop.telemetry import rpc
from visionloop_inference.access_log import AccessLog, peer_of
from visionloop_inference.auth import Gate
from visionloop_inference.incidents import shown
from visionloop_inference.settings import Settings
from visionloop_inference.traffic import Traffic

BUSY_RETRY_SECONDS = 0.1

Context = grpc.aio.ServicerContext[Any, Any]
Handler = Any  # grpc.RpcMethodHandler; its generic parameters say nothing here
Read = Callable[[bytes], Any]  # a request of its bytes


class Guard:
    """What every call of our services passes through."""

    def __init__(
        self, traffic: Traffic, gate: Gate, access_log: AccessLog, settings: Settings
    ) -> None:
        self._traffic = traffic
        self._gate = gate
        self._access_log = access_log
        self._max_requests = settings.max_concurrent_requests
        self._turned_away = metrics.REJECTED.labels(reason="draining")
        self._too_many = metrics.REJECTED.labels(reason="concurrency")
        self._closed = settings.tokens is not None

    def around(
        self, path: str, handler: Handler, *, raw: bool, read: Read | None = None
    ) -> Handler:
        """The handler, guarded. Ours are unary both ways, or stream both ways.

        A `raw` one takes and gives the bytes of its messages. Of others `read` makes of a request's
        bytes what the handler takes, where that is no message; it may raise DecodeError and
        VisionloopError.
        """
        reading = None if raw else _forgiving(read or handler.request_deserializer, path)
        write = None if raw else handler.response_serializer
        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._stream(path, handler.stream_stream, raw=raw), reading, write
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(path, handler.unary_unary), reading, write
        )

    def _unary(self, path: str, behaviour: Any) -> Any:
        counts = rpc.Method("unary", path)

        async def guarded(request: Any, context: Context) -> Any:
            began = self._begin(counts)
            code, caller, response = "UNKNOWN", "", None
            try:
                caller = self._admit(path, context)
                if type(request) is _Unreadable:
                    raise request.error
                response = await behaviour(request, context)
                code = "OK"
                return response
            except asyncio.CancelledError:
                code = "CANCELLED"
                raise
            except Exception as error:  # noqa: BLE001 — nothing of ours may leak to a caller
                seen = shown(error, path)
                code = seen.grpc_code
                await abort(context, seen)
            finally:
                self._end(counts, began, code)
                if self._access_log.wants(code):
                    self._access_log.write(
                        path, code, perf_counter() - began, peer=peer_of(context),
                        caller=caller, request=request, response=response,
                    )  # fmt: skip

        return guarded

    def _stream(self, path: str, behaviour: Any, *, raw: bool) -> Any:
        counts = rpc.Method("bidi_stream", path)

        async def guarded(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
            peer = peer_of(context)  # now: at the end of a stream the call may be gone
            stream = self._traffic.stream()
            counts.started()
            began = perf_counter()
            code, caller = "UNKNOWN", ""
            try:
                caller = self._admit(path, context)
                counted = stream.requests(requests)
                if not raw:
                    counted = _readable(counted)
                async for response in behaviour(counted, context):
                    yield response
                    stream.answered()
                code = "OK"
            except (asyncio.CancelledError, GeneratorExit):
                code = "CANCELLED"
                raise
            except Exception as error:  # noqa: BLE001 — nothing of ours may leak to a caller
                seen = shown(error, path)
                code = seen.grpc_code
                await abort(context, seen)
            finally:
                stream.close()
                counts.finished(rpc.SPELLED[code], perf_counter() - began)
                if self._access_log.wants(code):
                    seconds = perf_counter() - began
                    self._access_log.write(path, code, seconds, peer=peer, caller=caller)

        return guarded

    def _begin(self, counts: rpc.Method) -> float:
        self._traffic.arrive()
        counts.started()
        return perf_counter()

    def _admit(self, path: str, context: Context) -> str:
        """The caller's name. Raises what turns the call away before it costs anything."""
        if self._traffic.closed:
            self._turned_away.inc()
            raise UnavailableError(
                "the server is shutting down; send to another replica",
                retry_after_seconds=BUSY_RETRY_SECONDS,
            )
        if (calls := self._traffic.calls) > self._max_requests:
            self._too_many.inc()
            raise OverloadedError(
                f"{calls} calls are under way and the limit is {self._max_requests}; retry later "
                "or send to another replica",
                retry_after_seconds=BUSY_RETRY_SECONDS,
            )
        return self._gate.check(path, (context.invocation_metadata() or ()) if self._closed else ())

    def _end(self, counts: rpc.Method, began: float, code: str) -> None:
        self._traffic.leave()
        counts.finished(rpc.SPELLED[code], perf_counter() - began)


class _Unreadable(bytes):
    """A message that is none of its method's, and why."""

    error: VisionloopError

    @classmethod
    def of(cls, data: bytes, error: VisionloopError) -> "_Unreadable":
        made = cls(data)
        made.error = error
        return made


def _forgiving(read: Read, path: str) -> Read:
    """gRPC answers UNKNOWN and logs a traceback where a deserializer raises; so it does not."""

    def reading(data: bytes) -> Any:
        try:
            return read(data)
        except DecodeError:
            error = InvalidInputError(
                f"the message is none of {path}: its bytes are damaged, or made by another .proto "
                "file"
            )
            return _Unreadable.of(data, error)
        except VisionloopError as error:
            return _Unreadable.of(data, error)

    return reading


async def _readable(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        if type(request) is _Unreadable:
            raise request.error
        yield request

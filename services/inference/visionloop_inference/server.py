"""The gRPC server of one front end: its services, and the guard around every call.

The guard stands around each handler once, when the server is made, instead of in interceptors,
which grpc.aio runs for every call anew (40 microseconds of the 200 that a small request takes). It
checks who calls, counts, times and logs, and is the one place where errors become status codes:
servicers raise `visionloop.errors`. A fault of ours becomes INTERNAL with an id that finds its
traceback in the log, and nothing else gets out.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict
from time import perf_counter
from typing import Any, NoReturn
from urllib.parse import quote

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2_grpc

from visionloop.errors import (
    ConfigurationError,
    InvalidInputError,
    OverloadedError,
    UnavailableError,
    VisionloopError,
)
from visionloop.proto.inference import open_inference_pb2_grpc
from visionloop.proto.v1 import recognition_pb2_grpc
from visionloop.telemetry import inference as metrics
from visionloop.telemetry import rpc
from visionloop_inference.access_log import AccessLog, peer_of
from visionloop_inference.auth import Gate
from visionloop_inference.catalogue import Catalogue
from visionloop_inference.credentials import server_credentials
from visionloop_inference.decoder import Decoder
from visionloop_inference.feedback import FeedbackInbox
from visionloop_inference.health import Health
from visionloop_inference.incidents import shown
from visionloop_inference.model_config import Offer
from visionloop_inference.open_inference import OpenInference
from visionloop_inference.recognition import Recognition
from visionloop_inference.reflection import add_reflection
from visionloop_inference.settings import Settings
from visionloop_inference.shared_memory import Change, Changed, Regions
from visionloop_inference.traffic import Traffic

log = logging.getLogger(__name__)

MAX_DETAILS = 4096  # bytes; gRPC's clients begin to refuse metadata above 8 KiB
KEEPALIVE_SECONDS = 60  # an idle connection is asked for a sign of life so often
BUSY_RETRY_SECONDS = 0.1

Ask = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
Context = grpc.aio.ServicerContext[Any, Any]
Handler = Any  # grpc.RpcMethodHandler; its generic parameters say nothing here
SERVER = ""  # the health service's name for the server as a whole
RAW = frozenset({"ModelInfer", "ModelStreamInfer"})  # their tensors are left where they came
SERVICES = ("visionloop.v1.Recognition", "inference.GRPCInferenceService")


class Server:
    """A gRPC server that is made but listens nowhere yet."""

    def __init__(
        self,
        settings: Settings,
        catalogue: Catalogue,
        decoder: Decoder,
        traffic: Traffic,
        ask: Ask,
    ) -> None:
        self._settings = settings
        self._catalogue = catalogue
        self._guard = Guard(
            traffic,
            Gate(settings.tokens, loopback=settings.loopback),
            AccessLog(settings.access_log),
            settings,
        )
        self.health = Health(self._serving)
        self._server = grpc.aio.server(options=_options(settings))
        self.regions = Regions(_telling(ask))
        open_inference = OpenInference(catalogue, decoder, ask, _offer(settings), self.regions)
        self._feedback = FeedbackInbox(settings.store, catalogue.bundle)
        recognition = Recognition(catalogue, decoder, settings.max_images, self._feedback)
        registrar = _Registrar(self._server, self._guard)
        recognition_pb2_grpc.add_RecognitionServicer_to_server(recognition, registrar)
        open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(
            open_inference, registrar
        )
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        add_reflection(self._server)

    def listen(self, address: str, local: str) -> int:
        """Binds the port for callers and the Unix socket for the program's own HTTP port.

        Gives the port. Raises ConfigurationError when the address cannot be listened on.
        """
        try:
            credentials = server_credentials(self._settings)
            if credentials is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, credentials)
            if local:
                self._server.add_insecure_port(f"unix:{local}")
        except RuntimeError as error:
            raise ConfigurationError(
                f"cannot listen on {address}: the port is taken or the address is not of this "
                "machine; choose another by --port or --host",
                field="port",
            ) from error
        return port

    async def start(self) -> None:
        await self._server.start()

    async def stop(self, grace: float) -> None:
        """Turns new calls away, and cuts off after `grace` seconds what is under way."""
        await self._server.stop(grace)
        self._feedback.close()

    def _serving(self, name: str) -> bool | None:
        """For the server (""), one of its gRPC services, or a model; None for any other name."""
        if name == SERVER or name in SERVICES:
            return self._catalogue.ready
        model = self._catalogue.models.get(name)
        if model is None:
            return None
        return model.serving and not self._catalogue.stopping


def _offer(settings: Settings) -> Offer:
    return Offer(
        max_rows=settings.max_images,
        max_bytes=settings.max_message_bytes,
        version_policy=settings.version_policy,
        instances=settings.instances,
        gpu=settings.provider != "cpu",
        model_control=settings.model_control == "explicit",
        shared_memory=settings.shared_memory,
    )


def _telling(ask: Ask) -> Changed:
    """Tells the supervisor, who tells all front ends."""

    async def changed(change: Change) -> None:
        added = asdict(change.added) if change.added is not None else None
        await ask("regions", {"added": added, "removed": change.removed})

    return changed


def _options(settings: Settings) -> list[tuple[str, int]]:
    options = [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        # The supervisor holds the port, so only front ends of this program can share it.
        ("grpc.so_reuseport", 1),
        # A caller whose machine vanished must not be kept for ever.
        ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ]
    if settings.max_connection_age_seconds:
        age = int(settings.max_connection_age_seconds * 1000)
        options += [
            ("grpc.max_connection_age_ms", age),
            ("grpc.max_connection_age_grace_ms", int(settings.drain_seconds * 1000)),
        ]
    return options


class _Registrar:
    """Stands in for the server where generated code registers a service: wraps every handler."""

    def __init__(self, server: grpc.aio.Server, guard: "Guard") -> None:
        self._server = server
        self._guard = guard

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Registered below, by name, instead."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Handler]) -> None:
        guarded = {
            name: self._guard.around(f"/{service}/{name}", handler, raw=name in RAW)
            for name, handler in handlers.items()
        }
        generic = grpc.method_handlers_generic_handler(service, guarded)
        self._server.add_generic_rpc_handlers((generic,))


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
        self._closed = settings.tokens is not None

    def around(self, path: str, handler: Handler, *, raw: bool) -> Handler:
        """The handler, guarded. Ours are unary both ways, or stream both ways.

        A `raw` one takes and gives the bytes of its messages.
        """
        read = None if raw else _forgiving(handler.request_deserializer)
        write = None if raw else handler.response_serializer
        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._stream(path, handler.stream_stream, raw=raw), read, write
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(path, handler.unary_unary), read, write
        )

    def _unary(self, path: str, behaviour: Any) -> Any:
        counts = rpc.Method("unary", path)

        async def guarded(request: Any, context: Context) -> Any:
            began = self._begin(counts)
            code, caller, response = "UNKNOWN", "", None
            try:
                caller = self._admit(path, context)
                if type(request) is _Unreadable:
                    raise _unreadable(path)
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
            stream = self._traffic.stream()
            counts.started()
            began = perf_counter()
            code, caller = "UNKNOWN", ""
            peer = peer_of(context)  # now: at the end of a stream the call may be gone
            try:
                caller = self._admit(path, context)
                counted = stream.requests(requests)
                if not raw:
                    counted = _readable(counted, path)
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
        calls = self._traffic.under_way + self._traffic.streams
        if calls > self._max_requests:
            raise OverloadedError(
                f"{calls} requests and streams are under way and the limit is "
                f"{self._max_requests}; retry later or send to another replica",
                retry_after_seconds=BUSY_RETRY_SECONDS,
            )
        return self._gate.check(path, (context.invocation_metadata() or ()) if self._closed else ())

    def _end(self, counts: rpc.Method, began: float, code: str) -> None:
        self._traffic.leave()
        counts.finished(rpc.SPELLED[code], perf_counter() - began)


class _Unreadable(bytes):
    """A message that is none of its method's."""


def _forgiving(read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """gRPC answers UNKNOWN and logs a traceback where a deserializer raises; so it does not."""

    def reading(data: bytes) -> Any:
        try:
            return read(data)
        except DecodeError:
            return _Unreadable(data)

    return reading


def _unreadable(path: str) -> InvalidInputError:
    return InvalidInputError(
        f"the message is none of {path}: its bytes are damaged, or made by another .proto file"
    )


async def _readable(requests: AsyncIterator[Any], path: str) -> AsyncIterator[Any]:
    async for request in requests:
        if type(request) is _Unreadable:
            raise _unreadable(path)
        yield request


async def abort(context: Context, error: VisionloopError) -> NoReturn:
    """Ends the RPC with the error's status, and tells the client when to come back."""
    trailing: tuple[tuple[str, str], ...] = ()
    if isinstance(error, OverloadedError | UnavailableError) and error.retry_after_seconds:
        pushback = max(1, round(error.retry_after_seconds * 1000))
        trailing = (("grpc-retry-pushback-ms", str(pushback)),)
    try:
        await context.abort(grpc.StatusCode[error.grpc_code], _short(str(error)), trailing)
    except grpc.aio.InternalError as gone:
        # The caller has left meanwhile; grpc.aio would log a traceback of it.
        raise asyncio.CancelledError from gone


def _short(message: str) -> str:
    """Cut to what fits a status on the wire, where other bytes than ASCII are three each.

    A message may quote what the caller sent; one too long would reach nobody: clients see
    RESOURCE_EXHAUSTED of gRPC's own instead.
    """
    kept = message[:MAX_DETAILS]
    while len(quote(kept, errors="replace")) > MAX_DETAILS:
        kept = kept[: len(kept) * 9 // 10]
    return kept if kept == message else kept + "…"

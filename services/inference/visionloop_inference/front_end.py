"""The gRPC server: the services on one port, and the boundary where errors become status codes.

Servicers raise `visionloop.errors`; here each becomes its status, once, for every RPC. A fault of
ours becomes INTERNAL with an id that finds its traceback in the log, and nothing else gets out.
"""

import logging
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn
from urllib.parse import quote

import grpc
from grpc_health.v1 import health_pb2_grpc

from visionloop.errors import ConfigurationError, OverloadedError, VisionloopError
from visionloop.proto.inference import open_inference_pb2_grpc
from visionloop.proto.v1 import recognition_pb2_grpc
from visionloop.telemetry.rpc import MetricsInterceptor
from visionloop_inference.health import Health
from visionloop_inference.open_inference import OpenInference
from visionloop_inference.recognition import Recognition
from visionloop_inference.reflection import add_reflection
from visionloop_inference.traffic import Traffic

log = logging.getLogger(__name__)

MAX_DETAILS = 4096  # bytes; gRPC's clients begin to refuse metadata above 8 KiB

Context = grpc.aio.ServicerContext[Any, Any]
Handler = Any  # grpc.RpcMethodHandler; its generic parameters say nothing here
SERVICES = frozenset({"visionloop.v1.Recognition", "inference.GRPCInferenceService"})


def front_end(
    recognition: Recognition,
    open_inference: OpenInference,
    health: Health,
    traffic: Traffic,
    *,
    address: str,
    max_message_bytes: int,
) -> tuple[grpc.aio.Server, int]:
    """A server that is bound but not started, and its port.

    Raises ConfigurationError when the address cannot be listened on.
    """
    server = grpc.aio.server(
        interceptors=[MetricsInterceptor(), Boundary(traffic)],
        options=[
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", max_message_bytes),
            # Two servers must not share a port without knowing.
            ("grpc.so_reuseport", 0),
        ],
    )
    recognition_pb2_grpc.add_RecognitionServicer_to_server(recognition, server)
    open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(open_inference, server)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    add_reflection(server)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise ConfigurationError(
            f"cannot listen on {address}: the port is taken or the address is not of this machine; "
            "choose another by --port or --host",
            field="port",
        ) from error
    return server, port


class Boundary(grpc.aio.ServerInterceptor):
    """Counts the requests of our services under way, and turns their errors into statuses."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Handler]], details: Any
    ) -> Handler:
        handler = await continuation(details)
        if handler is None or details.method.split("/")[1] not in SERVICES:
            return handler
        behaviour = handler.unary_unary

        async def guarded(request: Any, context: Context) -> Any:
            with self._traffic.request():
                try:
                    return await behaviour(request, context)
                except VisionloopError as error:
                    await abort(context, error)
                except Exception as error:  # noqa: BLE001 — nothing of ours may leak to a caller
                    await abort(context, _fault(error, details.method))

        return grpc.unary_unary_rpc_method_handler(
            guarded,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


async def abort(context: Context, error: VisionloopError) -> NoReturn:
    """Ends the RPC with the error's status; an overload tells the client when to come back."""
    trailing: tuple[tuple[str, str], ...] = ()
    if isinstance(error, OverloadedError) and error.retry_after_seconds is not None:
        pushback = max(1, round(error.retry_after_seconds * 1000))
        trailing = (("grpc-retry-pushback-ms", str(pushback)),)
    await context.abort(grpc.StatusCode[error.grpc_code], _short(str(error)), trailing)


def _short(message: str) -> str:
    """Cut to what fits a status on the wire, where other bytes than ASCII are three each.

    A message may quote what the caller sent; one too long would reach nobody: clients see
    RESOURCE_EXHAUSTED of gRPC's own instead.
    """
    kept = message[:MAX_DETAILS]
    while len(quote(kept, errors="replace")) > MAX_DETAILS:
        kept = kept[: len(kept) * 9 // 10]
    return kept if kept == message else kept + "…"


def _fault(error: Exception, method: str) -> VisionloopError:
    incident = uuid.uuid4().hex[:12]
    log.error("%s failed", method, exc_info=error, extra={"incident": incident})
    return VisionloopError(f"a fault of the server; its log has it as incident {incident}")

"""The gRPC server of one front end: its services, its ports, its limits.

Every handler of our services is wrapped by the guard (`guard`) as it is registered.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc

from visionloop.errors import ConfigurationError
from visionloop.proto.inference import open_inference_pb2_grpc
from visionloop.proto.v1 import recognition_pb2_grpc
from visionloop_inference import recognize_request
from visionloop_inference.access_log import AccessLog
from visionloop_inference.auth import Gate
from visionloop_inference.catalogue import Catalogue
from visionloop_inference.credentials import server_credentials
from visionloop_inference.decoder import Decoder
from visionloop_inference.feedback import FeedbackInbox
from visionloop_inference.guard import Guard, Handler
from visionloop_inference.health import Health
from visionloop_inference.model_config import Offer
from visionloop_inference.open_inference import OpenInference
from visionloop_inference.recognition import Recognition
from visionloop_inference.reflection import add_reflection
from visionloop_inference.settings import Settings
from visionloop_inference.shared_memory import Change, Changed, Regions
from visionloop_inference.traffic import Traffic

log = logging.getLogger(__name__)

KEEPALIVE_SECONDS = 60  # an idle connection is asked for a sign of life so often

Ask = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
SERVER = ""  # the health service's name for the server as a whole
# Their tensors and images are left where they came.
RAW = frozenset({"ModelInfer", "ModelStreamInfer"})
READ = dict.fromkeys(("Recognize", "RecognizeStream"), recognize_request.read)
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
        self._feedback = FeedbackInbox(settings.store, catalogue.bundles)
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

    def __init__(self, server: grpc.aio.Server, guard: Guard) -> None:
        self._server = server
        self._guard = guard

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Registered below, by name, instead."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Handler]) -> None:
        guarded = {
            name: self._guard.around(
                f"/{service}/{name}",
                handler,
                raw=name in RAW,
                read=READ.get(name),
            )
            for name, handler in handlers.items()
        }
        generic = grpc.method_handlers_generic_handler(service, guarded)
        self._server.add_generic_rpc_handlers((generic,))

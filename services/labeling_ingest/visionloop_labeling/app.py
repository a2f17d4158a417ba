"""The program: start, serve, drain. HTTP and gRPC in one process on one event loop.

Start: flags, store (probed), database (migrated), what a crash left put right, both ports opened,
and only then the ready file. SIGTERM or SIGINT: not ready, no new work; the rows that were read are
made durable and answered; exit 0.
"""

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import uvicorn
from fastapi import FastAPI

import visionloop
from visionloop.errors import ConfigurationError
from visionloop.flags import is_loopback, write_ready_file
from visionloop.objectstore import open_store
from visionloop.telemetry import configure_logging
from visionloop_labeling.api import make_api
from visionloop_labeling.database import open_database
from visionloop_labeling.grpc_api import GrpcServer
from visionloop_labeling.inspectors import WorkerPool
from visionloop_labeling.service import LabelingService
from visionloop_labeling.settings import Settings, parse

PROGRAM: Final = "visionloop-labeling"
_log = logging.getLogger(__name__)


def main() -> int:
    """Exit code 0 after a clean drain. Raises VisionloopError when it cannot start."""
    settings = parse(sys.argv[1:])
    configure_logging(PROGRAM)
    asyncio.run(serve(settings))
    return 0


async def serve(settings: Settings) -> None:
    """Serves until a signal, then drains."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    store = await asyncio.to_thread(open_store, settings.store)
    await asyncio.to_thread(store.probe, "datasets")
    database = await asyncio.to_thread(open_database, settings.database)
    inspector = WorkerPool(settings.limits, settings.inspectors)
    service = LabelingService(database, store, settings.limits, inspector)
    try:
        await _listen(settings, service, stop)
    finally:
        await asyncio.to_thread(service.close)
    _log.info("stopped")


async def _listen(settings: Settings, service: LabelingService, stop: asyncio.Event) -> None:
    with _bound(settings.host, settings.http_port) as http_socket:
        grpc_server = GrpcServer(service, settings.host, settings.grpc_port)
        http_server = _HttpServer(make_api(service), http_socket, settings.drain_seconds)
        await grpc_server.start()
        await http_server.start()
        _announce(settings, grpc_server.port, http_socket.getsockname()[1])
        await stop.wait()
        _log.info("draining: finishing what has been received")
        service.drain()
        await asyncio.gather(grpc_server.stop(settings.drain_seconds), http_server.stop())


@contextmanager
def _bound(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((host.strip("[]"), port))
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on {host}:{port} ({error.strerror}); is another program there? "
                "Choose another --http-port, or 0 for any free one",
                field="http_port",
            ) from error
        yield bound


def _announce(settings: Settings, grpc_port: int, http_port: int) -> None:
    addresses = {"grpc": f"{settings.host}:{grpc_port}", "http": f"{settings.host}:{http_port}"}
    _log.info("listening", extra={**addresses, "version": visionloop.__version__})
    if not is_loopback(settings.host):
        _log.warning("--insecure: anybody who reaches %s can use this service", settings.host)
    if settings.ready_file is not None:
        write_ready_file(settings.ready_file, addresses)


class _HttpServer(uvicorn.Server):
    """uvicorn as one of several servers: signals are the program's, not its own."""

    def __init__(self, api: FastAPI, bound: socket.socket, drain_seconds: float) -> None:
        config = uvicorn.Config(
            api,
            log_config=None,
            access_log=False,
            lifespan="off",
            log_level="warning",
            server_header=False,
            timeout_graceful_shutdown=max(1, int(drain_seconds)),
        )
        super().__init__(config)
        self._bound = bound
        self._running: asyncio.Task[None] | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals alone."""
        yield

    async def start(self) -> None:
        """Returns once it accepts connections."""
        self._bound.listen(128)
        self._running = asyncio.create_task(self.serve(sockets=[self._bound]))
        while not self.started:
            await asyncio.sleep(0.01)
            if self._running.done():
                await self._running

    async def stop(self) -> None:
        """Finishes open requests, within the drain time."""
        self.should_exit = True
        if self._running is not None:
            await self._running

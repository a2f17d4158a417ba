"""The program: start, serve, drain. HTTP and gRPC in one process on one event loop.

Start: flags, store (probed), database (migrated), what a crash left put right, both ports opened,
and only then the ready file. SIGTERM or SIGINT: not ready, no new work; the rows that were read are
made durable and answered; exit 0. A call to the store or the database that hangs is left behind.
"""

import asyncio
import gc
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Final

import uvloop

import visionloop
from visionloop.certificates import Certificates
from visionloop.errors import ConfigurationError
from visionloop.flags import endpoint, write_ready_file
from visionloop.leaving import leave
from visionloop.objectstore import open_store
from visionloop.telemetry import configure_logging
from visionloop.telemetry import labeling as metrics
from visionloop.telemetry.request_lines import RequestLines
from visionloop_labeling import (
    account_commands,
    backup_command,
    backup_report,
    doctor,
    migrate_command,
    rebuild_command,
)
from visionloop_labeling.api import make_api
from visionloop_labeling.api.probes import make_probes
from visionloop_labeling.auth import Gate
from visionloop_labeling.background import Background, Loop
from visionloop_labeling.database import open_database
from visionloop_labeling.grpc_api import GrpcServer
from visionloop_labeling.http_server import HttpServer
from visionloop_labeling.import_loop import import_loops
from visionloop_labeling.importers.opening import Tools
from visionloop_labeling.inference_access import open_inference
from visionloop_labeling.inspectors import WorkerPool
from visionloop_labeling.model_gauges import ModelGauges
from visionloop_labeling.quotas import Quotas
from visionloop_labeling.readiness import Readiness
from visionloop_labeling.reconcile import EVERY_SECONDS, Reconciler
from visionloop_labeling.service import LabelingService
from visionloop_labeling.settings import Settings, parse
from visionloop_labeling.snapshot_schedule import LOOK_SECONDS, SnapshotSchedule
from visionloop_labeling.suggestions import Suggester

PROGRAM: Final = "visionloop-labeling"
# For requests; each waits for the database or the store most of its time.
_THREADS: Final = 16
# For what drained to let go; `leave` takes 2 more, and a pod's grace has 10 for both.
_CLOSE_SECONDS: Final = 5.0
_FEEDBACK_SECONDS: Final = 2.0
_SUGGESTIONS_SECONDS: Final = 2.0
_TOLD_SECONDS: Final = 30.0  # what the store says of models and backups
# What the program does instead of serving, by its first argument.
_COMMANDS: Final[dict[str, Callable[[Sequence[str]], int]]] = {
    "account": account_commands.run,
    "backup": backup_command.run,
    "doctor": doctor.main,
    "migrate": migrate_command.run,
    "rebuild": rebuild_command.run,
}
_log = logging.getLogger(__name__)


def main() -> int:
    """Exit code 0 after a clean drain. Raises VisionloopError when it cannot start."""
    command = _COMMANDS.get("".join(sys.argv[1:2]))
    if command is not None:
        return command(sys.argv[2:])
    settings = parse(sys.argv[1:])
    configure_logging(PROGRAM)
    _log.info("settings in force", extra=settings.in_force())
    uvloop.run(serve(settings))
    return 0


async def serve(settings: Settings) -> None:
    """Serves until a signal, then drains."""
    metrics.begin_at_zero()
    readiness = Readiness()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, readiness.stop)
    requests = ThreadPoolExecutor(_THREADS, thread_name_prefix="request")
    asyncio.get_running_loop().set_default_executor(requests)
    store = await asyncio.to_thread(open_store, settings.store)
    await asyncio.to_thread(store.probe, "datasets")
    database = await asyncio.to_thread(
        open_database, settings.database, connections=settings.database_connections
    )
    inspector = WorkerPool(settings.limits, settings.inspectors)
    service = LabelingService(database, store, settings.limits, inspector)
    try:
        await _listen(settings, service, readiness)
    finally:
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(service.close), _CLOSE_SECONDS)
    _log.info("stopped")
    requests.shutdown(wait=False, cancel_futures=True)
    leave()  # here, for the end of the loop waits for its threads, too


async def _listen(settings: Settings, service: LabelingService, readiness: Readiness) -> None:
    certificates = _certificates(settings)
    lines = RequestLines(settings.access_log)
    gate = _gate(settings, service, readiness)
    api = make_api(
        service,
        gate,
        max_import_bytes=settings.max_import_bytes,
        own_host_only=settings.loopback and not settings.accounts and not settings.trusted_proxies,
        lines=lines,
    )
    with (
        _bound(settings.host, settings.http_port, "http-port") as http_socket,
        _probes(settings, service, gate) as probes,
    ):
        grpc_server = GrpcServer(
            service,
            settings.host,
            settings.grpc_port,
            gate=gate,
            credentials=certificates.for_grpc() if certificates else None,
            lines=lines,
        )
        http_server = HttpServer(
            api,
            http_socket,
            settings.drain_seconds,
            tls=certificates.for_http() if certificates else None,
            trusted_proxies=settings.trusted_proxies,
        )
        suggester = _suggester(settings, service)
        background = Background(service.database, _loops(settings, service, suggester))
        await grpc_server.start()
        await http_server.start()
        ports = {"grpc": grpc_server.port, "http": http_server.port}
        if probes is not None:
            await probes.start()
            ports["probes"] = probes.port
        background.start()
        _forget_what_stays()
        _announce(settings, ports)
        await readiness.stopping.wait()
        await _drain(settings, service, readiness, grpc_server, http_server, background)
        if suggester is not None:
            suggester.close()
        await gate.close()
        if probes is not None:
            await probes.stop()


def _gate(settings: Settings, service: LabelingService, readiness: Readiness) -> Gate:
    return Gate(
        service.database,
        accounts=settings.accounts,
        requests_per_second=settings.requests_per_second,
        quotas=Quotas(service.database, images=settings.daily_images, size=settings.daily_bytes),
        readiness=readiness,
    )


async def _drain(
    settings: Settings,
    service: LabelingService,
    readiness: Readiness,
    grpc_server: GrpcServer,
    http_server: HttpServer,
    background: Background,
) -> None:
    """Serves on until it is quiet, then finishes what has been received."""
    _log.info("draining: serving on until no request has come for a while")
    await grpc_server.not_serving()
    await readiness.quiet(settings.drain_quiet_seconds, settings.drain_seconds / 2)
    _log.info("draining: finishing what has been received")
    service.drain()
    await asyncio.gather(
        grpc_server.stop(settings.drain_seconds),
        http_server.stop(),
        background.stop(settings.drain_seconds),
    )


@contextmanager
def _probes(
    settings: Settings, service: LabelingService, gate: Gate
) -> Iterator[HttpServer | None]:
    """The server of the plain port, if there is to be one."""
    if settings.probe_port is None:
        yield None
        return
    with _bound(settings.host, settings.probe_port, "probe-port") as bound:
        yield HttpServer(make_probes(service, gate), bound, settings.drain_seconds)


def _forget_what_stays() -> None:
    """What start has made lives as long as the program: no collection needs to look at it again.

    Each would stop everything for a tenth of a second, every few thousand images.
    """
    gc.collect()
    gc.freeze()


def _suggester(settings: Settings, service: LabelingService) -> Suggester | None:
    if not settings.inference:
        return None
    inference = open_inference(
        settings.inference, token_file=settings.inference_token_file, ca=settings.inference_ca
    )
    return Suggester(service.database, service.store, inference)


def _loops(settings: Settings, service: LabelingService, suggester: Suggester | None) -> list[Loop]:
    tools = Tools(
        service.limits,
        service.database,
        fetch_rules=settings.fetch_rules,
        prefixes=settings.import_from,
    )
    reconciler = Reconciler(service.database, service.store)
    models = ModelGauges(service.database, service.store)
    loops = [
        *import_loops(service, tools),
        Loop("feedback", _FEEDBACK_SECONDS, service.feedback.drain),
        Loop("reconcile", EVERY_SECONDS, reconciler.work),
        Loop("models", _TOLD_SECONDS, models.measure, one_replica=False),
        Loop(
            "backup", _TOLD_SECONDS, partial(backup_report.tell, service.store), one_replica=False
        ),
    ]
    if settings.snapshot_hours > 0:
        every = timedelta(hours=settings.snapshot_hours)
        schedule = SnapshotSchedule(service.database, service.store, every)
        loops.append(Loop("snapshots", LOOK_SECONDS, schedule.work))
    if suggester is not None:
        loops.append(Loop("suggestions", _SUGGESTIONS_SECONDS, suggester.work))
    return loops


def _certificates(settings: Settings) -> Certificates | None:
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    return Certificates(settings.tls_certificate, settings.tls_key, None)


@contextmanager
def _bound(host: str, port: int, setting: str) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((host.strip("[]"), port))
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on {host}:{port} ({error.strerror}); is another program there? "
                f"Choose another --{setting}, or 0 for any free one",
                field=setting.replace("-", "_"),
            ) from error
        yield bound


def _announce(settings: Settings, ports: Mapping[str, int]) -> None:
    addresses = {name: endpoint(settings.host, port) for name, port in ports.items()}
    _log.info("listening", extra={**addresses, "version": visionloop.__version__})
    if settings.insecure and not settings.loopback:
        if not settings.accounts:
            _log.warning("--insecure: anybody who reaches %s can use this service", settings.host)
        elif not settings.tls:
            _log.warning("--insecure: passwords and tokens come to %s in the clear", settings.host)
    if settings.ready_file is not None:
        write_ready_file(settings.ready_file, addresses)

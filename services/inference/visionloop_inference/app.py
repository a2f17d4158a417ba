"""The program: start, serve, drain.

Start: settings, provider, store, front ends; models load while the server already answers (live,
not ready). SIGTERM or SIGINT: say "not serving", serve on until it is quiet, let requests finish,
let the models go, exit 0. A second signal skips the quiet.
"""

import asyncio
import contextlib
import logging
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import uvloop

import visionloop
from visionloop.errors import ConfigurationError
from visionloop.flags import endpoint, write_ready_file
from visionloop.leaving import leave
from visionloop.objectstore import open_store
from visionloop.repository import ModelRepository
from visionloop.telemetry import configure_logging
from visionloop.telemetry import inference as metrics
from visionloop.telemetry import rpc as _rpc_metrics  # noqa: F401 — front ends count on them
from visionloop_inference import doctor
from visionloop_inference.answers import Answers
from visionloop_inference.children import ended_how
from visionloop_inference.decoding_processes import DecodingProcesses
from visionloop_inference.front_ends import FrontEnds
from visionloop_inference.http import HttpServer
from visionloop_inference.loading import Loader
from visionloop_inference.machine import allow_all_descriptors
from visionloop_inference.readiness import Readiness
from visionloop_inference.settings import Settings, parse
from visionloop_inference.supervisor import Supervisor

T = TypeVar("T")

log = logging.getLogger(__name__)

STORE_THREADS = 4


def main() -> int:
    """Exit code 0 after a clean drain. Raises VisionloopError when it cannot start."""
    if sys.argv[1:2] == ["doctor"]:
        return doctor.main(sys.argv[2:])
    settings = parse(sys.argv[1:])
    configure_logging("visionloop-inference")
    log.info("settings in force", extra=settings.in_force())
    allow_all_descriptors()
    with _cache(settings.cache) as cache:
        uvloop.run(serve(settings, cache))
    leave()
    return 0


@contextmanager
def _cache(folder: Path | None) -> Iterator[Path]:
    if folder is None:
        with tempfile.TemporaryDirectory(
            prefix="visionloop-inference-", ignore_cleanup_errors=True
        ) as temporary:
            yield Path(temporary)
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigurationError(
            f"--cache {folder} cannot be made or written: {error.strerror}", field="cache"
        ) from error
    yield folder


@contextmanager
def _store_threads() -> Iterator[ThreadPoolExecutor]:
    """Threads for calls to the store; nobody waits for them at the end."""
    pool = ThreadPoolExecutor(STORE_THREADS, thread_name_prefix="store")
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


async def serve(settings: Settings, cache: Path) -> None:
    """Serves until a signal, then drains."""
    metrics.begin_at_zero()
    metrics.SESSION_INFO.labels(
        provider=settings.provider, required_provider=settings.provider
    ).set(1)
    loop = asyncio.get_running_loop()
    with _store_threads() as pool:
        proving = loop.run_in_executor(pool, _prove, settings.provider)
        opening = loop.run_in_executor(pool, open_store, settings.store)
        answers = Answers()
        front_ends = answers.front_ends = FrontEnds(settings, answers)
        decoders = DecodingProcesses(settings, front_ends)
        readiness = Readiness(lambda: _tell(front_ends, readiness, settings))
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, readiness.stop)
        http = HttpServer(readiness.reason, settings)  # files that cannot be used are told here
        try:
            port = front_ends.start(settings.host, settings.port)
            decoders.start()
            addresses = {
                "grpc": endpoint(settings.host, port),
                **await http.start(front_ends.local),
            }
            repository = ModelRepository(await _unless_stopped(readiness, opening))
            loader = Loader(repository, cache, settings, pool, front_ends)
            supervisor = Supervisor(loader, settings, readiness.changed)
            answers.supervisor = supervisor
            readiness.watch(supervisor)
            try:
                # Front ends and models start side by side; what stands in the way is said here.
                await _unless_stopped(
                    readiness,
                    asyncio.gather(proving, front_ends.listening(), supervisor.start()),
                )
                _announce(settings, addresses)
                await _until_stopped(settings, supervisor, readiness, front_ends)
            finally:
                await supervisor.close()
        except _StoppedError:
            log.info("stopped while it started")
        finally:
            await http.close()
            await front_ends.close()
            await decoders.close()
            with contextlib.suppress(Exception):
                await asyncio.gather(proving, opening, return_exceptions=True)
    log.info("stopped")


class _StoppedError(Exception):
    """A signal came before the server was up."""


async def _unless_stopped(readiness: Readiness, starting: asyncio.Future[T]) -> T:
    """Raises _StoppedError when a signal comes first: a store may hang for minutes."""
    stopping = asyncio.create_task(readiness.stopping.wait(), name="wait for a signal")
    try:
        either: tuple[asyncio.Future[Any], ...] = (starting, stopping)
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            raise _StoppedError
        return starting.result()
    finally:
        stopping.cancel()
        starting.cancel()
        # How it ended is of no interest any more, but asyncio logs what nobody asked for: of a
        # group that is cancelled, too.
        starting.add_done_callback(lambda ended: ended.cancelled() or ended.exception())


def _prove(provider: str) -> None:
    """Raises ConfigurationError for an execution provider that cannot be loaded.

    In a process of its own: what a session takes of a GPU for its context and libraries, hundreds
    of megabytes there and as much here, is given back at the end of its process only.
    """
    if provider == "cpu":
        return
    command = [sys.executable, "-m", "visionloop_inference.providers", provider]
    proved = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False
    )
    if proved.returncode:
        said = proved.stdout.strip().splitlines() or [
            f"--provider {provider} cannot be loaded: trying it {ended_how(proved.returncode)}"
        ]
        raise ConfigurationError(said[-1], field="provider")


async def _until_stopped(
    settings: Settings, supervisor: Supervisor, readiness: Readiness, front_ends: FrontEnds
) -> None:
    follow = asyncio.create_task(supervisor.run(), name="follow the store")
    hurry = asyncio.create_task(_hurried(readiness, front_ends), name="wait for a second signal")
    try:
        await readiness.stopping.wait()
        log.info("draining: serving on until no request has come for a while")
        await front_ends.drain(settings.drain_quiet_seconds, settings.drain_seconds)
    finally:
        for task in (follow, hurry):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def _tell(front_ends: FrontEnds, readiness: Readiness, settings: Settings) -> None:
    """Front ends answer health checks by what they were told last."""
    reason = readiness.reason()
    front_ends.server(
        ready=not reason,
        stopping=readiness.stopping.is_set(),
        reason=reason,
        default=settings.models[0] if settings.models else "",
    )


async def _hurried(readiness: Readiness, front_ends: FrontEnds) -> None:
    await readiness.hurry.wait()
    front_ends.hurry()


def _announce(settings: Settings, addresses: dict[str, str]) -> None:
    """Says where it listens: in the log, and in the ready file."""
    log.info("listening", extra={**addresses, "version": visionloop.__version__})
    if settings.insecure and not settings.loopback:
        log.warning("--insecure: anybody who reaches %s can use this server", settings.host)
    if settings.ready_file is not None:
        write_ready_file(settings.ready_file, addresses)

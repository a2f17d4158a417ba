"""The program: start, serve, drain.

Start: flags, provider, store, then listen; models load while the server already answers (live, not
ready). SIGTERM or SIGINT: say "not serving", serve on until it is quiet, let requests finish,
release the models, exit 0. A second signal skips the quiet.
"""

import asyncio
import logging
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import uvloop

import visionloop
from visionloop.errors import ConfigurationError
from visionloop.flags import is_loopback, write_ready_file
from visionloop.objectstore import open_store
from visionloop.repository import ModelRepository
from visionloop.telemetry import configure_logging
from visionloop.telemetry import inference as metrics
from visionloop_inference import providers
from visionloop_inference.decoding import Decoder
from visionloop_inference.front_end import SERVICES, front_end
from visionloop_inference.http import HttpServer
from visionloop_inference.loading import Loader
from visionloop_inference.open_inference import OpenInference
from visionloop_inference.readiness import Readiness
from visionloop_inference.recognition import Recognition
from visionloop_inference.settings import Settings, parse
from visionloop_inference.supervisor import Supervisor
from visionloop_inference.traffic import Traffic

log = logging.getLogger(__name__)

STORE_THREADS = 4


def main() -> int:
    """Exit code 0 after a clean drain. Raises VisionloopError when it cannot start."""
    settings = parse(sys.argv[1:])
    configure_logging("visionloop-inference")
    with _cache(settings.cache) as cache:
        uvloop.run(serve(settings, cache))
    return 0


@contextmanager
def _cache(folder: Path | None) -> Iterator[Path]:
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="visionloop-inference-") as temporary:
            yield Path(temporary)
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"--cache {folder} cannot be made: {error.strerror}", field="cache"
        ) from error
    yield folder


async def serve(settings: Settings, cache: Path) -> None:
    """Serves until a signal, then drains."""
    providers.prove(settings.provider)
    metrics.SESSION_INFO.labels(
        provider=settings.provider, required_provider=settings.provider
    ).set(1)
    readiness = Readiness(SERVICES)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, readiness.stop)
    decoder = Decoder(settings.decode_threads)
    with ThreadPoolExecutor(STORE_THREADS, thread_name_prefix="store") as pool:
        store = await asyncio.get_running_loop().run_in_executor(pool, open_store, settings.store)
        loader = Loader(
            repository=ModelRepository(store),
            cache=cache,
            decoder=decoder,
            provider=settings.provider,
            threads=settings.threads,
            max_batch=settings.max_batch,
            pool=pool,
        )
        supervisor = Supervisor(
            loader,
            models=settings.models,
            poll_seconds=settings.poll_seconds,
            queue_rows=settings.queue_rows,
            queue_bytes=settings.queue_bytes,
            changed=readiness.health.notify,
        )
        readiness.watch(supervisor)
        try:
            await _listen(settings, supervisor, decoder, readiness)
        finally:
            await supervisor.close()
            decoder.close()
    log.info("stopped")


async def _listen(
    settings: Settings, supervisor: Supervisor, decoder: Decoder, readiness: Readiness
) -> None:
    """Opens both ports, serves until asked to stop, drains, closes them."""
    traffic = Traffic()
    server, port = front_end(
        Recognition(supervisor, decoder, settings.max_images),
        OpenInference(supervisor, decoder, settings.max_images, lambda: readiness.ready),
        readiness.health,
        traffic,
        address=f"{settings.host}:{settings.port}",
        max_message_bytes=settings.max_message_bytes,
    )
    http = HttpServer(readiness.reason)
    try:
        http_port = await http.start(settings.host.strip("[]"), settings.http_port)
        await supervisor.start()
        await server.start()
        _announce(settings, port, http_port)
        follow = asyncio.create_task(supervisor.run(), name="follow the store")
        await readiness.stopping.wait()
        asked = time.monotonic()
        await _drain(settings, traffic, readiness)
        follow.cancel()
        readiness.health.close()
        end = asked + settings.drain_seconds
        # Callers who never rest would use up all the time: half of it is left for the stop.
        await traffic.answered((end - time.monotonic()) / 2)
        await server.stop(max(0.0, end - time.monotonic()))
    finally:
        await http.close()


def _announce(settings: Settings, port: int, http_port: int) -> None:
    """Says where it listens: in the log, and in the ready file."""
    addresses = {"grpc": f"{settings.host}:{port}", "http": f"{settings.host}:{http_port}"}
    log.info("listening", extra={**addresses, "version": visionloop.__version__})
    if not is_loopback(settings.host):
        log.warning("--insecure: anybody who reaches %s can use this server", settings.host)
    if settings.ready_file is not None:
        write_ready_file(settings.ready_file, addresses)


async def _drain(settings: Settings, traffic: Traffic, readiness: Readiness) -> None:
    """Serves on until it is quiet. Health and /readyz said "not serving" when the signal came.

    Callers who never go quiet get half of the time; the other half is for what is under way then.
    """
    log.info("draining: serving on until no request has come for a while")
    quiet = asyncio.create_task(
        traffic.quiet(settings.drain_quiet_seconds, settings.drain_seconds / 2)
    )
    hurry = asyncio.create_task(readiness.hurry.wait())
    await asyncio.wait({quiet, hurry}, return_when=asyncio.FIRST_COMPLETED)
    for task in (quiet, hurry):
        task.cancel()
    log.info("closing the door", extra={"requests_under_way": traffic.under_way})

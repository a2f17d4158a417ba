"""All decoders of this server: started, kept alive, and linked to every front end.

They belong to nobody: an image of any front end goes to any of them, so one connection can keep all
cores busy. One that dies is started again, with growing pauses where it dies again and again;
meanwhile the others decode, and where there is none, front ends do it in threads of their own. So
nothing waits for them at start.
"""

import asyncio
import contextlib
import logging

from visionloop.errors import UnavailableError
from visionloop.telemetry import inference as metrics
from visionloop_inference.front_ends import FrontEnds
from visionloop_inference.hosted_decoder import HostedDecoder
from visionloop_inference.restarts import next_pause
from visionloop_inference.settings import Settings

log = logging.getLogger(__name__)

CLOSE_PATIENCE = 2.0  # seconds: front ends are gone by then, so nothing is under way


class DecodingProcesses:
    """As many as the settings say, which may be none."""

    def __init__(self, settings: Settings, front_ends: FrontEnds) -> None:
        self._count = settings.decoding_processes
        self._longest_pause = settings.restart_pause_seconds
        self._front_ends = front_ends
        self._alive: set[HostedDecoder] = set()
        self._keepers: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Starts all; each serves the front ends as soon as it is up."""
        self._keepers = [
            asyncio.create_task(self._keep(index), name=f"keep decoder {index}")
            for index in range(self._count)
        ]

    async def _keep(self, index: int) -> None:
        pause = 0.0
        loop = asyncio.get_running_loop()
        while True:
            born = loop.time()
            how = await self._live(index)
            pause = next_pause(pause, loop.time() - born, self._longest_pause)
            metrics.RESTARTS.labels(process="decoder").inc()
            log.error("decoder %d %s; starting it again", index, how)
            await asyncio.sleep(pause)

    async def _live(self, index: int) -> str:
        """The life of one decoder; how it ended."""
        try:
            decoder = HostedDecoder(index)
        except OSError as error:  # the machine has no room for a process
            return f"does not start ({error})"
        self._alive.add(decoder)
        decoder.child.ended.add_done_callback(lambda _: self._alive.discard(decoder))
        try:
            await decoder.ready()
            log.info("decoder %d is up", index, extra={"pid": decoder.child.pid})
            self._front_ends.connect(decoder)
            return await asyncio.shield(decoder.child.ended)
        except UnavailableError as error:
            decoder.child.kill()
            return f"does not come up ({error})"
        finally:
            self._front_ends.disconnect(decoder)

    async def close(self) -> None:
        """Ends them, once front ends are gone."""
        for task in self._keepers:
            task.cancel()
        for task in self._keepers:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await asyncio.gather(*(decoder.close(CLOSE_PATIENCE) for decoder in tuple(self._alive)))

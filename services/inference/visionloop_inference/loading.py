"""A model version from the store to runners that have passed its first golden images.

The store's calls stand in threads, everything else that is slow in the runners' processes, so
requests on other versions go on. The order is the trust: digests, then what the graph file may
hold, then the graph's signature, then its answers; the first is checked here, the rest by runners.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import ParamSpec, TypeVar

from visionloop.errors import RefusedError
from visionloop.repository import ModelRepository
from visionloop.telemetry import inference as metrics
from visionloop_inference.front_ends import FrontEnds
from visionloop_inference.hosted_runner import HostedRunner, RunnerDiedError
from visionloop_inference.lifecycle import ModelVersion
from visionloop_inference.restarts import next_pause
from visionloop_inference.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)

CRASHES_AT_LOAD = 2  # a graph that kills its runner so often is refused


@dataclass(frozen=True, slots=True)
class Loader:
    """What every load needs."""

    repository: ModelRepository
    cache: Path
    settings: Settings
    pool: ThreadPoolExecutor
    front_ends: FrontEnds
    revivals: set[asyncio.Task[None]] = field(default_factory=set)

    async def in_thread(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """A blocking call to the store, off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(
            self.pool, lambda: call(*args, **kwargs)
        )

    def folder(self, model: str, number: int) -> Path:
        """Where a version's files are kept on this machine."""
        return self.cache / model / str(number)

    async def load(self, version: ModelVersion) -> None:
        """Takes a version from FETCHING to runners that passed the first golden images.

        Raises CorruptError or RefusedError for a bundle that must not serve, UnavailableError and
        others for what may work later. Nothing is left running then.
        """
        folder = self.folder(version.model, version.number)
        bundle = await self.in_thread(self.repository.fetch, version.model, version.number, folder)
        version.fetched(bundle, folder)
        # One after the other: the first measures, the others find what it found.
        try:
            for instance in range(self.settings.instances):
                version.runners.append(await self._loaded(version, instance))
        except BaseException:
            await self._close_all(version)
            raise

    async def _loaded(self, version: ModelVersion, instance: int) -> HostedRunner:
        problem = ""
        for crash in range(1, CRASHES_AT_LOAD + 1):
            runner = self._new(version, instance)
            try:
                await runner.load(self._options(), self.settings.load_seconds)
            except RunnerDiedError as error:
                log.error("%s while it loaded (%d of %d)", error, crash, CRASHES_AT_LOAD)
                problem = str(error)
            else:
                return runner
        raise RefusedError(f"{problem} while it loaded, {CRASHES_AT_LOAD} times")

    def _new(self, version: ModelVersion, instance: int) -> HostedRunner:
        process = self.settings.front_end_processes > 0
        runner = HostedRunner(version.bundle, version.folder, instance, process=process)
        self.front_ends.greet(runner)  # now: it logs while it loads
        return runner

    def _options(self) -> dict[str, object]:
        settings = self.settings
        return {
            "provider": settings.provider,
            "threads": settings.threads,
            "max_batch": settings.max_batch,
            "pad": settings.pad,
            "tuning": str(self.cache / "tuning.json"),
            "engine_cache": str(settings.engine_cache) if settings.engine_cache else None,
        }

    def serve(self, version: ModelVersion) -> None:
        """Links the runners to the front ends, and keeps them alive from here on."""
        for runner in version.runners:
            self.front_ends.connect(runner)
            self._watch(version, runner)

    def _watch(self, version: ModelVersion, runner: HostedRunner) -> None:
        loop = asyncio.get_running_loop()
        born = loop.time()

        def ended(_: object) -> None:
            self.front_ends.disconnect(runner)
            if not version.serving or runner not in version.runners:
                return
            metrics.RESTARTS.labels(process="runner").inc()
            log.error("%s %s; starting it again", runner.child.name, runner.child.ended.result())
            longest = self.settings.restart_pause_seconds
            pause = next_pause(runner.pause, loop.time() - born, longest)
            task = asyncio.create_task(self._revive(version, runner, pause))
            self.revivals.add(task)
            task.add_done_callback(self.revivals.discard)

        runner.child.ended.add_done_callback(ended)

    async def _revive(self, version: ModelVersion, dead: HostedRunner, pause: float) -> None:
        """Puts a new runner in place of a dead one, for as long as the version serves."""
        place = version.runners.index(dead)
        await asyncio.sleep(pause)
        while version.serving:
            try:
                runner = self._new(version, dead.instance)
                runner.pause = pause
                await runner.load(self._options(), self.settings.load_seconds)
            except Exception as error:  # noqa: BLE001 — it served before: it is worth trying again
                log.error("%s does not come back: %s", dead.child.name, error)
                pause = next_pause(pause, 0.0, self.settings.restart_pause_seconds)
                await asyncio.sleep(pause)
                # A cache may have been swept by whoever keeps the machine's disk tidy.
                with contextlib.suppress(Exception):
                    await self.in_thread(
                        self.repository.fetch, version.model, version.number, version.folder
                    )
                continue
            if version.serving:
                version.runners[place] = runner
                self.front_ends.connect(runner)
                self._watch(version, runner)
            else:
                runner.child.kill()
            return

    async def release(self, version: ModelVersion) -> None:
        """Lets the runners end, once the front ends have let go of them."""
        for runner in version.runners:
            self.front_ends.disconnect(runner)
        await self._close_all(version)

    async def _close_all(self, version: ModelVersion) -> None:
        patience = self.settings.drain_seconds
        with contextlib.suppress(Exception):
            await asyncio.gather(*(runner.close(patience) for runner in version.runners))

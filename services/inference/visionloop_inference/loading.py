"""A model version from the store to a runner that has passed its first golden images.

Everything slow stands in threads (the store's calls) or in the runner's own thread, so requests on
other versions go on. The order is the trust: digests, then what the graph file may hold, then the
graph's signature, then its answers.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

from visionloop.bundle import Bundle, ClassificationBundle
from visionloop.errors import RefusedError
from visionloop.repository import ModelRepository
from visionloop_inference.decoding import Decoder
from visionloop_inference.golden import GoldenImage, read_golden, replay
from visionloop_inference.graph import check_graph
from visionloop_inference.lifecycle import ModelVersion, State
from visionloop_inference.runner import Runner, ThreadRunner

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Loader:
    """What every load needs."""

    repository: ModelRepository
    cache: Path
    decoder: Decoder
    provider: str
    threads: int
    max_batch: int
    pool: ThreadPoolExecutor  # for calls to the store, apart from decoding

    async def in_thread(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """A blocking call to the store, off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(
            self.pool, lambda: call(*args, **kwargs)
        )

    def folder(self, model: str, number: int) -> Path:
        """Where a version's files are kept on this machine."""
        return self.cache / model / str(number)

    async def load(self, version: ModelVersion) -> list[GoldenImage]:
        """Takes a version from FETCHING to TESTING passed; gives the golden images that are left.

        Raises CorruptError or RefusedError for a bundle that must not serve, UnavailableError and
        others for what may work later. Nothing is left running then.
        """
        folder = self.folder(version.model, version.number)
        bundle = _images_task(
            await self.in_thread(self.repository.fetch, version.model, version.number, folder)
        )
        version.move(State.LOADING)
        golden = await self.in_thread(_inspect, bundle, folder)
        runner = ThreadRunner(
            bundle,
            folder / bundle.graph,
            provider=self.provider,
            threads=self.threads,
            max_batch=self.max_batch,
        )
        try:
            await runner.start()
            version.move(State.TESTING)
            first = bundle.golden.before_ready
            await self.replay(golden[:first], bundle, runner)
        except BaseException:
            await runner.close()
            raise
        version.equip(bundle, runner)
        return golden[first:]

    async def replay(
        self, images: list[GoldenImage], bundle: ClassificationBundle, runner: Runner
    ) -> float:
        """Replays golden images; the largest difference. Raises RefusedError."""
        return await replay(images, bundle, runner, self.decoder, self.provider)


def _images_task(bundle: Bundle) -> ClassificationBundle:
    if not isinstance(bundle, ClassificationBundle):
        raise RefusedError(
            f"version {bundle.version} of model {bundle.model!r} is of the task {bundle.task!r}, "
            "which this server does not serve"
        )
    return bundle


def _inspect(bundle: ClassificationBundle, folder: Path) -> list[GoldenImage]:
    check_graph(folder / bundle.graph)
    return read_golden(bundle, folder)

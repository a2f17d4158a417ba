"""The versions of one model on their way out: their runners' end, and then that of their files.

Releasing takes as long as the slowest request on the version, so it goes on in the background: the
next alias need not wait for it. Files stay for one swap more, so that a rollback finds its own.
"""

import asyncio
import logging
import shutil
from collections.abc import Mapping

from visionloop_inference.lifecycle import OVER, ModelVersion, State
from visionloop_inference.loading import Loader

log = logging.getLogger(__name__)


class Releases:
    """`finished` waits for those that have begun."""

    def __init__(self, model: str, loader: Loader) -> None:
        self._model = model
        self._loader = loader
        self._under_way: set[asyncio.Task[None]] = set()
        self._stale: set[int] = set()  # versions whose files wait to be removed

    def begin(self, version: ModelVersion) -> None:
        """Lets the version's runners end, once its last request is answered."""
        self.forget_files(version.number)
        task = asyncio.create_task(self._release(version), name=f"release {version}")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _release(self, version: ModelVersion) -> None:
        await self._loader.release(version)
        version.move(State.RELEASED)
        log.info("%s is released", version)

    async def finished(self) -> None:
        """When all are over that have begun."""
        await asyncio.gather(*self._under_way)

    def forget_files(self, number: int) -> None:
        """Nobody wants the version's files any more."""
        self._stale.add(number)

    async def clean_cache(self, wanted: int, versions: Mapping[int, ModelVersion]) -> None:
        """Removes the files of versions that are over; those of `wanted` are about to be used."""
        self._stale.discard(wanted)
        for number in sorted(self._stale):
            if (version := versions.get(number)) is None or version.state in OVER:
                folder = self._loader.folder(self._model, number)
                await self._loader.in_thread(shutil.rmtree, folder, ignore_errors=True)
                self._stale.discard(number)

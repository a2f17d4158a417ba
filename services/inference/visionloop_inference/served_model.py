"""One model as it is served: which version answers now, and how the next one takes its place.

A swap never leaves a gap: the new version is loaded and tested beside the old one, then the
pointer moves, in one step of the event loop. The old version stays loaded until the new one has
passed all its golden images, so that going back is the same single step. Price: two versions in
memory for the length of a swap.
"""

import asyncio
import logging
import shutil
from collections.abc import Callable
from time import perf_counter

from visionloop.errors import (
    ConfigurationError,
    CorruptError,
    NotFoundError,
    RefusedError,
    UnavailableError,
    VisionloopError,
)
from visionloop.failpoints import failpoint
from visionloop.telemetry import inference as metrics
from visionloop_inference.admission import Admission, ByteBudget
from visionloop_inference.golden import GoldenImage
from visionloop_inference.lifecycle import ModelVersion, State
from visionloop_inference.loading import Loader

log = logging.getLogger(__name__)

ALIAS = "stable"
# What trying again cannot mend: the bundle must change, which means another version.
FOR_GOOD = (CorruptError, RefusedError, NotFoundError, ConfigurationError)


class ServedModel:
    """The versions of one model in this process."""

    def __init__(
        self,
        name: str,
        loader: Loader,
        queue_rows: int,
        budget: ByteBudget,
        changed: Callable[[], None],
    ) -> None:
        self.name = name
        self.duration = metrics.REQUEST_DURATION.labels(model=name)
        self.admission = Admission(name, queue_rows, budget)
        self.current: ModelVersion | None = None
        self.coming: ModelVersion | None = None
        self.standby: ModelVersion | None = None  # the one before, until the current is proven
        self.problem = ""  # why there is no version, or not the wanted one
        self._loader = loader
        self._changed = changed  # told when the pointer moved
        self._stale: set[int] = set()  # versions whose files wait to be removed
        self._releases: set[asyncio.Task[None]] = set()

    def version(self, wanted: str) -> ModelVersion:
        """The version that serves: "" and "stable" for the alias's, or its number.

        Raises NotFoundError for another version and UnavailableError while none serves.
        """
        current = self.current
        if current is None:
            raise UnavailableError(f"model {self.name!r} is not ready: {self._why()}")
        if wanted not in ("", ALIAS, str(current.number)):
            raise NotFoundError(
                f"version {wanted!r} of model {self.name!r} is not loaded; loaded is "
                f'{current.number} (ask for "{ALIAS}" or leave the version empty)'
            )
        return current

    def _why(self) -> str:
        if self.problem:
            return self.problem
        if self.coming is not None:
            return f"version {self.coming.number} is {self.coming.state}"
        return "it has no stable version yet"

    async def swap(self, number: int) -> bool:
        """Brings version `number` into service. True unless it makes sense to try again.

        Whatever goes wrong, the version that serves goes on serving.
        """
        version = self.coming = ModelVersion(self.name, number)
        began = perf_counter()
        try:
            await self._clean_cache(number)
            rest = await self._loader.load(version)
        except FOR_GOOD as error:
            self._give_up(version, State.REFUSED, error)
            return True
        except Exception as error:  # noqa: BLE001 — no load may take the service down
            self._give_up(version, State.FAILED, error)
            return False
        finally:
            self.coming = None
        metrics.MODEL_LOAD.labels(outcome="loaded").inc()
        failpoint("swap.loaded")
        old = self._put_in_service(version)
        row_ms = round(1000 * version.runner.seconds(1), 1)
        log.info(
            "%s serves, %.2f s after its load began",
            version,
            perf_counter() - began,
            extra={"batch": version.runner.batch, "row_ms": row_ms},
        )
        await self._prove(version, old, rest)
        return True

    async def _clean_cache(self, number: int) -> None:
        """Removes the files of versions retired before the last swap; a rollback finds its own."""
        self._stale.discard(number)
        for stale in self._stale:
            folder = self._loader.folder(self.name, stale)
            await self._loader.in_thread(shutil.rmtree, folder, ignore_errors=True)
        self._stale.clear()

    def _give_up(self, version: ModelVersion, state: State, error: Exception) -> None:
        version.move(state, str(error))
        self.problem = f"version {version.number} was {state}: {error}"
        metrics.MODEL_LOAD.labels(outcome=str(state)).inc()
        metrics.MODEL_SWAP.labels(result=str(state)).inc()
        serving = f"{self.current} goes on serving" if self.current else "no version serves"
        log.error(
            "%s was %s: %s; %s", version, state, error, serving,
            exc_info=None if isinstance(error, VisionloopError) else error,
        )  # fmt: skip

    def _put_in_service(self, version: ModelVersion) -> ModelVersion | None:
        """The swap itself: no await, so every request sees the old version or the new one."""
        old = self.current
        version.move(State.PROBATION)
        if old is not None:
            old.move(State.STANDBY)
        self.standby = old
        self._point(version)
        self.problem = ""
        return old

    def _point(self, version: ModelVersion | None) -> None:
        if self.current is not None:
            _info(self.current, 0)
        self.current = version
        if version is not None:
            _info(version, 1)
        self._changed()

    async def _prove(
        self, version: ModelVersion, old: ModelVersion | None, rest: list[GoldenImage]
    ) -> None:
        """Replays the other golden images beside the traffic; a mismatch takes the swap back."""
        try:
            difference = await self._loader.replay(rest, version.bundle, version.runner)
        except Exception as error:  # noqa: BLE001 — whatever it is, the version is not proven
            self._demote(version, old, error)
            return
        version.move(State.PROVEN)
        metrics.MODEL_SWAP.labels(result="swapped").inc()
        log.info(
            "%s passed all golden images; largest difference of the rest %.2g",
            version, difference,
        )  # fmt: skip
        self._retire(old)
        self.standby = None

    def _demote(self, version: ModelVersion, old: ModelVersion | None, error: Exception) -> None:
        version.move(State.DEMOTED, str(error))
        if old is not None:
            old.move(State.PROVEN)
        self._point(old)
        self.standby = None
        self.problem = f"version {version.number} was demoted: {error}"
        metrics.MODEL_SWAP.labels(result="demoted").inc()
        back = f"{old} serves again" if old is not None else "no version serves"
        log.error("%s was demoted: %s; %s", version, error, back)
        self._release(version)

    def retire(self, why: str) -> None:
        """Takes the model out of service."""
        versions = (self.current, self.standby)
        self.standby = None
        self._point(None)
        for version in versions:
            self._retire(version)
        self.problem = why
        log.info("%s is not served any more: %s", self.name, why)

    def _retire(self, version: ModelVersion | None) -> None:
        if version is not None:
            version.move(State.RETIRING)
            self._release(version)

    def _release(self, version: ModelVersion) -> None:
        """In the background: a slow request on the old version must not hold up the next alias."""

        async def release() -> None:
            await version.release()
            log.info("%s is released", version)

        self._stale.add(version.number)
        task = asyncio.create_task(release(), name=f"release {version}")
        self._releases.add(task)
        task.add_done_callback(self._releases.discard)

    async def close(self) -> None:
        """Lets every version go, once its last request is answered. Nothing may swap meanwhile."""
        self.retire("the server is shutting down")
        await asyncio.gather(*self._releases)


def _info(version: ModelVersion, value: int) -> None:
    metrics.MODEL_INFO.labels(model=version.model, version=str(version.number), alias=ALIAS).set(
        value
    )

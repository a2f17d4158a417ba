"""One model as it is served: which versions are loaded, and which of them the aliases mean.

A swap never leaves a gap: the new version is loaded and tested beside the old one, then the routes
change, in one step of every front end. The old version stays loaded until the new one has passed
all its golden images, so that going back is the same single step. A version that is loaded already,
as a canary that is promoted, is only pointed at. Price: two versions in memory for a swap.
"""

import logging
from collections.abc import Callable, Collection
from time import perf_counter

from visionloop.aliases import Aliases, Canary
from visionloop.bundle import ClassifierBundle
from visionloop.errors import UnavailableError, VisionloopError
from visionloop.failpoints import failpoint
from visionloop.telemetry import inference as metrics
from visionloop_inference.for_good import FOR_GOOD
from visionloop_inference.lifecycle import ModelVersion, State
from visionloop_inference.loading import Loader
from visionloop_inference.model_metrics import ModelMetrics
from visionloop_inference.releases import Releases

log = logging.getLogger(__name__)

STABLE, CANARY = "stable", "canary"


class ServedModel:
    """The versions of one model on this server. `changed` is told when the routes moved."""

    def __init__(
        self, name: str, loader: Loader, changed: Callable[[], None], *, named: bool = False
    ) -> None:
        self.name = name
        self.named = named  # in --models
        self.versions: dict[int, ModelVersion] = {}  # by number, whatever their state
        self.stable: ModelVersion | None = None
        self.canary: ModelVersion | None = None
        self.percent = 0.0  # the canary's share
        self.problem = ""  # why there is no version, or not the wanted one
        self._standby: ModelVersion | None = None  # the stable before, until the new is proven
        self._loader = loader
        self._changed = changed
        self._aliases: Aliases | None = None  # as they were settled last, well or badly
        # Refused or demoted since the aliases moved: to load them again would end the same.
        self._hopeless: dict[int, str] = {}  # number -> how it ended
        self._in_trouble = False  # by this settling; otherwise `problem` is over
        self._releases = Releases(name, loader)
        self._metrics = ModelMetrics(name)

    @property
    def serving(self) -> bool:
        """Whether a version answers requests that name none."""
        return self.stable is not None

    @property
    def wanted(self) -> bool:
        """Whether somebody asked for it to be served: by name, by an alias, by a policy. Else it is
        known, but no candidate where a request names no model."""
        promoted = self._aliases is not None and self._aliases.stable is not None
        return (
            self.named
            or promoted
            or self.coming is not None
            or any(version.serving for version in self.versions.values())
        )

    @property
    def coming(self) -> ModelVersion | None:
        """A version that is on its way into service."""
        ways = (State.FETCHING, State.LOADING)
        return next((v for v in self.versions.values() if v.state in ways), None)

    def why_not(self) -> str:
        """Why the model does not serve."""
        if self.problem:
            return self.problem
        if (coming := self.coming) is not None:
            return f"version {coming.number} is {coming.state}"
        return "it has no stable version yet"

    # What the store says.

    async def settle(self, aliases: Aliases, others: Collection[int]) -> bool:
        """Brings into service what the aliases mean, and `others` beside; lets go of the rest.

        True unless it makes sense to try again before the aliases move.
        """
        if aliases != self._aliases:
            self._aliases = aliases
            self._hopeless.clear()
        self._in_trouble = False
        settled = await self._settle_stable(aliases)
        settled &= await self._settle_canary(aliases.canary)
        for number in others:
            version = await self._brought(number)
            settled &= version.state is not State.FAILED
            if version.state is State.PROBATION:  # requests reach it, so it is proven as well
                await self._proven(version)
        self._let_go({*others})
        if self.problem and not self._in_trouble:
            self.problem = ""
            self._route()
        self._tell_metrics()
        return settled

    async def _settle_stable(self, aliases: Aliases) -> bool:
        if aliases.stable is None:
            if self.stable is not None:
                log.info("%s is not served any more: its stable alias was taken away", self.name)
                self.stable = None
                self._route()
            return True
        if self.stable is not None and self.stable.number == aliases.stable:
            return True
        settled = await self.swap(aliases.stable)
        if not settled or self.stable is not None:
            return settled
        repository = self._loader.repository
        previous = await self._loader.in_thread(repository.previous_stable, self.name)
        if previous is not None:
            # A server that starts after a bad promotion serves what the alias pointed at before.
            problem = self.problem
            settled = await self.swap(previous)
            self.problem = problem
        # A runner that died before its version was proven may have been killed by anybody.
        return settled and (self.stable is not None or aliases.stable in self._hopeless)

    async def _settle_canary(self, canary: Canary | None) -> bool:
        if canary is None:
            self._end_canary()
            return True
        if self.canary is None or self.canary.number != canary.version:
            version = await self._brought(canary.version)
            if not version.serving or (
                version.state is State.PROBATION and not await self._proven(version)
            ):
                self._end_canary()  # nobody wants the one before any more
                return version.state is not State.FAILED
            self.canary = version
        self.percent = canary.percent
        self._route()
        return True

    def _end_canary(self) -> None:
        if self.canary is not None:
            self.canary, self.percent = None, 0.0
            self._route()

    async def _brought(self, number: int) -> ModelVersion:
        """A version that serves, brought here if need be; or one that does not, and why."""
        version = self.versions.get(number)
        if version is not None and version.serving:
            return version
        if version is not None and number in self._hopeless:
            self._trouble(self._hopeless[number])
            return version
        return await self._bring(number)

    def _trouble(self, problem: str) -> None:
        """The first of a settling is told: what was wanted most came first."""
        if not self._in_trouble:
            self._in_trouble = True
            self.problem = problem

    async def swap(self, number: int) -> bool:
        """Makes version `number` stable. True unless it makes sense to try again.

        Whatever goes wrong, the version that serves goes on serving.
        """
        version = await self._brought(number)
        if not version.serving:
            return version.state is not State.FAILED
        failpoint("swap.loaded")
        self._standby, self.stable = self.stable, version
        self.problem = ""
        self._route()
        log.info("%s is stable", version)
        if version.state is State.PROBATION and not await self._proven(version):
            return True
        metrics.MODEL_SWAP.labels(result="swapped").inc()
        self._standby = None
        return True

    async def _bring(self, number: int) -> ModelVersion:
        """A version in probation, which requests can reach by its number; or REFUSED or FAILED."""
        version = self.versions[number] = ModelVersion(self.name, number)
        self._route()
        began = perf_counter()
        try:
            await self._releases.clean_cache(number, self.versions)
            await self._loader.load(version)
        except FOR_GOOD as error:
            self._give_up(version, State.REFUSED, error)
            return version
        except Exception as error:  # noqa: BLE001 — no load may take the service down
            self._give_up(version, State.FAILED, error)
            return version
        metrics.MODEL_LOAD.labels(outcome="loaded").inc()
        version.move(State.PROBATION)
        self._loader.serve(version)
        # A front end that is started from now on gets this version's links, and the routes after
        # them: of a version that they do not name it would close the links again.
        self._route()
        runner = version.runners[0]
        log.info(
            "%s serves, %.2f s after its load began", version, perf_counter() - began,
            extra={"batch": runner.batch, "row_ms": round(1000 * runner.row_seconds, 1)},
        )  # fmt: skip
        return version

    def _give_up(self, version: ModelVersion, state: State, error: Exception) -> None:
        version.move(state, str(error))
        problem = f"version {version.number} was {state}: {error}"
        if state is State.REFUSED:
            self._hopeless[version.number] = problem
            self._releases.forget_files(version.number)
        self._trouble(problem)
        metrics.MODEL_LOAD.labels(outcome=str(state)).inc()
        metrics.MODEL_SWAP.labels(result=str(state)).inc()
        serving = f"{self.stable} goes on serving" if self.stable else "no version serves"
        log.error(
            "%s was %s: %s; %s", version, state, error, serving,
            exc_info=None if isinstance(error, VisionloopError) else error,
        )  # fmt: skip
        self._route()

    async def _proven(self, version: ModelVersion) -> bool:
        """Replays the other golden images beside the traffic; a mismatch takes the move back."""
        try:
            for runner in version.runners:
                difference = await runner.replay(self._loader.settings.load_seconds)
        except Exception as error:  # noqa: BLE001 — whatever it is, the version is not proven
            self._check_wanted(version)
            self._demote(version, error)
            return False
        self._check_wanted(version)
        version.move(State.PROVEN)
        if isinstance(version.bundle, ClassifierBundle):
            log.info("%s passed all golden images; largest difference %.2g", version, difference)
        return True

    def _check_wanted(self, version: ModelVersion) -> None:
        """Raises UnavailableError where the server's end has overtaken a load by request."""
        if not version.serving:
            raise UnavailableError(f"{version} was let go meanwhile: {self.problem}")

    def _demote(self, version: ModelVersion, error: Exception) -> None:
        version.move(State.DEMOTED, str(error))
        if self.stable is version:
            self.stable, self._standby = self._standby, None
        problem = f"version {version.number} was demoted: {error}"
        if isinstance(error, FOR_GOOD) or self.stable is not None:
            self._hopeless[version.number] = problem
        self._trouble(problem)
        metrics.MODEL_SWAP.labels(result="demoted").inc()
        back = f"{self.stable} serves" if self.stable is not None else "no version serves"
        log.error("%s was demoted: %s; %s", version, error, back)
        self._route()
        self._releases.begin(version)

    # Routes.

    def _let_go(self, others: Collection[int]) -> None:
        """Retires what no alias and no policy wants any more."""
        kept = {id(version) for version in (self.stable, self.canary, self._standby)}
        gone = [
            version
            for number, version in self.versions.items()
            if version.serving and number not in others and id(version) not in kept
        ]
        for version in gone:
            version.move(State.RETIRING)
        if gone:
            self._route()
            for version in gone:
                self._releases.begin(version)

    def announce(self) -> None:
        """Front ends know the model from here on, and why it does not serve."""
        self._route()

    def _route(self) -> None:
        """Tells the front ends. No await: every request sees the routes before, or these."""
        self._loader.front_ends.route(
            self.name,
            {
                "wanted": self.wanted,
                "problem": self.problem if self.serving else self.why_not(),
                "stable": self.stable.number if self.stable else None,
                "canary": {"version": self.canary.number, "percent": self.percent}
                if self.canary and self.percent
                else None,
                "versions": [n for n, version in self.versions.items() if version.serving],
            },
        )
        self._tell_metrics()
        self._changed()

    @property
    def pending(self) -> bool:
        """Whether an alias means a version that does not serve (yet)."""
        if (aliases := self._aliases) is None:
            return False
        wanted = (aliases.stable, aliases.canary.version if aliases.canary else None)
        serving = [version.number if version else None for version in (self.stable, self.canary)]
        return wanted != tuple(serving)

    def _tell_metrics(self) -> None:
        aliases = {STABLE: self.stable, CANARY: self.canary}
        serving = {alias: version for alias, version in aliases.items() if version is not None}
        self._metrics.tell(serving, pending=self.pending)

    def retire(self, why: str) -> None:
        """Takes the model out of service."""
        if self.stable is not None or self.canary is not None:
            log.info("%s is not served any more: %s", self.name, why)
        self.stable = self.canary = self._standby = None
        self.percent = 0.0
        self._aliases = None
        self._hopeless.clear()
        self._let_go(())
        self.problem = why
        self._route()

    async def close(self) -> None:
        """Lets every version go, once its last request is answered. Nothing may swap meanwhile."""
        self.retire("the server is shutting down")
        await self._releases.finished()

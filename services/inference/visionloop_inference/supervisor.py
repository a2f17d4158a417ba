"""Follows the aliases in the store, and knows which models are served.

One task per model looks at its aliases every few seconds; a new stable version is swapped in by
`ServedModel`. A store that goes away later changes nothing for the versions that serve. Polling
costs one small read per model and interval, and needs no notifications from the store.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

from visionloop.bundle import Aliases
from visionloop.errors import InvalidInputError, NotFoundError, UnavailableError, VisionloopError
from visionloop.telemetry import inference as metrics
from visionloop_inference.admission import ByteBudget
from visionloop_inference.loading import Loader
from visionloop_inference.served_model import ServedModel

log = logging.getLogger(__name__)

NO_MODEL_YET = (
    "no model has a stable version yet; train one, or promote one that is there with "
    "`visionloop models promote MODEL VERSION`"
)

POLLS_PER_DISCOVERY = 6


class Supervisor:
    """All models of this process."""

    def __init__(
        self,
        loader: Loader,
        *,
        models: Iterable[str],
        poll_seconds: float,
        queue_rows: int,
        queue_bytes: int,
        changed: Callable[[], None],
    ) -> None:
        self.named = tuple(models)
        self.models: dict[str, ServedModel] = {}
        self._loader = loader
        self._poll_seconds = poll_seconds
        self._queue_rows = queue_rows
        self._budget = ByteBudget(queue_bytes)
        self._changed = changed
        self._followers: dict[str, asyncio.Task[None]] = {}
        self._settled: dict[str, str | None] = {}  # the etag of the aliases last acted upon
        self._tried: set[str] = set()  # models whose first look is over, well or badly
        self._scanned = False

    # What requests ask.

    def model(self, name: str) -> ServedModel:
        """The served model; "" is the default: the first of --models, or the only one there is.

        Raises NotFoundError, InvalidInputError when "" is not enough, UnavailableError when none.
        """
        if not self._wanted():
            raise UnavailableError(NO_MODEL_YET)
        if not name:
            return self._default()
        if name not in self.models:
            raise NotFoundError(
                f"model {name!r} is not served here; served are {', '.join(sorted(self.models))}"
            )
        return self.models[name]

    def _default(self) -> ServedModel:
        if self.named:
            return self.models[self.named[0]]
        wanted = self._wanted()
        if len(wanted) > 1:
            names = ", ".join(sorted(model.name for model in wanted))
            raise InvalidInputError(
                f"model is empty, and several are served: {names}; name one", field="model"
            )
        return wanted[0]

    def _wanted(self) -> list[ServedModel]:
        """The models that serve, should serve, or were named: not those without a stable alias."""
        return [
            model
            for model in self.models.values()
            if model.name in self.named or model.current or model.coming or model.problem
        ]

    @property
    def ready(self) -> bool:
        """True when every model of --models serves; without --models, when the first look at the
        store is over and at least one serves."""
        if self.named:
            return all(name in self.models and self.models[name].current for name in self.named)
        return (
            self._scanned
            and all(model.current or name in self._tried for name, model in self.models.items())
            and any(model.current for model in self.models.values())
        )

    # The following of the store.

    async def start(self) -> None:
        """Looks at the store once, so that a wrong or unreachable one is said at start."""
        await self._discover()

    async def run(self) -> None:
        """Follows until cancelled."""
        try:
            while True:
                # Listing a store costs more than reading an alias, so it is done less often once
                # something serves.
                polls = POLLS_PER_DISCOVERY if self.ready else 1
                await asyncio.sleep(polls * self._poll_seconds)
                await self._guarded("looking for models", self._discover)
        finally:
            await self._stop_following()

    async def close(self) -> None:
        """Lets all versions go."""
        await self._stop_following()
        await asyncio.gather(*(model.close() for model in self.models.values()))

    async def _stop_following(self) -> None:
        followers = list(self._followers.values())
        self._followers.clear()
        for task in followers:
            task.cancel()
        await asyncio.gather(*followers, return_exceptions=True)

    async def _discover(self) -> None:
        found = await self._loader.in_thread(self._loader.repository.models)
        for name in self.named or found:
            if name not in self.models:
                model = ServedModel(
                    name, self._loader, self._queue_rows, self._budget, self._changed
                )
                self.models[name] = model
                self._followers[name] = asyncio.create_task(
                    self._follow(model), name=f"follow {name}"
                )
        self._scanned = True

    async def _follow(self, model: ServedModel) -> None:
        while True:
            await self._guarded(f"following {model.name}", lambda: self.look(model))
            self._tried.add(model.name)
            self._changed()
            await asyncio.sleep(self._poll_seconds)

    async def look(self, model: ServedModel) -> None:
        """Reads the model's aliases once, and acts when they changed since they were acted upon."""
        found = await self._loader.in_thread(self._loader.repository.aliases, model.name)
        unseen = found.etag != self._settled.get(model.name, "")
        if unseen and await self._act(model, found.aliases):
            self._settled[model.name] = found.etag

    async def _act(self, model: ServedModel, aliases: Aliases) -> bool:
        """True when the aliases need no other look until they change."""
        if aliases.stable is None:
            if model.current is not None:
                model.retire("its stable alias was taken away")
            return True
        if model.current is not None and model.current.number == aliases.stable:
            return True
        settled = await model.swap(aliases.stable)
        previous = aliases.last_move.previous if aliases.last_move else None
        if settled and model.current is None and previous is not None:
            # A server that starts after a bad promotion serves what the alias pointed to before.
            problem = model.problem
            settled = await model.swap(previous)
            model.problem = problem
        return settled

    async def _guarded(self, doing: str, step: Callable[[], Awaitable[None]]) -> None:
        """Runs one look at the store; a failure is logged and counted, never fatal."""
        try:
            await step()
        except VisionloopError as error:
            metrics.STORE_ERRORS.labels(reason=error.reason).inc()
            log.warning("%s failed, trying again in %.0f s: %s", doing, self._poll_seconds, error)
        except Exception:
            metrics.STORE_ERRORS.labels(reason="internal").inc()
            log.exception("%s failed, trying again in %.0f s", doing, self._poll_seconds)

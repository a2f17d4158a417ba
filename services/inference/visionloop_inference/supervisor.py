"""Follows the aliases in the store, and knows which models are served.

One task per model looks at its aliases every few seconds; `ServedModel` brings into service what
changed. A store that goes away later changes nothing for the versions that serve. Polling costs one
small read per model and interval (and, where --version-policy loads more than the aliases say, one
listing), and needs no notifications from the store. With explicit control nothing is followed:
models come and go as RepositoryModelLoad and RepositoryModelUnload say.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable

from visionloop.errors import NotFoundError, RefusedError, UnavailableError, VisionloopError
from visionloop.telemetry import inference as metrics
from visionloop_inference.catalogue import NO_MODEL_YET
from visionloop_inference.loading import Loader
from visionloop_inference.served_model import ServedModel
from visionloop_inference.settings import Settings
from visionloop_inference.version_policy import VersionPolicy

log = logging.getLogger(__name__)

POLLS_PER_DISCOVERY = 6


class Supervisor:
    """All models of this server. `changed` is told when readiness may have changed."""

    def __init__(self, loader: Loader, settings: Settings, changed: Callable[[], None]) -> None:
        self.named = settings.models
        self.explicit = settings.model_control == "explicit"
        self.models: dict[str, ServedModel] = {}
        self._loader = loader
        self._policy = VersionPolicy.parse(settings.version_policy)
        self._poll_seconds = settings.poll_seconds
        self._changed = changed
        self._followers: dict[str, asyncio.Task[None]] = {}
        self._settled: dict[str, object] = {}  # what was seen when it was last acted upon
        self._published: dict[str, list[int]] = {}  # versions, at the last look
        self._tried: set[str] = set()  # models whose first look is over, well or badly
        self._scanned = False
        self._acting: dict[str, asyncio.Lock] = {}
        self._loads: Counter[str] = Counter()  # under way by request

    @property
    def ready(self) -> bool:
        """True when every model of --models serves; without --models, when the first look at the
        store is over and at least one serves. With explicit control: once it is up."""
        models = self.models
        if self.named:
            return all(name in models and models[name].serving for name in self.named)
        if self.explicit:
            return self._scanned
        return (
            self._scanned
            and all(model.serving or name in self._tried for name, model in models.items())
            and any(model.serving for model in models.values())
        )

    def reason(self) -> str:
        """Why it is not ready; "" when it is."""
        if self.ready:
            return ""
        problems = (model.why_not() for model in self.models.values() if not model.serving)
        return "; ".join(problem for problem in problems if problem) or NO_MODEL_YET

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
        # With explicit control too: a store that cannot be read is said at start.
        found = await self._loader.in_thread(self._loader.repository.models)
        if not self._scanned:
            self._say_what_is_missing(found)
        for name in self.named or (() if self.explicit else found):
            self._follow(name)
        self._scanned = True
        self._changed()

    def _say_what_is_missing(self, found: list[str]) -> None:
        """A store or a model that is mistyped looks just like one that is still empty."""
        if not found:
            log.warning("the store holds no model yet; is --store the right one?")
        missing = ", ".join(name for name in self.named if name not in found)
        if found and missing:
            log.warning("the store holds no version of %s; it has %s", missing, ", ".join(found))

    def _follow(self, name: str) -> None:
        if name in self._followers:
            return
        model = self._model(name)
        model.announce()
        self._followers[name] = asyncio.create_task(self._keep(model), name=f"follow {name}")

    def _model(self, name: str) -> ServedModel:
        if name not in self.models:
            self.models[name] = ServedModel(
                name, self._loader, self._changed, named=name in self.named
            )
        return self.models[name]

    async def _keep(self, model: ServedModel) -> None:
        while True:
            await self._guarded(f"following {model.name}", lambda: self.look(model))
            self._tried.add(model.name)
            self._changed()
            if self.explicit and model.name in self._settled:
                return
            await asyncio.sleep(self._poll_seconds)

    async def look(self, model: ServedModel) -> None:
        """Reads the model's aliases once, and acts when they changed since they were acted upon."""
        async with self._acting.setdefault(model.name, asyncio.Lock()):
            repository = self._loader.repository
            found = await self._loader.in_thread(repository.aliases, model.name)
            published: list[int] = []
            if self._policy.needs_versions:
                known = self._published.get(model.name, ())
                published = await self._loader.in_thread(repository.versions, model.name, known)
                self._published[model.name] = published
            _check_still_there(
                model, found.etag, published if self._policy.needs_versions else None
            )
            seen = (found.etag, tuple(published))
            if seen == self._settled.get(model.name, ()):
                return
            if await model.settle(found.aliases, self._policy.wanted(published)):
                self._settled[model.name] = seen

    # What callers may ask for when control is explicit.

    async def load(self, name: str) -> None:
        """Brings a model into service now, as its aliases say. Raises what stands in the way."""
        model = self._model(name)
        self._loads[name] += 1
        try:
            self._settled.pop(name, None)
            await self.look(model)
            settled = name in self._settled
            self._tried.add(name)
            if not any(version.serving for version in model.versions.values()):
                if not await self._loader.in_thread(self._loader.repository.versions, name):
                    raise NotFoundError(f"the store has no model {name!r}")
                raise _cannot_serve(model, settled=settled)
        finally:
            self._loads[name] -= 1
            if not self._loads[name]:
                del self._loads[name]
                self._forget_unless_known(model)

    def _forget_unless_known(self, model: ServedModel) -> None:
        """Callers may ask for any name: one of which nothing was ever loaded leaves nothing."""
        if not model.versions and model.name not in self._followers:
            for known in (self.models, self._settled, self._acting, self._published):
                known.pop(model.name, None)
            self._tried.discard(model.name)

    async def unload(self, name: str) -> None:
        """Takes a model out of service, until it is loaded again."""
        model = self.models.get(name)
        if model is None:
            raise NotFoundError(f"model {name!r} is not loaded")
        async with self._acting.setdefault(name, asyncio.Lock()):
            # It stays among the followers: a model that is named is not followed anew.
            if (follower := self._followers.get(name)) is not None:
                follower.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await follower
            self._settled.pop(name, None)
            model.retire("it was unloaded")

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


def _cannot_serve(model: ServedModel, *, settled: bool) -> VisionloopError:
    """Why a load by request brought nothing into service: it is worth trying again, or (`settled`)
    not until another version is published, or no version is meant to serve."""
    kind: type[VisionloopError] = NotFoundError
    if model.problem:
        kind = RefusedError if settled else UnavailableError
    return kind(f"model {model.name!r} cannot serve: {model.why_not()}")


def _check_still_there(model: ServedModel, etag: str | None, published: list[int] | None) -> None:
    """Raises UnavailableError where a model that serves has vanished from the store.

    Aliases move and versions are added; that none is left means that the store is not what it was:
    a disk that is not mounted, a bucket that was emptied. Nobody is to lose their answers by that.
    """
    serving = any(version.serving for version in model.versions.values())
    if (etag is None and model.stable is not None) or (published == [] and serving):
        raise UnavailableError(
            f"the store has no {'aliases' if etag is None else 'versions'} of {model.name!r} any "
            "more; what serves goes on serving (was the store's disk or bucket exchanged?)"
        )

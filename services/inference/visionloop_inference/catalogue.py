"""What one front end can route a request to: models, their versions, the runners of each version.

The supervisor decides; a front end only follows. Each of its messages replaces what is known of one
model in one step of the event loop, so every request sees the old routes or the new ones.

A canary gets its share of the requests that name no version. With a routing key the choice is a
hash of model and key, the same in every replica; without one each request is drawn by itself.
"""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from visionloop.bundle import Bundle, parse_bundle
from visionloop.errors import InvalidInputError, NotFoundError, UnavailableError
from visionloop.telemetry import inference as metrics
from visionloop_inference.admission import Admission, ByteBudget
from visionloop_inference.routed_version import RoutedVersion

_NUMBER = re.compile("[1-9][0-9]{0,8}")
STABLE = "stable"
CANARY = "canary"

NO_MODEL_YET = (
    "no model has a stable version yet; train one, or promote one that is there with "
    "`visionloop models promote MODEL VERSION`"
)


@dataclass(frozen=True, slots=True)
class CanaryShare:
    """The version that gets `percent` of the requests which name none."""

    version: int
    percent: float


class RoutedModel:
    """One model: its admission, its versions, and which of them an empty version means."""

    def __init__(self, name: str, queue_rows: int, budget: ByteBudget) -> None:
        self.name = name
        self.duration = metrics.REQUEST_DURATION.labels(model=name)
        self.admission = Admission(name, queue_rows, budget, self._batch)
        self.versions: dict[int, RoutedVersion] = {}
        self.stable: int | None = None
        self.canary: CanaryShare | None = None
        self.problem = ""  # why there is no version, or not the wanted one
        self.wanted = True  # whether somebody asked for it to be served

    def _batch(self) -> int:
        return max([version.batch for version in self.versions.values()], default=1)

    @property
    def serving(self) -> bool:
        """Whether a request that names no version gets an answer."""
        stable = self.versions.get(self.stable) if self.stable is not None else None
        return stable is not None and stable.serving

    def version(self, wanted: str, key: str = "") -> RoutedVersion:
        """The version for a request: "" (stable, or canary by its share), an alias, or a number.

        Raises NotFoundError for one that is not loaded, UnavailableError while none serves.
        """
        if wanted == "":
            return self._canary_for(key) or self._alias(STABLE, self.stable)
        if wanted == STABLE:
            return self._alias(STABLE, self.stable)
        if wanted == CANARY:
            return self._alias(CANARY, self.canary.version if self.canary else None)
        found = self.versions.get(int(wanted)) if _NUMBER.fullmatch(wanted) else None
        if found is None:
            if not self.versions:
                raise self._unavailable()
            raise NotFoundError(
                f"version {wanted[:100]!r} of model {self.name!r} is {self._not_loaded()}"
            )
        return found

    def _alias(self, alias: str, number: int | None) -> RoutedVersion:
        found = self.versions.get(number) if number is not None else None
        if found is None:
            if alias == CANARY and self.versions:
                raise NotFoundError(
                    f"version {CANARY!r} of model {self.name!r}: there is no canary at the moment"
                )
            raise self._unavailable()
        return found

    def _not_loaded(self) -> str:
        numbers = sorted(self.versions)
        loaded = f"{'is' if len(numbers) == 1 else 'are'} {', '.join(map(str, numbers))}"
        return f'not loaded; loaded {loaded} (ask for "{STABLE}" or leave the version empty)'

    def _canary_for(self, key: str) -> RoutedVersion | None:
        if self.canary is None or share(self.name, key) >= self.canary.percent:
            return None
        found = self.versions.get(self.canary.version)
        return found if found is not None and found.serving else None

    def _unavailable(self) -> UnavailableError:
        problem = self.problem or "it has no stable version yet"
        return UnavailableError(f"model {self.name!r} is not ready: {problem}")

    def update(self, message: Mapping[str, Any]) -> None:
        """Takes what the supervisor says of this model (see `front_end`)."""
        self.problem, self.wanted = message["problem"], message["wanted"]
        self.stable = message["stable"]
        canary = message["canary"]
        self.canary = CanaryShare(canary["version"], canary["percent"]) if canary else None
        wanted = {int(number) for number in message["versions"]}
        for number in self.versions.keys() - wanted:
            self.versions.pop(number).retire()

    def retire(self) -> None:
        """No request is routed here any more: each version goes after its last user."""
        for version in self.versions.values():
            version.retire()
        self.versions.clear()


def share(model: str, key: str) -> float:
    """Where a request falls between 0 and 100: by its routing key, or by chance without one."""
    if not key:
        return random.random() * 100.0  # noqa: S311 — a share of the traffic, no secret
    digest = blake2b(f"{model}\0{key}".encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64 * 100.0


class Catalogue:
    """All models that this front end routes to."""

    def __init__(self, queue_rows: int, queue_bytes: int) -> None:
        self.models: dict[str, RoutedModel] = {}
        self.ready = False
        self.stopping = False
        self.reason = NO_MODEL_YET  # why not ready
        self._default: str | None = None  # the model that "" means, when the supervisor says so
        self._queue_rows = queue_rows
        self._budget = ByteBudget(queue_bytes)

    def model(self, name: str) -> RoutedModel:
        """The model of this name; "" is the first of --models, or the only one there is.

        Raises NotFoundError, InvalidInputError when "" is not enough, UnavailableError when none.
        """
        found = self.models.get(name or self._default or "")
        if found is not None:
            return found
        wanted = [model for model in self.models.values() if model.wanted]
        if not wanted:
            raise UnavailableError(self.reason or NO_MODEL_YET)
        names = ", ".join(sorted(model.name for model in wanted))
        if name:
            raise NotFoundError(f"model {name[:100]!r} is not served here; served are {names}")
        if len(wanted) > 1:
            raise InvalidInputError(
                f"model is empty, and several are served: {names}; name one", field="model"
            )
        return wanted[0]

    def bundles(self, model: str) -> dict[int, Bundle]:
        """What the versions of a model that are loaded here say of themselves, by number."""
        found = self.models.get(model)
        if found is None:
            return {}
        return {number: version.bundle for number, version in found.versions.items()}

    # What the supervisor says.

    def update_server(self, message: Mapping[str, Any]) -> None:
        """Whether the server as a whole is ready, why not, and which model "" means."""
        self.ready, self.reason = message["ready"], message["reason"]
        self.stopping = message["stopping"]
        self._default = message["default"]

    def update_model(self, message: Mapping[str, Any]) -> None:
        """The routes of one model, which replace those before."""
        name = message["model"]
        if name not in self.models:
            self.models[name] = RoutedModel(name, self._queue_rows, self._budget)
        self.models[name].update(message)

    def version(self, bundle: bytes) -> RoutedVersion:
        """A version to link runners to; routed to by number at once, by alias when one says so.

        `bundle` is its bundle.json. Raises CorruptError.
        """
        parsed = parse_bundle(bundle)
        model, number = parsed.model, parsed.version
        if model not in self.models:
            self.models[model] = RoutedModel(model, self._queue_rows, self._budget)
        versions = self.models[model].versions
        if number not in versions:
            versions[number] = RoutedVersion(parsed)
        return versions[number]

    def close(self) -> None:
        """Forgets every model, for the end."""
        for model in self.models.values():
            model.retire()
        self.models.clear()

"""What the supervisor answers when a front end asks: the index of models, statistics, control."""

import logging
from typing import Any

from visionloop.errors import ConflictError, InvalidInputError, UnimplementedError
from visionloop_inference.front_ends import FrontEnds
from visionloop_inference.lifecycle import ModelVersion, State
from visionloop_inference.statistics import statistics
from visionloop_inference.supervisor import Supervisor

# The repository extension's states.
INDEX_STATES = {
    State.FETCHING: "LOADING",
    State.LOADING: "LOADING",
    State.PROBATION: "READY",
    State.PROVEN: "READY",
    State.RETIRING: "UNLOADING",
}
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


class Answers:
    """`await answers(kind, payload)`. Raises VisionloopErrors, which travel back to the caller."""

    def __init__(self) -> None:
        self.supervisor: Supervisor | None = None  # both are there once the server is up
        self.front_ends: FrontEnds | None = None
        self._level = "INFO"
        self._regions: dict[str, dict[str, Any]] = {}  # by name

    async def __call__(self, kind: str, payload: dict[str, Any]) -> dict[str, Any]:
        match kind:
            case "index":
                return {"models": self._index()}
            case "statistics":
                return {"models": statistics(payload["model"], payload["version"])}
            case "load" | "unload":
                await self._control(kind, payload)
                return {}
            case "log":
                return self._log(payload)
            case "regions":
                self._change_regions(payload)
                return {}
            case _:
                raise UnimplementedError(f"nobody answers {kind!r}")

    def _index(self) -> list[dict[str, str]]:
        models = self.supervisor.models if self.supervisor else {}
        return [
            _entry(version)
            for _, model in sorted(models.items())
            for _, version in sorted(model.versions.items())
        ]

    async def _control(self, kind: str, payload: dict[str, Any]) -> None:
        supervisor = self.supervisor
        if supervisor is None or not supervisor.explicit:
            raise UnimplementedError(
                f"{kind}ing models by request is not offered: the aliases in the store decide "
                "(--model-control poll); start the server with --model-control explicit"
            )
        if kind == "load":
            await supervisor.load(payload["model"])
        else:
            await supervisor.unload(payload["model"])

    def _change_regions(self, payload: dict[str, Any]) -> None:
        """Without a change, this only answers after all that was said to the front end before."""
        added, removed = payload["added"], payload["removed"]
        if added is not None:
            if added["name"] in self._regions:  # by another front end, at the same moment
                raise ConflictError(
                    f"shared memory region {added['name']!r} is registered already; unregister it "
                    "first"
                )
            self._regions[added["name"]] = added
        elif removed == "":
            self._regions.clear()
        elif removed is None or self._regions.pop(removed, None) is None:
            return
        if self.front_ends is not None:
            self.front_ends.regions(list(self._regions.values()))

    def _log(self, payload: dict[str, Any]) -> dict[str, Any]:
        level = payload.get("level")
        if level is not None:
            if level not in LEVELS:
                raise InvalidInputError(
                    f"level is {level!r}; it must be one of {', '.join(LEVELS)}", field="level"
                )
            self._level = level
            logging.getLogger().setLevel(level)
            if self.front_ends is not None:
                self.front_ends.log_level(level)
        return {"level": self._level}


def _entry(version: ModelVersion) -> dict[str, str]:
    state = INDEX_STATES.get(version.state, "UNAVAILABLE")
    reason = version.problem
    if state == "READY" and not any(not r.child.ended.done() for r in version.runners):
        state, reason = "UNAVAILABLE", "its runner ended and is being started again"
    return {
        "name": version.model,
        "version": str(version.number),
        "state": state,
        "reason": reason,
    }

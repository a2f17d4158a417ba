"""The states of a model version, from its files in the store to its release.

    FETCHING → LOADING → TESTING → PROBATION → PROVEN → RETIRING → RELEASED

TESTING replays the first golden images; PROBATION serves while the rest are replayed, with the
version before on STANDBY; a mismatch demotes the new one and brings the old one back. REFUSED is
for good (the bundle is wrong, until the alias moves); FAILED is tried again (the store was away).

A version counts who uses it. A request takes the version that serves when it arrives and keeps it
to the end, so a swap changes no request under way; a retired version is released when the last
user has let go. All of this happens in the event loop, so counting needs no lock.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum

from visionloop.bundle import ClassificationBundle
from visionloop_inference.runner import Runner


class State(StrEnum):
    FETCHING = "fetching"
    LOADING = "loading"
    TESTING = "testing"
    PROBATION = "probation"
    PROVEN = "proven"
    STANDBY = "standby"
    DEMOTED = "demoted"
    RETIRING = "retiring"
    RELEASED = "released"
    REFUSED = "refused"
    FAILED = "failed"


LEGAL: dict[State, frozenset[State]] = {
    State.FETCHING: frozenset({State.LOADING, State.REFUSED, State.FAILED}),
    State.LOADING: frozenset({State.TESTING, State.REFUSED, State.FAILED}),
    State.TESTING: frozenset({State.PROBATION, State.REFUSED, State.FAILED}),
    State.PROBATION: frozenset({State.PROVEN, State.DEMOTED, State.RETIRING}),
    State.PROVEN: frozenset({State.STANDBY, State.RETIRING}),
    State.STANDBY: frozenset({State.PROVEN, State.RETIRING}),
    State.DEMOTED: frozenset({State.RELEASED}),
    State.RETIRING: frozenset({State.RELEASED}),
    State.RELEASED: frozenset(),
    State.REFUSED: frozenset(),
    State.FAILED: frozenset(),
}


class ModelVersion:
    """One version of one model, and who is using it."""

    def __init__(self, model: str, number: int) -> None:
        self.model = model
        self.number = number
        self.state = State.FETCHING
        self.problem = ""  # for people; set with REFUSED, FAILED and DEMOTED
        self._bundle: ClassificationBundle | None = None
        self._runner: Runner | None = None
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()

    def move(self, state: State, problem: str = "") -> None:
        """Raises RuntimeError for a move that is not in LEGAL: a fault of the supervisor."""
        if state not in LEGAL[self.state]:
            raise RuntimeError(f"{self} cannot go from {self.state} to {state}")
        self.state = state
        self.problem = problem or self.problem

    def equip(self, bundle: ClassificationBundle, runner: Runner) -> None:
        """Gives the version what it is loaded with."""
        self._bundle, self._runner = bundle, runner

    @property
    def bundle(self) -> ClassificationBundle:
        if self._bundle is None:
            raise RuntimeError(f"{self} is not loaded")
        return self._bundle

    @property
    def runner(self) -> Runner:
        if self._runner is None:
            raise RuntimeError(f"{self} is not loaded")
        return self._runner

    @contextmanager
    def use(self) -> Iterator["ModelVersion"]:
        """Keeps the version loaded for the length of the block."""
        self._users += 1
        self._unused.clear()
        try:
            yield self
        finally:
            self._users -= 1
            if not self._users:
                self._unused.set()

    async def release(self) -> None:
        """Waits for the last user, then lets the graph go."""
        await self._unused.wait()
        await self.runner.close()
        self._bundle = self._runner = None
        self.move(State.RELEASED)

    def __str__(self) -> str:
        return f"{self.model} version {self.number}"

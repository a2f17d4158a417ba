"""The states of a model version, from its files in the store to its release.

    FETCHING → LOADING → PROBATION → PROVEN → RETIRING → RELEASED

LOADING ends when every runner has warmed up and passed the first golden images; PROBATION serves
while the rest are replayed, with the version before kept ready; a mismatch demotes the new one and
brings the old one back. REFUSED is for good (the bundle is wrong, until an alias moves); FAILED is
tried again (the store was away). A runner that dies while its version serves changes no state: the
version goes on with the runners that are left, and the dead one is started again.
"""

from enum import StrEnum
from pathlib import Path

from visionloop.bundle import Bundle
from visionloop_inference.hosted_runner import HostedRunner


class State(StrEnum):
    FETCHING = "fetching"
    LOADING = "loading"
    PROBATION = "probation"
    PROVEN = "proven"
    DEMOTED = "demoted"
    RETIRING = "retiring"
    RELEASED = "released"
    REFUSED = "refused"
    FAILED = "failed"


LEGAL: dict[State, frozenset[State]] = {
    State.FETCHING: frozenset({State.LOADING, State.REFUSED, State.FAILED}),
    State.LOADING: frozenset({State.PROBATION, State.REFUSED, State.FAILED}),
    State.PROBATION: frozenset({State.PROVEN, State.DEMOTED, State.RETIRING}),
    State.PROVEN: frozenset({State.RETIRING}),
    State.DEMOTED: frozenset({State.RELEASED}),
    State.RETIRING: frozenset({State.RELEASED}),
    State.RELEASED: frozenset(),
    State.REFUSED: frozenset(),
    State.FAILED: frozenset(),
}
SERVING = frozenset({State.PROBATION, State.PROVEN})
OVER = frozenset({State.DEMOTED, State.RELEASED, State.REFUSED, State.FAILED})
FORGOTTEN = OVER - {State.DEMOTED}  # whose runners are still to end


class ModelVersion:
    """One version of one model, and the runners that run it."""

    def __init__(self, model: str, number: int) -> None:
        self.model = model
        self.number = number
        self.state = State.FETCHING
        self.problem = ""  # for people; set with REFUSED, FAILED and DEMOTED
        self.runners: list[HostedRunner] = []
        self.folder = Path()
        self._bundle: Bundle | None = None

    def move(self, state: State, problem: str = "") -> None:
        """Raises RuntimeError for a move that is not in LEGAL: a fault of the supervisor."""
        if state not in LEGAL[self.state]:
            raise RuntimeError(f"{self} cannot go from {self.state} to {state}")
        self.state = state
        self.problem = problem or self.problem
        if state in FORGOTTEN:
            # The version itself is remembered for the index; a bundle with a thousand labels takes
            # a megabyte, and versions come for years.
            self._bundle = None
            self.runners = []

    def fetched(self, bundle: Bundle, folder: Path) -> None:
        """The files are here."""
        self._bundle, self.folder = bundle, folder
        self.move(State.LOADING)

    @property
    def bundle(self) -> Bundle:
        if self._bundle is None:
            raise RuntimeError(f"{self} is not fetched")
        return self._bundle

    @property
    def serving(self) -> bool:
        """Whether requests may be routed here."""
        return self.state in SERVING

    def __str__(self) -> str:
        return f"{self.model} version {self.number}"

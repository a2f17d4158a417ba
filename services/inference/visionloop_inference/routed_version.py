"""One version of one model as a front end uses it: the links to its runners, and who uses them.

A version that is taken out of the routes keeps its links until the last request that took it has
let go; then they are closed, which tells the runners.
"""

import asyncio
from collections.abc import Sequence
from time import perf_counter
from types import TracebackType

from visionloop.bundle import Bundle, Signature
from visionloop.errors import (
    DeadlineExceededError,
    InvalidInputError,
    OverloadedError,
    UnavailableError,
    VisionloopError,
)
from visionloop.telemetry import inference as metrics
from visionloop_inference.admission import NoRoomError
from visionloop_inference.datatypes import Answer, Tensor
from visionloop_inference.runner_link import RunnerLink


class RowFailedError(VisionloopError):
    """The graph failed on a row that passed every check."""


class TriedAgainError(VisionloopError):
    """A refusal that its caller is not told: the request comes again after so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__("refused, and tried again")
        self.seconds = seconds


RESTART_SECONDS = 1.0  # when a caller may hope for a runner that died


class RoutedVersion:
    """One version of one model, for as long as somebody uses it."""

    def __init__(self, bundle: Bundle) -> None:
        self.model = model = bundle.model
        self.number = number = bundle.version
        self.bundle = bundle
        self.signature: Signature = bundle.signature
        self.links: list[RunnerLink] = []
        self.plans: dict[object, object] = {}  # what servicers worked out about requests of a kind
        self._users = 0
        self._retired = False
        labels = (model, str(number))
        self.requests = metrics.NV_SUCCESS.labels(*labels)
        self.microseconds = metrics.NV_REQUEST_US.labels(*labels)
        self.failed_seconds = metrics.FAILED_SECONDS.labels(*labels)

    def use(self) -> "Use":
        """For `with version.use():` around all that a request wants of it. Counts the request."""
        return Use(self)

    @property
    def serving(self) -> bool:
        """Whether a runner is there. One that died takes its link along."""
        return bool(self.links)

    @property
    def batch(self) -> int:
        """Rows that run at once at most, in all runners together."""
        return sum([link.batch for link in self.links])

    def seconds(self, rows: int, *, low: bool) -> float:
        """Predicted seconds for so many rows, `low` of low priority, and those of other front ends
        that run before them, shared out over the runners."""
        links = self.links
        if not links:
            return 0.0
        rows += sum([link.ahead(low=low) for link in links])
        return links[0].seconds(-(-rows // len(links)))

    async def run(
        self, inputs: Sequence[Tensor], rows: int, deadline: float | None, priority: int = 0
    ) -> Answer:
        """Runs one job on the runner with the fewest rows waiting; see RunnerLink.run."""
        links = self.links
        if not links:
            raise UnavailableError(
                f"{self} has no runner at the moment: it ended and is being started again; retry",
                retry_after_seconds=RESTART_SECONDS,
            )
        link = links[0] if len(links) == 1 else min(links, key=_waiting)
        return await link.run(inputs, rows, deadline, priority)

    def failed(self, error: BaseException) -> None:
        """Counts a failed request by Triton's reasons."""
        reason = next((word for kinds, word in _REASONS if isinstance(error, kinds)), "OTHER")
        metrics.NV_FAILURE.labels(self.model, str(self.number), reason).inc()

    def take(self) -> None:
        """One more user."""
        self._users += 1

    def let_go(self) -> None:
        """One user less; the last one of a retired version closes its links."""
        self._users -= 1
        if self._retired and not self._users:
            self._close_links()

    def retire(self) -> None:
        """Nobody is routed here any more: lets the runners go after the last user."""
        self._retired = True
        if not self._users:
            self._close_links()

    def _close_links(self) -> None:
        for link in self.links:
            link.close()
        self.links.clear()

    def __str__(self) -> str:
        return f"version {self.number} of model {self.model!r}"


_REASONS: tuple[tuple[tuple[type[BaseException], ...], str], ...] = (
    ((OverloadedError, DeadlineExceededError, InvalidInputError), "REJECTED"),
    ((asyncio.CancelledError,), "CANCELED"),
    ((UnavailableError, RowFailedError), "BACKEND"),
)


class Use:
    """One request on one version: keeps the version's links open, and is counted and timed, unless
    it is tried again."""

    __slots__ = ("_began", "_version")

    def __init__(self, version: RoutedVersion) -> None:
        self._version = version

    def __enter__(self) -> RoutedVersion:
        self._version.take()
        self._began = perf_counter()
        return self._version

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        version, seconds = self._version, perf_counter() - self._began
        version.let_go()
        if isinstance(error, TriedAgainError):
            return
        if isinstance(error, NoRoomError):
            error.count()
        if error is None:
            version.requests.inc()
            version.microseconds.inc(1e6 * seconds)
        else:
            version.failed(error)
            version.failed_seconds.inc(seconds)


def _waiting(link: RunnerLink) -> int:
    return link.rows_waiting

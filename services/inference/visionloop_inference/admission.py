"""Who may come in: bounds on rows and bytes held, and on the wait against the caller's deadline.

Every request holds its rows and bytes from arrival to answer, decoding included. It is refused at
the door, before any pixel is touched, when there is no room or when the answer is predicted to
come after the deadline: an early RESOURCE_EXHAUSTED lets the caller go elsewhere, a late time-out
has cost both sides the work. What waits in other front ends is part of the prediction, as far as
the runners have told it. Price: a prediction can refuse what would just have made it.

Work of low priority (`levels`) has a share, half of the rows and of the bytes, so that bulk callers
cannot shut the door to others. Half is several batches, as a rule; where it is less than two, one
that runs and one that is made ready, the share is two, or three quarters if that is less: a bulk
caller alone keeps a large batch busy. Streams wait for room in a line, first come first served.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from visionloop.errors import DeadlineExceededError, InvalidInputError, OverloadedError
from visionloop.telemetry import inference as metrics

MINIMUM_PUSHBACK = 0.01  # seconds


class NoRoomError(OverloadedError):
    """Refused at the door. It is counted when its caller is told of it, not where it is raised: a
    request of a stream comes to the door until it is let in."""

    def __init__(self, door: str, message: str, retry_after_seconds: float) -> None:
        super().__init__(message, retry_after_seconds=max(retry_after_seconds, MINIMUM_PUSHBACK))
        self._door = door

    @property
    def reason(self) -> str:
        """For callers it is what any server says that has too much to do."""
        return "overloaded"

    def count(self) -> None:
        """The caller is told."""
        metrics.REJECTED.labels(reason=self._door).inc()


@dataclass(slots=True)
class ByteBudget:
    """Request bytes held by all models together."""

    limit: int
    held: int = 0
    low: int = 0  # of these, held by work of low priority
    waiting: set["Admission"] = field(default_factory=set)  # where somebody stands in line

    @property
    def low_limit(self) -> int:
        return self.limit // 2


def _one() -> int:
    return 1


class Admission:
    """The door of one model; it stays when versions change."""

    def __init__(
        self, model: str, max_rows: int, budget: ByteBudget, batch: Callable[[], int] = _one
    ) -> None:
        """`batch()` is how many rows run at once at most, over all runners of a version."""
        self.rows = 0
        self.low_rows = 0  # of these, of low priority
        self._max_rows = max_rows
        self._budget = budget
        self._batch = batch
        self._line: deque[asyncio.Event] = deque()  # who waits for room; the first is told of it
        self._queued = metrics.QUEUE_ROWS.labels(model=model)

    @contextmanager
    def admit(
        self,
        rows: int,
        size: int,
        deadline: float | None,
        predicted: Callable[[int], float],
        *,
        low: bool = False,
    ) -> Iterator[None]:
        """Holds `rows` and `size` bytes for the length of the block.

        `deadline` is a time.monotonic(); `predicted(n)` the seconds until n rows, put behind one
        another now, are answered. `low` is work of low priority. Raises NoRoomError,
        InvalidInputError for what can never fit, or DeadlineExceededError when it is already too
        late.
        """
        self._check(rows, size, deadline, predicted, low=low)
        self._hold(rows, size, low=low)
        try:
            yield
        finally:
            self._hold(-rows, -size, low=low)
            for admission in tuple(self._budget.waiting):
                admission._tell()

    async def room(self, rows: int, size: int) -> None:
        """Waits until so much of low priority would fit, behind those who came before.

        Whoever admits without awaiting anything first finds the room that was waited for. What can
        never fit is not waited for: `admit` says why.
        """
        if not self._ever_fits(rows, size):
            return
        if not self._line and self._fits(rows, size):
            return
        turn = asyncio.Event()
        self._line.append(turn)
        self._budget.waiting.add(self)
        try:
            while self._line[0] is not turn or not self._fits(rows, size):
                turn.clear()
                await turn.wait()
        finally:
            self._line.remove(turn)
            if not self._line:
                self._budget.waiting.discard(self)
            self._tell()

    @property
    def low_limit(self) -> int:
        """Rows that work of low priority may hold."""
        half, three_quarters = self._max_rows // 2, self._max_rows * 3 // 4
        return max(half, min(2 * self._batch(), three_quarters))

    def _tell(self) -> None:
        """The first in line looks whether there is room."""
        if self._line:
            self._line[0].set()

    def _hold(self, rows: int, size: int, *, low: bool) -> None:
        self.rows += rows
        self._budget.held += size
        if low:
            self.low_rows += rows
            self._budget.low += size
        self._queued.set(self.rows)

    def _fits(self, rows: int, size: int) -> bool:
        """Whether there is room for so much of low priority."""
        return (
            self.rows + rows <= self._max_rows
            and self._budget.held + size <= self._budget.limit
            and self._low_rows_fit(rows)
            and self._low_bytes_fit(size)
        )

    def _ever_fits(self, rows: int, size: int) -> bool:
        return rows <= self._max_rows and size <= self._budget.limit

    # A request that is larger than the share comes in when it is the only one of its kind.

    def _low_rows_fit(self, rows: int) -> bool:
        return self.low_rows == 0 or self.low_rows + rows <= self.low_limit

    def _low_bytes_fit(self, size: int) -> bool:
        return self._budget.low == 0 or self._budget.low + size <= self._budget.low_limit

    def _check(
        self,
        rows: int,
        size: int,
        deadline: float | None,
        predicted: Callable[[int], float],
        *,
        low: bool,
    ) -> None:
        if not self._ever_fits(rows, size):
            raise InvalidInputError(
                f"the request has {rows} rows and {size} bytes; there is never room for more than "
                f"{self._max_rows} rows (--queue-rows) and {self._budget.limit} bytes "
                "(--queue-bytes): send less at once"
            )
        excess = self.rows + rows - self._max_rows
        if excess > 0:
            raise NoRoomError(
                "queue_full",
                f"{self.rows} rows are waiting and the limit is {self._max_rows}, so {rows} more "
                "have no room; retry later or send to another replica",
                predicted(min(excess, self.rows)),
            )
        if self._budget.held + size > self._budget.limit:
            raise NoRoomError(
                "bytes",
                f"requests of {self._budget.held} bytes are being answered and the limit is "
                f"{self._budget.limit}, so {size} more have no room; retry later or send to "
                "another replica",
                predicted(self.rows),
            )
        if low:
            self._check_share(rows, size, predicted)
        if deadline is None:
            return
        left = deadline - time.monotonic()
        if left <= 0.0:
            raise DeadlineExceededError("the deadline had passed when the request was read")
        ahead = self.rows if low else self._ahead_of_normal()
        wait = predicted(ahead + rows)
        if wait > left:
            raise NoRoomError(
                "late",
                f"the answer is predicted in {wait:.3f} s and the deadline is in {left:.3f} s "
                f"({ahead} rows are ahead in this front end); allow more time or send to another "
                "replica",
                wait - left,
            )

    def _check_share(self, rows: int, size: int, predicted: Callable[[int], float]) -> None:
        if not self._low_rows_fit(rows):
            limit = self.low_limit
            raise NoRoomError(
                "low_priority",
                f"{self.low_rows} rows of low priority are waiting and their share is {limit} of "
                f"{self._max_rows}, so {rows} more have no room; retry later, or send them by "
                "RecognizeStream, which waits",
                predicted(min(self.low_rows + rows - limit, self.low_rows)),
            )
        if not self._low_bytes_fit(size):
            raise NoRoomError(
                "low_priority",
                f"requests of low priority hold {self._budget.low} bytes and their share is "
                f"{self._budget.low_limit} of {self._budget.limit}, so {size} more have no room; "
                "retry later, or send them by RecognizeStream, which waits",
                predicted(self.low_rows),
            )

    def _ahead_of_normal(self) -> int:
        """Rows that run before a new one of the normal level: of low priority only what runs."""
        low = self.low_rows
        return self.rows - low + min(low, self._batch()) if low else self.rows


def check_count(count: int, limit: int, field: str) -> None:
    """Raises InvalidInputError unless 1..limit images or rows were sent."""
    if not 1 <= count <= limit:
        raise InvalidInputError(
            f"{field}: {count} given; send 1 to {limit} in one request", field=field
        )


def deadline_of(context: grpc.aio.ServicerContext[Any, Any]) -> float | None:
    """The caller's deadline as a time.monotonic(), or None when it set none."""
    left = context.time_remaining()
    return None if left is None else time.monotonic() + left

"""Who may come in: bounds on rows and bytes held, and on the wait against the caller's deadline.

Every request holds its rows and bytes from arrival to answer, decoding included. It is refused at
the door, before any pixel is touched, when there is no room or when the answer is predicted to
come after the deadline: an early RESOURCE_EXHAUSTED lets the caller go elsewhere, a late time-out
has cost both sides the work. Price: a prediction can refuse what would just have made it.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from visionloop.errors import DeadlineExceededError, InvalidInputError, OverloadedError
from visionloop.telemetry import inference as metrics

MINIMUM_PUSHBACK = 0.01  # seconds


@dataclass(slots=True)
class ByteBudget:
    """Request bytes held by all models together."""

    limit: int
    held: int = 0


class Admission:
    """The door of one model; it stays when versions change."""

    def __init__(self, model: str, max_rows: int, budget: ByteBudget) -> None:
        self.rows = 0
        self._max_rows = max_rows
        self._budget = budget
        self._queued = metrics.QUEUE_ROWS.labels(model=model)

    @contextmanager
    def admit(
        self, rows: int, size: int, deadline: float | None, predicted: Callable[[int], float]
    ) -> Iterator[None]:
        """Holds `rows` and `size` bytes for the length of the block.

        `deadline` is a time.monotonic(); `predicted(n)` the seconds until n rows, put behind one
        another now, are answered. Raises OverloadedError, or DeadlineExceededError when it is
        already too late.
        """
        self._check(rows, size, deadline, predicted)
        self.rows += rows
        self._budget.held += size
        self._queued.set(self.rows)
        try:
            yield
        finally:
            self.rows -= rows
            self._budget.held -= size
            self._queued.set(self.rows)

    def _check(
        self, rows: int, size: int, deadline: float | None, predicted: Callable[[int], float]
    ) -> None:
        excess = self.rows + rows - self._max_rows
        if excess > 0:
            raise _refusal(
                "queue_full",
                f"{self.rows} rows are waiting and the limit is {self._max_rows}, so {rows} more "
                "have no room; retry later or send to another replica",
                predicted(min(excess, self.rows)),
            )
        if self._budget.held + size > self._budget.limit:
            raise _refusal(
                "bytes",
                f"requests of {self._budget.held} bytes are being answered and the limit is "
                f"{self._budget.limit}, so {size} more have no room; retry later or send to "
                "another replica",
                predicted(self.rows),
            )
        if deadline is None:
            return
        left = deadline - time.monotonic()
        if left <= 0.0:
            raise DeadlineExceededError("the deadline had passed when the request was read")
        wait = predicted(self.rows + rows)
        if wait > left:
            raise _refusal(
                "late",
                f"the answer is predicted in {wait:.3f} s and the deadline is in {left:.3f} s "
                f"({self.rows} rows are ahead); allow more time or send to another replica",
                wait - left,
            )


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


def _refusal(reason: str, message: str, retry_after: float) -> OverloadedError:
    metrics.REJECTED.labels(reason=reason).inc()
    return OverloadedError(message, retry_after_seconds=max(retry_after, MINIMUM_PUSHBACK))

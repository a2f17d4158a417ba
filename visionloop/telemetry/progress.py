"""How far a long job is: a bar on a terminal, a log line now and then everywhere else.

A bar in a pod's log is thousands of carriage returns; silence for ten minutes looks like a hang.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

_log = logging.getLogger(__name__)
Item = TypeVar("Item")
SECONDS_BETWEEN_LINES = 10.0


class _Display(Protocol):
    def advance(self, count: int) -> None: ...
    def note(self, text: str) -> None: ...
    def close(self, *, finished: bool) -> None: ...


class Progress(Generic[Item]):
    """Iterate over it, or use it as a context manager and call `advance`.

    Made by `progress`. Not safe to share between threads.
    """

    def __init__(self, items: Iterable[Item], display: _Display) -> None:
        self._items = items
        self._display = display

    def advance(self, count: int = 1) -> None:
        """`count` more units are done."""
        self._display.advance(count)

    def note(self, text: str) -> None:
        """Words shown beside the progress, as "loss 0.31"; they stay until the next note."""
        self._display.note(text)

    def __iter__(self) -> Iterator[Item]:
        with self:
            for item in self._items:
                yield item
                self._display.advance(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._display.close(finished=kind is None)


def progress(
    items: Iterable[Item] = (),
    *,
    description: str,
    unit: str = "items",
    total: int | None = None,
    terminal: bool | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Progress[Item]:
    """Shows the progress of iterating over `items`, or of `total` units that `advance` counts.

    `total` defaults to the length of `items` where it has one; 0 or None means that it is not
    known. `terminal` None asks stderr; without tqdm a terminal gets lines as well.
    """
    if total is None and isinstance(items, Sized):
        total = len(items) or None
    if sys.stderr.isatty() if terminal is None else terminal:
        try:
            return Progress(items, _Bar(description, unit, total))
        except ImportError:
            pass
    return Progress(items, _Lines(description, unit, total, clock))


class _Bar:
    def __init__(self, description: str, unit: str, total: int | None) -> None:
        from tqdm import tqdm  # not in the bare install

        self._bar = tqdm(desc=description, unit=f" {unit}", total=total, file=sys.stderr)

    def advance(self, count: int) -> None:
        self._bar.update(count)

    def note(self, text: str) -> None:
        self._bar.set_postfix_str(text, refresh=False)

    def close(self, *, finished: bool) -> None:
        del finished
        self._bar.close()


class _Lines:
    def __init__(
        self, description: str, unit: str, total: int | None, clock: Callable[[], float]
    ) -> None:
        self._description = description
        self._unit = unit
        self._total = total
        self._clock = clock
        self._started = self._last_line = clock()
        self._done = 0
        self._note = ""

    def advance(self, count: int) -> None:
        self._done += count
        now = self._clock()
        if now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            _log.info("%s: %s", self._description, self._state(now))

    def note(self, text: str) -> None:
        self._note = text

    def close(self, *, finished: bool) -> None:
        now = self._clock()
        outcome = "done" if finished else "stopped"
        _log.info("%s %s: %s", self._description, outcome, self._state(now, running=False))

    def _state(self, now: float, *, running: bool = True) -> str:
        seconds = max(now - self._started, 1e-9)
        per_second = self._done / seconds
        words = f"{self._done:,} {self._unit}"
        if self._total:
            words = f"{self._done:,} of {self._total:,} {self._unit}"
            words += f" ({100 * self._done / self._total:.0f} %)"
        words += f" in {seconds:.0f} s, {per_second:.1f}/s"
        if running and self._total and per_second > 0:
            words += f", {max(0.0, (self._total - self._done) / per_second):.0f} s left"
        return f"{words}, {self._note}" if self._note else words

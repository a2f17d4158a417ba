"""Whether to send this service requests: one answer for gRPC health, /readyz and the drain.

A signal makes it "not ready" at once, but what still comes is served until no request has come for
a while: whoever spreads requests over replicas needs a moment to hear of it. A second signal skips
that wait.
"""

import asyncio
import contextlib
import time

DRAINING = "draining"


class Readiness:
    """Owns the wish to stop. Made and used on one event loop."""

    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._asked = time.monotonic()

    def stop(self) -> None:
        """A signal came."""
        if self.stopping.is_set():
            self._hurry.set()
        self.stopping.set()

    def asked(self) -> None:
        """A request came that is no probe."""
        self._asked = time.monotonic()

    def reason(self) -> str:
        """Why the service is not ready; "" when it is, as far as its own wish goes."""
        return DRAINING if self.stopping.is_set() else ""

    async def quiet(self, seconds: float, longest: float) -> None:
        """Waits until no request has come for `seconds`, at most `longest`; not after a hurry."""
        end = time.monotonic() + longest
        began = time.monotonic()
        while not self._hurry.is_set():
            now = time.monotonic()
            left = min(max(self._asked, began) + seconds, end) - now
            if left <= 0:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._hurry.wait()

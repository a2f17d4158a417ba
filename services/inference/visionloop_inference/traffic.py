"""Which requests are under way, and the end of them: what a drain waits for.

Kubernetes takes a pod out of its endpoints and sends SIGTERM at the same time, so requests still
arrive for a while afterwards. A drain therefore says "not serving" first, serves on until no
request has come for a quiet moment, and only then closes the door.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from visionloop.telemetry import inference as metrics

LOOK_EVERY = 0.05  # seconds
# Closing a connection whose last answer is still on its way resets it (our end may hold frames of
# the client that nobody read), and the client loses the answer. So long it gets to read it.
LINGER = 0.3  # seconds


class Traffic:
    """Counts the requests under way. Health checks and reflection do not count."""

    def __init__(self) -> None:
        self.under_way = 0  # requests, those within streams included
        self.streams = 0  # that are open
        self.in_streams = 0  # requests within them
        self.closed = False  # new requests are turned away
        self._last_arrival = time.monotonic()
        self._gauge = metrics.INFLIGHT_REQUESTS.labels()

    def arrive(self) -> None:
        """A request came."""
        self._last_arrival = time.monotonic()
        self.under_way += 1
        self._gauge.set(self.under_way)

    def leave(self) -> None:
        """It was answered, or is lost to its caller."""
        self.under_way -= 1
        self._gauge.set(self.under_way)

    @property
    def calls(self) -> int:
        """Calls under way, a stream being one."""
        return self.under_way - self.in_streams + self.streams

    def stream(self) -> "Stream":
        """A stream began. Not it but the requests in it are under way: it may idle for hours."""
        self.streams += 1
        return Stream(self)

    async def quiet(self, seconds: float, longest: float) -> bool:
        """Waits until no request has come for `seconds` from now, but at most `longest`.

        True when it became quiet.
        """
        began = time.monotonic()
        while True:
            now = time.monotonic()
            if now - max(self._last_arrival, began) >= seconds:
                return True
            if now - began >= longest:
                return False
            await asyncio.sleep(min(LOOK_EVERY, seconds, longest))

    async def answered(self, longest: float) -> bool:
        """Waits until no request is under way and the last answers were read, at most `longest`.

        True when it came to that.
        """
        deadline = time.monotonic() + longest
        while self.under_way:
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(LOOK_EVERY)
        await asyncio.sleep(max(0.0, min(LINGER, deadline - time.monotonic())))
        return True


class Stream:
    """One open stream; each of its requests gets one answer."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self._under_way = 0

    async def requests(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """The requests, each counted as it is read."""
        async for request in requests:
            self._under_way += 1
            self._traffic.in_streams += 1
            self._traffic.arrive()
            yield request

    def answered(self) -> None:
        """An answer was sent."""
        if self._under_way:
            self._under_way -= 1
            self._traffic.in_streams -= 1
            self._traffic.leave()

    def close(self) -> None:
        """What was not answered never will be."""
        self._traffic.streams -= 1
        while self._under_way:
            self.answered()

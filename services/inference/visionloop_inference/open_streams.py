"""Streams that anybody may open, with a token or without: health's Watch, and reflection.

They stay open for as long as their callers like, and each takes memory, so only so many of a kind
are let in. Single questions (health's Check) have no part in this: a probe is answered however many
watch.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

MOST = 1024  # per front end; each replica of a client or proxy watches once


class OpenStreams:
    """Those of one kind in this process. Use it from the event loop."""

    def __init__(self, what: str, most: int = MOST) -> None:
        self._what = what
        self._most = most
        self._open = 0

    @asynccontextmanager
    async def one_more(self, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[None]:
        """Holds a place for the length of the block; ends the call where there is none."""
        if self._open >= self._most:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{self._open} streams of {self._what} are open, which is the limit; close some, "
                "or ask another replica",
            )
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1

"""How a call of grpc.aio ends in an error: its status, its words, and when to come back."""

import asyncio
from typing import Any, NoReturn
from urllib.parse import quote

import grpc
import grpc.aio

from visionloop.errors import OverloadedError, UnavailableError, VisionloopError

MAX_DETAILS = 4096  # bytes; gRPC's clients begin to refuse metadata above 8 KiB


async def abort(
    context: "grpc.aio.ServicerContext[Any, Any]",
    error: VisionloopError,
    *trailing: tuple[str, str],
) -> NoReturn:
    """Ends the RPC with the error's status; `trailing` is metadata that goes with it."""
    if isinstance(error, OverloadedError | UnavailableError) and error.retry_after_seconds:
        pushback = max(1, round(error.retry_after_seconds * 1000))
        trailing = (*trailing, ("grpc-retry-pushback-ms", str(pushback)))
    try:
        await context.abort(grpc.StatusCode[error.grpc_code], details(str(error)), trailing)
    except grpc.aio.InternalError as gone:
        # The caller has left meanwhile; grpc.aio would log a traceback of it.
        raise asyncio.CancelledError from gone


def details(message: str) -> str:
    """Cut to what fits a status on the wire, where other bytes than ASCII are three each.

    A message may quote what the caller sent; one too long would reach nobody: clients see
    RESOURCE_EXHAUSTED of gRPC's own instead.
    """
    kept = message[:MAX_DETAILS]
    while len(quote(kept, errors="replace")) > MAX_DETAILS:
        kept = kept[: len(kept) * 9 // 10]
    return kept if kept == message else kept + "…"

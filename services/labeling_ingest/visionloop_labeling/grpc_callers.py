"""Who calls an RPC, and whether they may: an interceptor before every handler.

The caller's token stands in the metadata `authorization`. Health and reflection are open. A stream
may outlive its caller's rights, so they are looked up again while it runs.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, NoReturn

import grpc
import grpc.aio

from visionloop import rpc_errors
from visionloop.errors import VisionloopError
from visionloop.rpc_handlers import Handler, around
from visionloop_labeling import permissions
from visionloop_labeling.auth import CALLER, Gate
from visionloop_labeling.permissions import Rule

LOOK_AGAIN_SECONDS: Final = 5.0

_Context = grpc.aio.ServicerContext[Any, Any]


class KnownCallers(grpc.aio.ServerInterceptor):
    """Give it to `grpc.aio.server(interceptors=…)`. Sets `auth.CALLER` for the handler."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], "Awaitable[Handler | None]"],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """The handler of this call behind the gate; None where there is no such method."""
        handler = await continuation(handler_call_details)
        rule = permissions.of_method(handler_call_details.method)
        if handler is None or rule.role is None:
            return handler
        guarded = self._stream if handler.response_streaming else self._answer
        return around(handler, lambda behaviour: guarded(rule, behaviour))

    def _answer(self, rule: Rule, behaviour: Any) -> Any:
        async def guarded(request: Any, context: _Context) -> Any:
            await self._admit(rule, context)
            return await behaviour(self._watched(request, rule, context), context)

        return guarded

    def _stream(self, rule: Rule, behaviour: Any) -> Any:
        async def guarded(request: Any, context: _Context) -> AsyncIterator[Any]:
            await self._admit(rule, context)
            async for response in behaviour(self._watched(request, rule, context), context):
                yield response

        return guarded

    def _watched(self, request: Any, rule: Rule, context: _Context) -> Any:
        if not hasattr(request, "__aiter__") or not self._gate.accounts:
            return request
        return self._still_known(request, rule, context)

    async def _still_known(
        self, requests: AsyncIterator[Any], rule: Rule, context: _Context
    ) -> AsyncIterator[Any]:
        looked = time.monotonic()
        async for request in requests:
            if time.monotonic() - looked > LOOK_AGAIN_SECONDS:
                looked = time.monotonic()
                await self._admit(rule, context)
            yield request

    async def _admit(self, rule: Rule, context: _Context) -> None:
        try:
            caller = (await self._gate.known(_authorization(context), "")).caller
            self._gate.admit(rule, caller)
        except VisionloopError as error:
            await abort(context, error)
        CALLER.set(caller)


async def abort(context: _Context, error: VisionloopError) -> NoReturn:
    """Ends the RPC with the error's status, and says its reason in a word."""
    await rpc_errors.abort(context, error, ("reason", error.reason))


def _authorization(context: _Context) -> str:
    for name, value in context.invocation_metadata() or ():
        if name == "authorization":
            return value if isinstance(value, str) else value.decode("utf-8", "replace")
    return ""

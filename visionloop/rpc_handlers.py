"""gRPC's four kinds of handlers, and one way to put something around any of them."""

from collections.abc import Callable
from typing import Any, TypeAlias

import grpc

# Generic in the type stubs only.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


def around(handler: Handler, wrapped: Callable[[Any], Any]) -> Handler:
    """The handler with `wrapped(behaviour)` as its behaviour, a function of the same kind."""
    requests = "stream" if handler.request_streaming else "unary"
    kind = f"{requests}_{'stream' if handler.response_streaming else 'unary'}"
    make = getattr(grpc, f"{kind}_rpc_method_handler")
    made: Handler = make(
        wrapped(getattr(handler, kind)), handler.request_deserializer, handler.response_serializer
    )
    return made

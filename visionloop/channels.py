"""How our clients reach a service: channel options, deadlines, and errors in the suite's words.

Nothing is retried here unless the caller asks for it: a call that fails is seen, and its deadline
is the caller's. (gRPC itself sends a call again when it knows that no server has seen it.) Needs
grpcio alone.
"""

import json
import re
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Protocol, runtime_checkable

import grpc

from visionloop.errors import (
    DeadlineExceededError,
    InvalidInputError,
    OverloadedError,
    UnavailableError,
    UnimplementedError,
    VisionloopError,
    error_for_grpc_code,
)

# gRPC's own limit of 4 MB is below one photograph. Requests are kept far below what the servers
# take; answers are small, but embeddings and masks of many images are not.
MAX_RECEIVE_BYTES = 128 * 2**20
MAX_REQUEST_BYTES = 32 * 2**20
MAX_RETRIED_BYTES = 64 * 2**20  # the largest message that a service takes

Options = Sequence[tuple[str, int | str]]


def channel_options(retries: int = 0, server_name: str = "") -> Options:
    """Options for one channel to a service.

    Calls go round robin over all addresses of a DNS name (a headless Kubernetes service). Pings are
    rare enough (5 minutes) for servers with default settings; with them set, an address that no
    longer acknowledges is given up after 10 seconds instead of the kernel's 15 minutes. `retries`
    is how often a call that was answered UNAVAILABLE is sent again, within its deadline.
    `server_name` is the name that the server's certificate must have, where the target has another
    one (a tunnel, `kubectl port-forward`).
    """
    method: dict[str, object] = {"name": [{}]}
    kept: Options = ()
    if retries:
        # What may be sent again is kept until it is answered; of more than 256 kB, gRPC's own
        # limit, nothing would be sent again, without a word.
        kept = (("grpc.per_rpc_retry_buffer_size", MAX_RETRIED_BYTES),)
        method["retryPolicy"] = {
            "maxAttempts": retries + 1,
            "initialBackoff": "0.1s",
            "maxBackoff": "1s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
    service = {"loadBalancingConfig": [{"round_robin": {}}], "methodConfig": [method]}
    named = (("grpc.ssl_target_name_override", server_name),) if server_name else ()
    return (
        *named,
        *kept,
        ("grpc.service_config", json.dumps(service)),
        ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
        ("grpc.max_send_message_length", -1),
        ("grpc.keepalive_time_ms", 300_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # Each channel has connections of its own, so several reach several server processes.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
    )


# gRPC takes them for the name of a host and says that it cannot be resolved.
_NO_SCHEMES = ("http://", "https://", "grpc://", "grpcs://")


def check_target(target: str, timeout: float) -> None:
    """Raises InvalidInputError for what no call could work with."""
    if not target or target.startswith(_NO_SCHEMES) or " " in target:
        raise InvalidInputError(
            f"target is {target!r}; it must be host:port or a gRPC name as dns:///host:port",
            field="target",
        )
    port = target.rpartition(":")[2]
    if port.isdecimal() and not 0 < int(port) <= 65535:
        raise InvalidInputError(
            f"target is {target!r}; its port must be 1 to 65535", field="target"
        )
    check_timeout(timeout)


def check_timeout(timeout: float) -> None:
    """Raises InvalidInputError unless a number of seconds above 0."""
    if not (isinstance(timeout, Real) and 0 < timeout < float("inf")):
        raise InvalidInputError(
            f"timeout is {timeout!r}; it must be a number of seconds above 0", field="timeout"
        )


def check_retries(retries: int) -> None:
    """Raises InvalidInputError outside of 0..4, the most that gRPC does."""
    if not 0 <= retries <= 4:
        raise InvalidInputError(f"retries is {retries}; it must be 0 to 4", field="retries")


def closed() -> InvalidInputError:
    """The error of a call on a closed client."""
    return InvalidInputError("the client is closed; make a new one", field="client")


def authorization(token: str | None) -> tuple[tuple[str, str], ...]:
    """The metadata of every call."""
    if token is None:
        return ()
    if not token or not all("!" <= character <= "~" for character in token):
        raise InvalidInputError(
            "token must be one or more visible ASCII characters without spaces", field="token"
        )
    return (("authorization", f"Bearer {token}"),)


@runtime_checkable
class _Finished(Protocol):
    """What the errors of grpc and of grpc.aio have in common, though they share no class."""

    def code(self) -> grpc.StatusCode: ...
    def details(self) -> str | None: ...
    def trailing_metadata(self) -> Iterable[tuple[str, str | bytes]] | None: ...


def error_from(error: grpc.RpcError, service: str, target: str, timeout: float) -> VisionloopError:
    """What a caller of ours sees instead of a gRPC error: the target, what happened, what to do."""
    code, details = "UNKNOWN", str(error)
    if isinstance(error, _Finished):
        code, details = error.code().name, error.details() or details
    where = f"the {service} service at {target}"
    if code == "UNAVAILABLE":
        return UnavailableError(_unavailable(where, details), retry_after_seconds=_pushback(error))
    if code == "DEADLINE_EXCEEDED":
        return DeadlineExceededError(
            f"{where} gave no answer within {timeout:g} s ({details}); "
            "try again, send less at once, or raise the timeout"
        )
    if code == "RESOURCE_EXHAUSTED" and _TOO_LARGE.search(details):
        # gRPC's code for it is that of an overload, but to come back later would not help.
        return InvalidInputError(
            f"{where} takes no message so large ({details}); send a smaller image, or fewer at "
            "once, or raise --max-message-bytes there",
            field="request",
        )
    if code == "RESOURCE_EXHAUSTED":
        return OverloadedError(
            f"{where} refused the call: {details}", retry_after_seconds=_pushback(error)
        )
    if code == "UNIMPLEMENTED" and _NO_METHOD.search(details):
        return UnimplementedError(
            f"{where} does not offer this call ({details}); "
            "is it the right program, and as new as this client?"
        )
    if code == "CANCELLED":
        # Not by the caller, whose own cancelling is no error here: a server that stops cuts off
        # what is under way when its time is over.
        return UnavailableError(f"{where} broke off the call ({details}); try again")
    if code in ("UNKNOWN", "INTERNAL", "DATA_LOSS"):
        return VisionloopError(f"{where} failed: {code.lower()}: {details}; its log says more")
    # Everything else is the service's own sentence about the request.
    return error_for_grpc_code(code, details)


# What gRPC's implementations, and other HTTP servers, say of a method that is not there.
_NO_METHOD = re.compile(
    r"^$|(method|service).*(not found|unimplemented)|unknown (method|service)|http", re.IGNORECASE
)
# What gRPC says of a certificate by a stranger, and of one with another name. It speaks of
# certificates, too, where the other side has no TLS at all.
_DISTRUSTED = re.compile(
    r"^(?!.*WRONG_VERSION_NUMBER).*(certificate|hostname verification)", re.IGNORECASE | re.DOTALL
)
_TOO_LARGE = re.compile(r"message larger than max")
_UNREACHABLE = ("connect", "dns", "resol", "refused", "unreachable", "http1", "handshak", "address")


def _unavailable(where: str, details: str) -> str:
    if _DISTRUSTED.search(details):
        return (
            f"{where} has a certificate that does not prove it ({details}); is it of an authority "
            "that you trust (--tls-ca, credentials), and does it hold this name "
            "(--tls-server-name, server_name)?"
        )
    if any(word in details.lower() for word in _UNREACHABLE):
        return (
            f"{where} cannot be reached ({details}); is it running, is the address right, and do "
            "both sides speak TLS, or neither?"
        )
    return f"{where} is not ready: {details}; try again"


def _pushback(error: grpc.RpcError) -> float | None:
    """Seconds that the server asks callers to wait."""
    if not isinstance(error, _Finished):
        return None
    for name, value in error.trailing_metadata() or ():
        if name == "grpc-retry-pushback-ms":
            try:
                return max(0.0, int(value) / 1000)
            except ValueError:
                return None
    return None

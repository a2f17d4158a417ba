"""What both clients of the inference service share: its address, deadlines, errors in our words."""

import itertools
from collections.abc import Callable

import grpc

from visionloop.channels import (
    authorization,
    channel_options,
    check_retries,
    check_target,
    check_timeout,
    closed,
    error_from,
)
from visionloop.errors import InvalidInputError, VisionloopError
from visionloop.proto.v1 import recognition_pb2_grpc

DEFAULT_TARGET = "127.0.0.1:8001"
DEFAULT_TIMEOUT = 10.0  # seconds
# Channels have a connection each. Two keep a small server busy while an answer is read, and reach
# two of its processes; a client that feeds a large server by itself wants one per front end.
DEFAULT_CHANNELS = 2
SERVICE = "inference"


class ClientBase:
    """One service, and the state of the client that calls it. `Client` tells what is taken."""

    def __init__(
        self,
        target: str,
        timeout: float,
        channels: int,
        retries: int,
        token: str | None,
        server_name: str,
    ) -> None:
        check_target(target, timeout)
        check_retries(retries)
        if channels < 1:
            raise InvalidInputError(
                f"channels is {channels}; it must be 1 or more", field="channels"
            )
        self.target = target
        self.timeout = timeout
        self._options = channel_options(retries, server_name)
        self._metadata = authorization(token)
        self._stubs: list[recognition_pb2_grpc.RecognitionStub] = []  # one for each channel
        self._turn = itertools.count()
        self._closed = False

    def _check_open(self) -> None:
        """Raises InvalidInputError where the client was closed."""
        if self._closed:
            raise closed()

    def _stub(self) -> recognition_pb2_grpc.RecognitionStub:
        """The channels' stubs in turn."""
        return self._stubs[next(self._turn) % len(self._stubs)]

    def _seconds(self, timeout: float | None) -> float:
        """A call's deadline: its own, or the client's. Raises InvalidInputError."""
        if timeout is None:
            return self.timeout
        check_timeout(timeout)
        return timeout

    def _failure(self, seconds: float | None) -> Callable[[BaseException], VisionloopError]:
        """What turns a failed call's exception into our error. `seconds` is its deadline."""

        def failure(error: BaseException) -> VisionloopError:
            if self._closed or not isinstance(error, grpc.RpcError):
                return closed()
            return error_from(error, SERVICE, self.target, seconds or 0.0)

        return failure

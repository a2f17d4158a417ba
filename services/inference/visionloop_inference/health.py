"""grpc.health.v1: Check and Watch for the server ("" and each gRPC service) and for each model.

The states are computed from what is true at the moment of asking, so they cannot go stale; `notify`
only wakes the watchers. (The servicer that comes with grpcio keeps one condition per name and drops
it when any of its watchers leaves, which leaves the others without news.)
"""

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from visionloop_inference.open_streams import OpenStreams

Context = grpc.aio.ServicerContext[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse]


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """`serving(name)` tells True or False, or None for a name nobody knows."""

    def __init__(self, serving: Callable[[str], bool | None]) -> None:
        self._serving = serving
        self._changed = asyncio.Event()
        self._closed = False
        self._watches = OpenStreams("health's Watch")

    def close(self) -> None:
        """Ends every Watch, which would otherwise hold the server's stop."""
        self._closed = True
        self.notify()

    def notify(self) -> None:
        """Something may have changed: every watcher looks again."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        serving = self._serving(request.service)
        if serving is None:
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"no service or model is named {request.service[:100]!r}"
            )
        return _response(serving)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        said: object = object()
        async with self._watches.one_more(context):
            while True:
                changed = self._changed  # taken before looking, so that no change falls in between
                serving = self._serving(request.service)
                if serving is not said:
                    said = serving
                    yield _response(serving)
                if self._closed:
                    return
                await changed.wait()


def _response(serving: bool | None) -> health_pb2.HealthCheckResponse:
    status = {
        True: health_pb2.HealthCheckResponse.SERVING,
        False: health_pb2.HealthCheckResponse.NOT_SERVING,
        None: health_pb2.HealthCheckResponse.SERVICE_UNKNOWN,
    }[serving]
    return health_pb2.HealthCheckResponse(status=status)

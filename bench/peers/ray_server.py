"""Ray Serve: its HTTP proxy, one replica with the graph, @serve.batch; raw bytes both ways."""

import signal
import threading

import numpy as np
import ray
from graph import DELAY_MS, MAX_BATCH, PORT, Graph, row_of
from ray import serve
from starlette.requests import Request
from starlette.responses import Response


@serve.deployment(num_replicas=1, max_ongoing_requests=1024, ray_actor_options={"num_cpus": 1})
class Served:
    """The graph as a deployment."""

    def __init__(self) -> None:
        self._graph = Graph()

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=DELAY_MS / 1000)
    async def infer(self, rows: list[np.ndarray]) -> list[bytes]:
        """One batch."""
        return [answer.tobytes() for answer in self._graph(np.stack(rows))]

    async def __call__(self, request: Request) -> Response:
        """One row."""
        row = row_of(await request.body())
        return Response(await self.infer(row), media_type="application/octet-stream")


if __name__ == "__main__":
    ray.init(include_dashboard=False, logging_level="warning")
    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    serve.run(Served.bind())
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    stop.wait()
    serve.shutdown()
    ray.shutdown()

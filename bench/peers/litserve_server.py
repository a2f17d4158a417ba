"""LitServe: FastAPI in front, one worker process with the graph, its batching on.

It takes JSON or forms only; a form with one file is the cheaper way for tensors.
"""

import litserve
import numpy as np
from fastapi import Request, Response
from graph import DELAY_MS, MAX_BATCH, PORT, Graph, row_of


class Served(litserve.LitAPI):
    """The graph as LitServe's API."""

    def setup(self, device: str) -> None:  # noqa: ARG002
        """In the worker."""
        self._graph = Graph()

    def decode_request(self, request: Request) -> np.ndarray:
        """One row. What comes is the form: the annotation only tells LitServe that it is one."""
        return row_of(request["request"].file.read())

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        """(n, *SHAPE)."""
        return np.stack(inputs)

    def predict(self, x: np.ndarray) -> np.ndarray:
        """One batch."""
        return self._graph(x)

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
        """One answer each."""
        return list(output)

    def encode_response(self, output: np.ndarray) -> Response:
        """Raw bytes."""
        return Response(output.tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    api = Served(max_batch_size=MAX_BATCH, batch_timeout=DELAY_MS / 1000)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=PORT, generate_client_file=False, log_level="warning")

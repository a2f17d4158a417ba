"""mosec: its Rust front, one worker process with the graph, raw bytes both ways.

A worker waits up to the delay for a full batch even when it is idle; 1 ms is the least it takes.
"""

import numpy as np
from graph import DELAY_MS, MAX_BATCH, Graph, row_of
from mosec import Server, Worker


class Served(Worker):
    """The graph as mosec's worker."""

    def __init__(self) -> None:
        super().__init__()
        self._graph = Graph()

    def deserialize(self, data: bytes) -> np.ndarray:
        """One row."""
        return row_of(data)

    def forward(self, data: list[np.ndarray]) -> list[np.ndarray]:
        """One batch."""
        return list(self._graph(np.stack(data)))

    def serialize(self, data: np.ndarray) -> bytes:
        """One answer."""
        return data.tobytes()


if __name__ == "__main__":
    server = Server()
    server.append_worker(
        Served, num=1, max_batch_size=MAX_BATCH, max_wait_time=max(1, int(DELAY_MS))
    )
    server.run()

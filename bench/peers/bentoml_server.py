"""BentoML: its HTTP server in one process, its adaptive batching on; a form with one file.

Started by its own command: bentoml serve bentoml_server:Served.
It refuses pickled arrays from outside, and a JSON array of an image is ten times its bytes.
"""

from pathlib import Path

import bentoml
import numpy as np
from graph import MAX_BATCH, Graph, row_of


@bentoml.service(workers=1, traffic={"timeout": 60})
class Served:
    """The graph as BentoML's service."""

    def __init__(self) -> None:
        self._graph = Graph()

    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH, max_latency_ms=60_000)
    def infer(self, row: list[Path]) -> np.ndarray:
        """One batch. The answer goes out as JSON: a batched call has no raw one."""
        return self._graph(np.stack([row_of(file.read_bytes()) for file in row]))

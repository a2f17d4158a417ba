"""What all peers share: the same file, the same session options, counted batches.

Settings come as environment variables, because some peers read the command line themselves:
BENCH_GRAPH (file), BENCH_MODEL (JSON: name, datatype, shape, outputs), BENCH_THREADS, BENCH_PORT,
BENCH_COUNTERS (folder), BENCH_MAX_BATCH, BENCH_DELAY_MS. Runs in every peer's venv: only the
standard library, numpy and onnxruntime.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

sys.path.insert(0, str(Path(__file__).parent))
from counters import Counters

MODEL: dict[str, Any] = json.loads(os.environ["BENCH_MODEL"])
NAME: str = MODEL["name"]
SHAPE: list[int] = MODEL["shape"]  # without the batch dimension
OUTPUTS: int = MODEL["outputs"]
DATATYPE: str = MODEL["datatype"]
DTYPE: type[np.generic] = {"UINT8": np.uint8, "FP32": np.float32}[DATATYPE]
PORT = int(os.environ["BENCH_PORT"])
MAX_BATCH = int(os.environ["BENCH_MAX_BATCH"])
DELAY_MS = float(os.environ["BENCH_DELAY_MS"])
INPUT, OUTPUT = "x", "y"


class Graph:
    """One session: rows (n, *SHAPE) -> (n, OUTPUTS) float32."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ["BENCH_THREADS"])
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.add_session_config_entry("session.intra_op.spin_duration_us", "20")
        self._session = onnxruntime.InferenceSession(
            os.environ["BENCH_GRAPH"], options, providers=["CPUExecutionProvider"]
        )
        self._counters = Counters(Path(os.environ["BENCH_COUNTERS"]))

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        self._counters.ran(len(rows))
        answer: np.ndarray = self._session.run([OUTPUT], {INPUT: rows})[0]
        return answer


def row_of(data: bytes) -> np.ndarray:
    """(*SHAPE) from the raw bytes of one row, as HTTP peers receive it."""
    return np.frombuffer(data, DTYPE).reshape(SHAPE)

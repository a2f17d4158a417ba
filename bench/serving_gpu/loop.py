"""The limit: onnxruntime on the GPU in a bare loop, in a process of its own.

    python -m bench.serving_gpu.loop GRAPH      commands on stdin, figures on stdout, JSON lines

Timed two ways: `carried` gives onnxruntime arrays and gets arrays, as anybody's loop does; with
`resident` the pixels are on the card already and stay there, which is the card's own limit.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime

from bench.serving.models import IMAGE
from visionloop_inference.providers import Target, session

BATCHES = (1, 8, 32, 64, 128, 256)
_FEWEST_RUNS = 5


class Loop:
    """The other side of the pipe."""

    def __init__(self, graph: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.serving_gpu.loop", str(graph)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def images_per_second(self, batch: int, seconds: float, *, resident: bool = False) -> float:
        """Of batches of this size."""
        process = self._process
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the loop has no pipe")
        command = {"batch": batch, "seconds": seconds, "resident": resident}
        process.stdin.write(json.dumps(command) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            raise RuntimeError("the loop of onnxruntime ended; its traceback is above")
        return float(answer)

    def close(self) -> None:
        """Ends the process, which gives the card's memory back."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()


def main() -> None:
    """Answers commands until stdin ends."""
    graph = Path(sys.argv[1])
    made = session(graph, Target("cuda", fp16=".fp16." in graph.name), threads=1)
    for line in sys.stdin:
        command = json.loads(line)
        run = (_resident if command["resident"] else _carried)(made, command["batch"])
        print(_rate(run, command["batch"], command["seconds"]), flush=True)


def _rows(batch: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    return np.random.default_rng(0).integers(0, 256, (batch, *IMAGE), np.uint8)


def _carried(made: onnxruntime.InferenceSession, batch: int) -> Callable[[], object]:
    feed = {made.get_inputs()[0].name: _rows(batch)}
    return lambda: made.run(None, feed)


def _resident(made: onnxruntime.InferenceSession, batch: int) -> Callable[[], object]:
    binding = made.io_binding()
    value = onnxruntime.OrtValue.ortvalue_from_numpy(_rows(batch), "cuda", 0)
    binding.bind_ortvalue_input(made.get_inputs()[0].name, value)
    binding.bind_output(made.get_outputs()[0].name, "cuda", 0)
    return lambda: made.run_with_iobinding(binding)


def _rate(run: Callable[[], object], batch: int, seconds: float) -> float:
    run()  # chooses kernels, allocates
    run()
    runs, began = 0, time.perf_counter()
    while (lap := time.perf_counter() - began) < seconds or runs < _FEWEST_RUNS:
        run()
        runs += 1
    return batch * runs / lap


if __name__ == "__main__":
    main()

"""The limits: onnxruntime in a bare loop, and the suite's image decoder in one.

    python -m bench.serving.limits GRAPH      commands on stdin, figures on stdout, JSON lines

Nothing a server does can be faster than the same graph in a loop that does nothing else. The loop
is a process that lives as long as a round needs it and sleeps in between. It tries one thread and
all cores for each batch size and keeps the faster; its threads wait for one another as in every
server here (`visionloop.onnx_threads`).
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from bench.serving.figures import percentile, rate_at
from bench.serving.models import SIDE
from bench.serving.processes import cores
from visionloop.images import decode
from visionloop.onnx_threads import WAITING
from visionloop.preprocessing import Preprocessing, Resize

TRIAL = 0.25  # seconds for each thread count
FEWEST_RUNS = 3
_DTYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}


@dataclass(frozen=True, slots=True)
class Limit:
    """A bare loop at one batch size."""

    batch: int
    threads: int
    images_per_second: float
    p50_ms: float  # of one run
    p99_ms: float
    cpu_s_per_image: float

    @property
    def seconds(self) -> float:
        """One run's."""
        return self.batch / self.images_per_second


@dataclass(frozen=True, slots=True)
class Limits:
    """The loop at several batch sizes, measured in one round."""

    by_batch: Mapping[int, Limit]

    def images_per_second(self, batch: float) -> float:
        """At a mean batch that need not be whole."""
        return rate_at({size: limit.seconds for size, limit in self.by_batch.items()}, batch)

    def cpu_s_per_image(self, batch: float) -> float:
        """At a mean batch that need not be whole."""
        costs = {size: limit.cpu_s_per_image * size for size, limit in self.by_batch.items()}
        return 1.0 / rate_at(costs, batch)


class LimitLoop:
    """The other side of the loop's pipe."""

    def __init__(self, graph: Path) -> None:
        self._threads: dict[int, int] = {}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.serving.limits", str(graph)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def measure(self, batches: set[int], seconds: float) -> Limits:
        """Each batch size for `seconds`."""
        return Limits({batch: self._one(batch, seconds) for batch in sorted(batches)})

    def decoding(self, files: Sequence[Path], seconds: float) -> Limit:
        """Encoded images to the graph's pixels, on all cores; batch is 1."""
        command = {"files": [str(file) for file in files], "threads": cores(), "seconds": seconds}
        return self._ask(command)

    def close(self) -> None:
        """Ends the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()

    def _one(self, batch: int, seconds: float) -> Limit:
        if batch not in self._threads:
            trials = [
                self._ask({"batch": batch, "threads": threads, "seconds": TRIAL})
                for threads in sorted({1, cores()})
            ]
            self._threads[batch] = max(trials, key=lambda trial: trial.images_per_second).threads
        return self._ask({"batch": batch, "threads": self._threads[batch], "seconds": seconds})

    def _ask(self, command: dict[str, Any]) -> Limit:
        process = self._process
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the loop has no pipe")
        process.stdin.write(json.dumps(command) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            raise RuntimeError("the loop of onnxruntime ended; its traceback is above")
        return Limit(**json.loads(answer))


def preprocessing() -> Preprocessing:
    """What the classifier's bundle says: any image to SIDE x SIDE."""
    return Preprocessing(
        steps=[Resize(height=SIDE, width=SIDE)],
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )


def session(graph: str, threads: int) -> onnxruntime.InferenceSession:
    """A session as every server here makes it: so many threads, and how they wait."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    for key, value in WAITING.items():
        options.add_session_config_entry(key, value)
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def main() -> None:
    """Answers commands until stdin ends."""
    graph = sys.argv[1]
    sessions = cache(lambda threads: session(graph, threads))
    for line in sys.stdin:
        command = json.loads(line)
        if "files" in command:
            limit = _decode(command)
        else:
            limit = _run(sessions(command["threads"]), command)
        print(json.dumps(asdict(limit)), flush=True)


def _run(loaded: onnxruntime.InferenceSession, command: dict[str, Any]) -> Limit:
    spec = loaded.get_inputs()[0]
    random = np.random.default_rng(0)
    rows = random.integers(0, 256, (command["batch"], *spec.shape[1:]))
    feed = {spec.name: rows.astype(_DTYPES[spec.type])}
    names = [output.name for output in loaded.get_outputs()]
    return _loop(lambda: loaded.run(names, feed), command["batch"], command)


def _decode(command: dict[str, Any]) -> Limit:
    data = [Path(file).read_bytes() for file in command["files"]]
    prepare = preprocessing()
    with ThreadPoolExecutor(command["threads"]) as pool:
        limit = _loop(
            lambda: list(pool.map(lambda image: prepare(decode(image)), data)), len(data), command
        )
    return Limit(**{**asdict(limit), "batch": 1})


def _loop(run: Callable[[], object], images: int, command: dict[str, Any]) -> Limit:
    run()  # the first run of a shape allocates
    laps: list[float] = []
    cpu, began = time.process_time(), time.perf_counter()
    last = began
    while last - began < command["seconds"] or len(laps) < FEWEST_RUNS:
        run()
        now = time.perf_counter()
        laps.append(now - last)
        last = now
    done = images * len(laps)
    return Limit(
        batch=images,
        threads=command["threads"],
        images_per_second=done / (last - began),
        p50_ms=1000 * percentile(laps, 50),
        p99_ms=1000 * percentile(laps, 99),
        cpu_s_per_image=(time.process_time() - cpu) / done,
    )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()

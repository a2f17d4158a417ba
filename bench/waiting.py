"""How onnxruntime's threads wait, on free cores and on crowded ones: what a run takes and costs.

    python -m bench.waiting [--batches 1 2 8] [--rounds 12]           # two minutes

MobileNet v3 (small, random weights, uint8 in) on all cores, four ways: threads that sleep, threads
that spin for 20 microseconds (`visionloop.onnx_threads`), threads that spin as long as a run lasts,
and onnxruntime's own default, which spins on for a while after it. The ways take turns, eight runs
each, a millisecond apart, each in a process of its own. Then all of it again beside a busy program
for each core. Printed are medians and 90th percentiles of a run's milliseconds, CPU milliseconds a
run with what is spun after it, and the median's ratio to the sleeping threads'.
build/bench/waiting.json holds the same.
"""

import argparse
import json
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import onnxruntime

from bench.serving.figures import median, percentile
from bench.serving.graphs import write_model
from bench.serving.models import INPUT, MODELS
from bench.serving.processes import cores
from visionloop.onnx_threads import WAITING

RUNS = 8  # in a turn
APART = 0.001  # seconds between two
WAYS: Mapping[str, Mapping[str, str]] = {
    "asleep": {"session.intra_op.allow_spinning": "0"},
    "20 us": WAITING,
    "within a run": {"session.force_spinning_stop": "1"},
    "default": {},
}
_session: onnxruntime.InferenceSession


def load(graph: Path, way: str) -> None:
    """In a process of its own."""
    global _session
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    options.inter_op_num_threads = 1
    for key, value in WAYS[way].items():
        options.add_session_config_entry(key, value)
    _session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def turn(batch: int) -> tuple[list[float], float]:
    """Seconds of each run, and CPU seconds of all, with what the threads spin after them."""
    rows = np.zeros((batch, *MODELS["mobilenet_v3_small"].shape), np.uint8)
    took, before = [], time.process_time()
    for _ in range(RUNS):
        began = time.perf_counter()
        _session.run(None, {INPUT: rows})
        took.append(time.perf_counter() - began)
        time.sleep(APART)
    return took, time.process_time() - before


@contextmanager
def busy_programs(count: int) -> Iterator[None]:
    """So many that never rest."""
    programs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def measure(graph: Path, batches: list[int], rounds: int) -> list[dict[str, object]]:
    """A row for each way and batch."""
    spawn = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        ways = {
            way: stack.enter_context(
                ProcessPoolExecutor(1, spawn, initializer=load, initargs=(graph, way))
            )
            for way in WAYS
        }
        rows: list[dict[str, object]] = []
        for batch in batches:
            took: dict[str, list[float]] = {way: [] for way in ways}
            cpu = dict.fromkeys(ways, 0.0)
            for number in range(rounds + 1):
                for way, process in ways.items():
                    seconds, used = process.submit(turn, batch).result()
                    if number:  # the first warms up
                        took[way] += seconds
                        cpu[way] += used
            asleep = median(took["asleep"])
            rows += [
                {
                    "batch": batch,
                    "threads wait": way,
                    "p50_ms": round(1000 * median(seconds), 2),
                    "p90_ms": round(1000 * percentile(seconds, 90), 2),
                    "cpu_ms": round(1000 * cpu[way] / len(seconds), 2),
                    "to asleep": round(median(seconds) / asleep, 2),
                }
                for way, seconds in took.items()
            ]
    return rows


def main() -> int:
    """Prints both tables."""
    parser = argparse.ArgumentParser(prog="python -m bench.waiting")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 8])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--output", type=Path, default=Path("build/bench"))
    options = parser.parse_args()
    graph = write_model(MODELS["mobilenet_v3_small"], options.output / "models")
    document = {}
    for name, programs in (("free", 0), ("crowded", cores())):
        with busy_programs(programs):
            rows = measure(graph, options.batches, options.rounds)
        document[name] = rows
        print(f"{name} cores ({cores()})")
        print("".join(f"{title:>13}" for title in rows[0]))
        for row in rows:
            print("".join(f"{value!s:>13}" for value in row.values()), flush=True)
    (options.output / "waiting.json").write_text(json.dumps(document, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

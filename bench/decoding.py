"""Decoding in processes beside decoding in threads: one connection, 20 kB JPEGs, a tiny graph.

    python -m bench.decoding [--count 2] [--seconds 4] [--pairs 7]

Two services serve the same classifier, whose graph only averages the pixels: one front end with so
many decoding threads, and one with so many decoding processes. They take turns under the same load
(one connection, 16 callers); a pair is a turn of each. Printed: images/s, CPU seconds of the whole
tree of processes for 1,000 images, and memory, for each, and the medians of the ratios within the
pairs. On a machine where the callers take a good part of the cores, rates say little; CPU does.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bench.serving.bundles import CLASSIFIER, PROBABILITIES, publish_classifier
from bench.serving.figures import median
from bench.serving.generator import CALLERS_PER_CHANNEL
from bench.serving.load import Window, run
from bench.serving.models import CLASSES, IMAGE, INPUT, Model
from bench.serving.pictures import write_pictures
from bench.serving.subjects import Service, Serving
from bench.serving.workloads import Images

JPEG_BYTES = 20_000
KINDS = ("threads", "processes")


def write_graph(path: Path) -> None:
    """The mean colour, as probabilities (n, CLASSES)."""
    random = np.random.default_rng(7)
    weight = random.normal(size=(3, CLASSES)).astype(np.float32) / 100
    nodes = [
        helper.make_node("Cast", [INPUT], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["colour"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["colour", "weight"], ["logits"]),
        helper.make_node("Softmax", ["logits"], [PROBABILITIES], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["n", *IMAGE])],
        [helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, ["n", CLASSES])],
        [numpy_helper.from_array(weight, "weight")],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))


class Side:
    """One of the two services, started and proven to answer truly."""

    def __init__(self, kind: str, count: int, folder: Path, workload: Images) -> None:
        processes = count if kind == "processes" else 0
        flags = (
            "--front-ends=1", f"--decode-threads={count}", f"--decode-processes={processes}",
            "--threads=1",
        )  # fmt: skip
        scratch = folder / kind
        scratch.mkdir()
        self._workload = workload
        self._service = Service(workload.scratch.as_uri() + "/store", scratch, flags=flags)
        self._serving: Serving = self._service.start(workload.model, workload.graph, scratch)
        workload.wait(self._service, self._serving)
        self.windows: list[Window] = []

    def turn(self, seconds: float) -> Window:
        """So many seconds of load."""
        load = self._workload.command(self._service, self._serving, CALLERS_PER_CHANNEL, seconds)
        done = run(load.argv, self._serving, seconds)
        window = done.window(load.read(done.output))
        if window.errors:
            raise SystemExit(f"errors: {window.problems}")
        return window

    def stop(self) -> None:
        """Ends it."""
        self._serving.program.stop()


def main() -> int:
    """Prints a line for each turn, and the medians."""
    parser = argparse.ArgumentParser(prog="python -m bench.decoding")
    parser.add_argument("--count", type=int, default=2, help="threads, and processes (2)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of load in a turn (4)")
    parser.add_argument("--pairs", type=int, default=7, help="of turns (7)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-decoding-") as made:
        folder = Path(made)
        (folder / "store").mkdir()
        graph = folder / "tiny.onnx"
        write_graph(graph)
        pictures = write_pictures(folder / "jpeg", JPEG_BYTES)
        publish_classifier(graph, pictures, f"{folder.as_uri()}/store")
        model = Model(CLASSIFIER, "UINT8", IMAGE, CLASSES, one_thread=True)
        workload = Images("jpeg20k", model, graph, folder, pictures=tuple(pictures))
        sides = {kind: Side(kind, options.count, folder, workload) for kind in KINDS}
        try:
            for side in sides.values():
                side.turn(1.0)  # does not count
            for number in range(options.pairs):
                for kind in KINDS if number % 2 else reversed(KINDS):
                    window = sides[kind].turn(options.seconds)
                    sides[kind].windows.append(window)
                    say(kind, window)
        finally:
            for side in sides.values():
                side.stop()
    told = zip(*(sides[kind].windows for kind in KINDS), strict=True)
    pairs = [(t, p) for t, p in told]
    rates = [p.images_per_second / t.images_per_second for t, p in pairs]
    costs = [p.cpu_s_per_image / t.cpu_s_per_image for t, p in pairs]
    print(f"processes by threads: images/s {median(rates):.2f} ({min(rates):.2f} to "
          f"{max(rates):.2f}), CPU an image {median(costs):.2f} ({min(costs):.2f} to "
          f"{max(costs):.2f})")  # fmt: skip
    return 0


def say(kind: str, window: Window) -> None:
    """One line."""
    print(
        f"{kind:9}  {window.images_per_second:7.1f} images/s  "
        f"{1e3 * window.cpu_s_per_image:6.3f} CPU s for 1,000  p50 {window.p50_ms:5.1f} ms  "
        f"p99 {window.p99_ms:5.1f} ms  {window.rss / 2**20:5.0f} MB  "
        f"others {window.other_cores:.2f} cores",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())

"""Decoding in processes beside decoding in threads: one connection, 20 kB JPEGs, a tiny graph.

    python -m bench.decoding [--count 2] [--callers 16] [--seconds 4] [--pairs 7]

Two services serve the same classifier, whose graph only averages the pixels: one front end with so
many decoding threads, and one with so many decoding processes. They take turns under the same load
(one connection, 16 callers, every answer compared); a pair is a turn of each. For each turn it
prints images/s, CPU seconds of the whole tree of processes for 1,000 images, and memory; then the
medians of the ratios within the pairs. Where callers take a good part of the cores, rates say
little; CPU does.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Turn:
    """What was seen in one."""

    window: Window
    cpu_s_per_1000: float  # images

    @property
    def images_per_second(self) -> float:
        return self.window.images_per_second


class Side:
    """One of the two services, started and proven to answer truly."""

    def __init__(self, kind: str, options: argparse.Namespace, folder: Path, sent: Images) -> None:
        processes = options.count if kind == "processes" else 0
        flags = (
            "--front-ends=1", "--threads=1", f"--decode-threads={options.count}",
            f"--decode-processes={processes}",
        )  # fmt: skip
        scratch = folder / kind
        scratch.mkdir()
        self.kind = kind
        self.turns: list[Turn] = []
        self._options, self._sent = options, sent
        self._service = Service((folder / "store").as_uri(), scratch, flags=flags)
        self._serving: Serving = self._service.start(sent.model, sent.graph, scratch)
        sent.wait(self._service, self._serving)
        while self._serving.program.log.read_text().count("is up") < processes:
            time.sleep(0.01)

    def turn(self, seconds: float) -> Turn:
        """So many seconds of load. CPU is that of all its answers, warm-up included: so it does not
        depend on when the machine had time for it."""
        callers = self._options.callers
        load = self._sent.command(self._service, self._serving, callers, seconds)
        cpu, (rows, _) = self._serving.program.usage().cpu, self._serving.batches()
        done = run(load.argv, self._serving, seconds)
        cpu = self._serving.program.usage().cpu - cpu
        window = done.window(load.read(done.output))
        if window.errors:
            raise SystemExit(f"errors: {window.problems}")
        return Turn(window, 1000 * cpu / (self._serving.batches()[0] - rows))

    def counted_turn(self) -> None:
        """One that counts; prints its line."""
        turn = self.turn(self._options.seconds)
        self.turns.append(turn)
        window = turn.window
        print(
            f"{self.kind:9}  {window.images_per_second:6.1f} images/s  "
            f"{turn.cpu_s_per_1000:6.3f} CPU s for 1,000  p50 {window.p50_ms:5.1f} ms  "
            f"p99 {window.p99_ms:5.1f} ms  {window.rss / 2**20:4.0f} MB  "
            f"others {window.other_cores:.2f} cores",
            flush=True,
        )

    def stop(self) -> None:
        """Ends it."""
        self._serving.program.stop()


def measure(options: argparse.Namespace, folder: Path) -> list[Side]:
    """Both, after their turns."""
    (folder / "store").mkdir()
    graph = folder / "tiny.onnx"
    write_graph(graph)
    pictures = write_pictures(folder / "jpeg", JPEG_BYTES)
    publish_classifier(graph, pictures, (folder / "store").as_uri())
    model = Model(CLASSIFIER, "UINT8", IMAGE, CLASSES, one_thread=True)
    sent = Images("jpeg20k", model, graph, folder, pictures=tuple(pictures))
    sides: list[Side] = []
    try:
        for kind in KINDS:
            sides.append(Side(kind, options, folder, sent))  # noqa: PERF401 — stopped if one fails
        for side in sides:
            side.turn(1.0)  # does not count
        for number in range(options.pairs):
            for side in sides if number % 2 else reversed(sides):
                side.counted_turn()
    finally:
        for side in sides:
            side.stop()
    return sides


def main() -> int:
    """Prints a line for each turn, and the medians of the ratios."""
    parser = argparse.ArgumentParser(prog="python -m bench.decoding")
    add = parser.add_argument
    add("--count", type=int, default=2, help="threads, and processes (2)")
    add("--callers", type=int, default=CALLERS_PER_CHANNEL, help="on the one connection (16)")
    add("--seconds", type=float, default=4.0, help="of load in a turn (4)")
    add("--pairs", type=int, default=7, help="of turns (7)")
    with tempfile.TemporaryDirectory(prefix="bench-decoding-") as made:
        threads, processes = measure(parser.parse_args(), Path(made))
    pairs = list(zip(threads.turns, processes.turns, strict=True))
    for what, ratios in (
        ("images/s", [p.images_per_second / t.images_per_second for t, p in pairs]),
        ("CPU an image", [p.cpu_s_per_1000 / t.cpu_s_per_1000 for t, p in pairs]),
    ):
        low, high = min(ratios), max(ratios)
        print(f"processes by threads, {what}: {median(ratios):.2f} ({low:.2f} to {high:.2f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())

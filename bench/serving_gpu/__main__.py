"""`make bench-serving-gpu`: ResNet-50 on the GPU, served and bare; writes serving_gpu.json.

    python -m bench.serving_gpu [--seconds 3] [--rounds 3]

A round times the bare loop at its best batch, then each case of the service; `ratio` is the median
over the rounds of one by the other. Tensors are uint8 pixels in raw_input_contents; JPEG files go
through the suite's decoder, whose own limit (all cores, nothing else) is timed as well. Callers run
on the same cores as the service. Exit code 0 means that it ran: figures are read by people.
"""

import argparse
import json
import sys
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from tritonclient.grpc import service_pb2 as infer_pb

from bench.serving.bundles import CLASSIFIER
from bench.serving.figures import median
from bench.serving.generator import Plan
from bench.serving.models import CLASSES, IMAGE, INPUT, Model
from bench.serving.pictures import write_pictures
from bench.serving.processes import cores
from bench.serving.subjects import GRPC_PATH, RECOGNIZE_PATH, Service, Serving
from bench.serving_gpu import decoding
from bench.serving_gpu.graphs import GRAPH, HALF, publish, write_graphs
from bench.serving_gpu.load import Answered, send
from bench.serving_gpu.loop import BATCHES, Loop
from visionloop.doctor.accelerators import gpu_name
from visionloop.proto.v1 import recognition_pb2 as pb

OUTPUT = Path("build/bench")
GENERATORS = 6  # processes
JPEG_BYTES = 20_000


@dataclass(frozen=True, slots=True)
class Case:
    """A kind of request: images in each, requests under way at once."""

    name: str
    rows: int
    concurrency: int
    jpeg: bool = False


CASES = (
    Case("pixels, 1 image a request", 1, 384),
    Case("pixels, 8 images a request", 8, 96),
    Case("pixels, 32 images a request", 32, 24),
    Case(f"JPEG {JPEG_BYTES // 1000} kB, 1 image a request", 1, 384, jpeg=True),
    Case(f"JPEG {JPEG_BYTES // 1000} kB, 8 images a request", 8, 96, jpeg=True),
)


class Bench:
    """One run."""

    def __init__(
        self, seconds: float, rounds: int, instances: list[int], flags: tuple[str, ...]
    ) -> None:
        self._seconds, self._rounds, self._instances = seconds, rounds, instances
        self._flags = flags
        self._folder = (OUTPUT / "serving_gpu").absolute()
        self._graphs = self._folder / "graphs"
        self._store = f"file://{self._folder}/store"
        (self._folder / "store").mkdir(parents=True, exist_ok=True)
        self._pictures = write_pictures(self._folder / "jpeg", JPEG_BYTES)
        self._found: dict[str, Any] = {"gpu": gpu_name(), "cores": cores()}

    def run(self) -> None:
        """Limits, then the service with each number of instances."""
        write_graphs(self._graphs)
        publish(self._graphs, self._pictures[:8], self._store)
        self._limits()
        best = max(self._found["fp16"]["carried"].items(), key=lambda item: item[1])
        self._found["best_batch"] = int(best[0])
        for instances in self._instances:
            self._served(instances)
            self._write()

    def _limits(self) -> None:
        for name, graph in (("fp32", GRAPH), ("fp16", HALF)):
            with closing(Loop(self._graphs / graph)) as loop:
                self._found[name] = {
                    kind: {
                        str(batch): loop.images_per_second(batch, 1.0, resident=kind == "resident")
                        for batch in BATCHES
                    }
                    for kind in ("carried", "resident")
                }
            self._say(name, self._found[name])
        self._found["decoding"] = decoding.images_per_second(self._pictures, self._seconds)
        self._say("decoding", self._found["decoding"])

    def _served(self, instances: int) -> None:
        flags = (
            "--provider", "cuda", "--max-batch", "128", "--queue-rows", "2048", "--instances",
            str(instances), *self._flags,
        )  # fmt: skip
        service = Service(self._store, self._folder / "cache", flags=flags)
        model = Model(CLASSIFIER, "UINT8", IMAGE, CLASSES, one_thread=False)
        folder = self._folder / f"run-{instances}"
        folder.mkdir(exist_ok=True)
        (folder / "ready.json").unlink(missing_ok=True)
        serving = service.start(model, self._graphs, folder)
        try:
            self._wait(serving)
            with closing(Loop(self._graphs / HALF)) as loop:
                rounds = [self._round(loop, serving) for _ in range(self._rounds)]
        finally:
            metrics = httpx.get(serving.metrics).text if not serving.program.ended else ""
            (self._folder / f"metrics-{instances}.txt").write_text(metrics)
            serving.program.stop()
        self._found[f"instances={instances}"] = {
            case.name: self._row(case, [found[case.name] for found in rounds]) for case in CASES
        }

    def _wait(self, serving: Serving) -> None:
        """Until it serves."""
        end = time.monotonic() + 120
        while httpx.get(serving.metrics.replace("/metrics", "/readyz")).status_code != 200:
            if serving.program.ended or time.monotonic() > end:
                raise SystemExit(f"the service is not ready: {serving.program.last_words()}")
            time.sleep(0.1)

    def _round(self, loop: Loop, serving: Serving) -> dict[str, tuple[float, Answered]]:
        found = {}
        for case in CASES:
            limit = loop.images_per_second(self._found["best_batch"], 1.0)
            plan = self._plan(case, serving)
            answered = send(plan, case.rows, serving, self._folder, GENERATORS)
            found[case.name] = (limit, answered)
            self._say(case.name, {"limit": limit, **asdict(answered)})
        return found

    def _plan(self, case: Case, serving: Serving) -> Plan:
        bodies = [
            self._recognize(case, number) if case.jpeg else self._infer(case, number)
            for number in range(4)
        ]
        files = []
        for number, body in enumerate(bodies):
            file = self._folder / f"body-{number}"
            file.write_bytes(body)
            files.append(str(file))
        path = RECOGNIZE_PATH if case.jpeg else GRPC_PATH
        return Plan("grpc", serving.target, path, files, case.concurrency, self._seconds)

    def _recognize(self, case: Case, number: int) -> bytes:
        pictures = [
            self._pictures[(number * case.rows + place) % len(self._pictures)].read_bytes()
            for place in range(case.rows)
        ]
        request = pb.RecognizeRequest(
            model=CLASSIFIER, images=[pb.EncodedImage(data=data) for data in pictures], top_k=5
        )
        return request.SerializeToString()

    def _infer(self, case: Case, number: int) -> bytes:
        pixels = np.random.default_rng(number).integers(0, 256, (case.rows, *IMAGE), np.uint8)
        request = infer_pb.ModelInferRequest(model_name=CLASSIFIER)
        request.inputs.add(name=INPUT, datatype="UINT8", shape=pixels.shape)
        request.raw_input_contents.append(pixels.tobytes())
        body: bytes = request.SerializeToString()
        return body

    def _row(self, case: Case, seen: list[tuple[float, Answered]]) -> dict[str, Any]:
        limits = [min(limit, self._found["decoding"]) if case.jpeg else limit for limit, _ in seen]
        return {
            "images_per_second": median([answered.images_per_second for _, answered in seen]),
            "ratio": median(
                [a.images_per_second / limit for limit, (_, a) in zip(limits, seen, strict=True)]
            ),
            "rounds": [{"limit": limit, **asdict(answered)} for limit, answered in seen],
        }

    def _write(self) -> None:
        (OUTPUT / "serving_gpu.json").write_text(json.dumps(self._found, indent=2) + "\n")

    def _say(self, what: str, found: object) -> None:
        print(f"{what}: {json.dumps(found)}", file=sys.stderr, flush=True)


def main() -> int:
    """Prints a line for each case."""
    parser = argparse.ArgumentParser(prog="python -m bench.serving_gpu")
    parser.add_argument("--seconds", type=float, default=3.0, help="of load in a round (3)")
    parser.add_argument("--rounds", type=int, default=3, help="of each case (3)")
    parser.add_argument("--instances", type=int, nargs="+", default=[1, 2], help="runners (1 2)")
    parser.add_argument("--flags", default="", help="more flags of visionloop-inference")
    options = parser.parse_args()
    if not gpu_name():
        print("bench-serving-gpu: there is no NVIDIA GPU here", file=sys.stderr)
        return 1
    flags = tuple(options.flags.split())
    Bench(options.seconds, options.rounds, options.instances, flags).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())

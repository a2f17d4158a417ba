"""What the way from a front end to a runner and back costs, beside bare onnxruntime.

    python -m bench.link

One process plays the front end (a RunnerLink in uvloop), another is a real runner with one thread.
For a graph that does next to nothing and one that reads 150 kB of pixels, with 1, 16 and 64 jobs in
flight: CPU microseconds per job of both processes, of onnxruntime alone at the same batch in this
process, and the difference. CPU time is that of the process (front end) and of the runner's one
thread, from the kernel's scheduler; the least of five rounds, because other work on the machine
only ever adds. The rows `spread` are tiny as a gRPC server has it: requests come one by one, each
after four turns of the loop with 160 us of other work, which are played and left out. Bare
onnxruntime reads the same warm array again and again; a runner reads what another core has just
written, which for 150 kB is a good part of the difference.
"""

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from socket import socketpair

import numpy as np
import onnxruntime
import uvloop
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from visionloop.bundle import Source, TensorsBundle, WarmUp
from visionloop.repository import file_entry
from visionloop.signature import TensorSpec
from visionloop_inference.control import Control
from visionloop_inference.datatypes import Tensor
from visionloop_inference.rows import Arena
from visionloop_inference.runner_link import RunnerLink

Load = Callable[[Callable[[], Awaitable[object]], int, int], Awaitable[float]]

ROUNDS = 5
IN_FLIGHT = (1, 16, 64)
MAX_BATCH = 64
TURNS, WORK = 4, 40e-6  # of the loop for each request that comes, and seconds of work in each
ARENA = 64 * 2**20  # bytes


def write_bundle(
    folder: Path, nodes: Sequence[NodeProto], pixels: TensorSpec, out: TensorSpec
) -> TensorsBundle:
    """A bundle around a graph x -> y with the constant `two`."""
    kind = {"UINT8": TensorProto.UINT8, "FP32": TensorProto.FLOAT}[pixels.datatype]
    graph = helper.make_graph(
        list(nodes),
        "bench",
        [helper.make_tensor_value_info("x", kind, ["n", *pixels.shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", *out.shape])],
        [numpy_helper.from_array(np.asarray([2.0], np.float32), "two")],
    )
    opset = [helper.make_opsetid("", 17)]
    path = folder / "model.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    )
    bundle = TensorsBundle(
        model="bench",
        version=1,
        created=datetime.now(UTC),
        inputs=[pixels],
        outputs=[out],
        batched=True,
        warm_up=WarmUp(shapes=[pixels.shape], value=0),
        source=Source(
            file=path.name,
            run_id="bench",
            who="bench",
            why="bench",
            producer="",
            batching="by hand",
        ),
        files={path.name: file_entry(path)},
    )
    (folder / "bundle.json").write_text(bundle.model_dump_json())
    return bundle


class Runner:
    """A runner's process that has loaded a bundle."""

    def __init__(self, folder: Path) -> None:
        self.control, theirs = Control.pair()
        fd = theirs.fileno()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "visionloop_inference.runner_process", str(fd)],
            pass_fds=[fd],
            stderr=subprocess.DEVNULL,
        )
        theirs.close()
        load = {"do": "load", "folder": str(folder), "threads": 1, "max_batch": MAX_BATCH}
        self.control.send(load)
        for _ in ("loaded", "tested"):
            received = self.control.receive()
            if received is None or received[0]["said"] == "refused":
                raise RuntimeError(f"the runner did not load: {received}")

    def link(self, bundle: TensorsBundle) -> RunnerLink:
        """Call it in an event loop."""
        ours, theirs = socketpair()
        arena = Arena.create(ARENA)
        self.control.send({"do": "link", "front_end": 0}, [theirs.fileno(), arena.fd])
        theirs.close()
        return RunnerLink(ours, arena, bundle.signature, lambda _: None)

    def cpu_seconds(self) -> float:
        """CPU time of its one thread so far."""
        return int(Path(f"/proc/{self._process.pid}/schedstat").read_text().split()[0]) / 1e9

    def close(self) -> None:
        self.control.close()
        self._process.wait()


def work() -> None:
    """Keeps this thread busy for WORK seconds."""
    end = time.thread_time() + WORK
    while time.thread_time() < end:
        pass


async def together(run: Callable[[], Awaitable[object]], in_flight: int, jobs: int) -> float:
    """Callers that each ask again at once. Seconds of CPU here that are none of the jobs'."""

    async def caller() -> None:
        for _ in range(jobs // in_flight):
            await run()

    await asyncio.gather(*(caller() for _ in range(in_flight)))
    return 0.0


async def spread(run: Callable[[], Awaitable[object]], in_flight: int, jobs: int) -> float:
    """As many in flight, but they come one by one, as a gRPC server takes them in."""
    free = asyncio.Semaphore(in_flight)

    async def request() -> None:
        await run()
        free.release()

    async with asyncio.TaskGroup() as requests:
        for _ in range(jobs):
            await free.acquire()
            for _ in range(TURNS):
                work()
                await asyncio.sleep(0)
            requests.create_task(request())
    return jobs * TURNS * WORK


async def measure(
    runner: Runner,
    bundle: TensorsBundle,
    row: NDArray[np.generic],
    load: Load,
    in_flight: int,
    jobs: int,
) -> tuple[float, float, int]:
    """Least CPU seconds per job of the front end and of the runner, and the batch limit."""
    link = runner.link(bundle)
    tensor = Tensor(bundle.inputs[0].datatype, row.shape, row.tobytes())

    def run() -> Awaitable[object]:
        return link.run([tensor], 1, None)

    found = []
    jobs -= jobs % in_flight
    await load(run, in_flight, jobs // 10 // in_flight * in_flight)
    for _ in range(ROUNDS):
        runner_before, before = runner.cpu_seconds(), time.process_time()
        played = await load(run, in_flight, jobs)
        front = time.process_time() - before - played
        back = runner.cpu_seconds() - runner_before
        found.append((front + back, front, back))
    batch = link.batch
    link.close()
    _, front, back = min(found)
    return front / jobs, back / jobs, batch


def bare(folder: Path, row: NDArray[np.generic], batch: int, jobs: int) -> float:
    """Least CPU seconds per row of onnxruntime alone."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # the pool graph does not use `two`
    session = onnxruntime.InferenceSession(
        str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    rows = np.repeat(row, batch, 0)
    runs = max(20, jobs // batch // 4)
    found = []
    for _ in range(ROUNDS):
        before = time.process_time()
        for _ in range(runs):
            session.run(["y"], {"x": rows})
        found.append((time.process_time() - before) / runs / batch)
    return min(found)


def main() -> int:
    """Prints the table."""
    multiply = [helper.make_node("Mul", ["x", "two"], ["y"])]
    pool = [
        helper.make_node("Cast", ["x"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["y"], axes=[1, 2], keepdims=0),
    ]
    cases = {
        "tiny": (multiply, "FP32", [4], [4], together, 12_800),
        "spread": (multiply, "FP32", [4], [4], spread, 1_920),
        "pool": (pool, "UINT8", [224, 224, 3], [3], together, 1_920),
    }
    print("model   in flight  front us  runner us  bare us (batch)   over us")
    for name, (nodes, datatype, shape, out, load, jobs) in cases.items():
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            bundle = write_bundle(
                folder,
                nodes,
                TensorSpec(name="x", datatype=datatype, shape=shape),  # type: ignore[arg-type]
                TensorSpec(name="y", datatype="FP32", shape=out),
            )
            row = np.ones((1, *shape), np.uint8 if datatype == "UINT8" else np.float32)
            runner = Runner(folder)
            for in_flight in IN_FLIGHT:
                front, back, limit = uvloop.run(measure(runner, bundle, row, load, in_flight, jobs))
                batch = min(in_flight, limit)
                alone = bare(folder, row, batch, jobs)
                print(
                    f"{name:6}  {in_flight:9}  {1e6 * front:8.1f}  {1e6 * back:9.1f}  "
                    f"{1e6 * alone:7.1f} ({batch:3})  {1e6 * (front + back - alone):10.1f}"
                )
            runner.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

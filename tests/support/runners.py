"""Runners for tests: a bundle of any small graph, and a runner on it as a thread or a process.

with running(tensor_bundle(tmp_path, model), kind="process") as runner:
    async with runner.connected() as link:
        answer = await link.run([tensor(x)], rows=1, deadline=None)
"""

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from visionloop.bundle import Bundle, Source, TensorsBundle, WarmUp
from visionloop.repository import file_entry
from visionloop.signature import Signature, TensorSpec
from visionloop_inference.control import Control, Message
from visionloop_inference.datatypes import DATATYPES, Answer, Tensor
from visionloop_inference.rows import Arena
from visionloop_inference.runner import serve
from visionloop_inference.runner_link import RunnerLink
from visionloop_inference.strings import write_strings

ONNX_TYPES = {
    "BOOL": TensorProto.BOOL, "UINT8": TensorProto.UINT8, "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32, "UINT64": TensorProto.UINT64, "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16, "INT32": TensorProto.INT32, "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16, "FP32": TensorProto.FLOAT, "FP64": TensorProto.DOUBLE,
    "BF16": TensorProto.BFLOAT16, "BYTES": TensorProto.STRING,
}  # fmt: skip
Spec = tuple[str, str, list[int]]  # name, datatype, shape without the batch dimension


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Spec],
    outputs: Sequence[Spec],
    *,
    batched: bool = True,
    constants: dict[str, NDArray[Any]] | None = None,
) -> tuple[bytes, Signature]:
    """A graph and its signature; sizes of -1 are free."""

    def info(spec: Spec) -> onnx.ValueInfoProto:
        name, datatype, shape = spec
        sizes = [f"{name}_{at}" if size < 0 else size for at, size in enumerate(shape)]
        return helper.make_tensor_value_info(
            name, ONNX_TYPES[datatype], [*(["n"] if batched else []), *sizes]
        )

    graph = helper.make_graph(
        list(nodes),
        "small",
        [info(spec) for spec in inputs],
        [info(spec) for spec in outputs],
        [onnx.numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    signature = Signature(
        inputs=tuple(TensorSpec(name=n, datatype=d, shape=s) for n, d, s in inputs),
        outputs=tuple(TensorSpec(name=n, datatype=d, shape=s) for n, d, s in outputs),
        batched=batched,
    )
    return made.SerializeToString(), signature


def tiny() -> tuple[bytes, Signature]:
    """y = 2 x + 1 on rows of 4 float32."""
    return model(
        [
            helper.make_node("Mul", ["x", "two"], ["d"]),
            helper.make_node("Add", ["d", "one"], ["y"]),
        ],
        [("x", "FP32", [4])],
        [("y", "FP32", [4])],
        constants={"two": np.float32(2), "one": np.float32(1)},
    )


def tensor_bundle(folder: Path, made: tuple[bytes, Signature], name: str = "small") -> Bundle:
    """Writes a bundle of plain tensors into `folder`, as a repository's fetch leaves it."""
    data, signature = made
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(data)
    bundle = TensorsBundle(
        model=name,
        version=1,
        created=datetime.now(UTC),
        inputs=list(signature.inputs),
        outputs=list(signature.outputs),
        batched=signature.batched,
        warm_up=WarmUp(
            shapes=[[max(size, 1) for size in spec.shape] for spec in signature.inputs], value=0
        ),
        source=Source(
            file="small.onnx",
            run_id="test",
            who="a test",
            why="to run it",
            producer="",
            batching="as said",
        ),
        files={"model.onnx": file_entry(folder / "model.onnx")},
    )
    (folder / "bundle.json").write_text(bundle.model_dump_json())
    return bundle


def tensor(array: NDArray[Any], datatype: str = "") -> Tensor:
    """An array as it travels; the datatype is the array's unless given (BF16)."""
    if array.dtype.hasobject:
        return Tensor("BYTES", array.shape, write_strings(array))
    names = [name for name, known in DATATYPES.items() if known.numpy == array.dtype]
    return Tensor(datatype or names[0], array.shape, array.tobytes())


def output(answer: Answer, name: str = "y") -> NDArray[Any]:
    """One output as an array."""
    return answer.outputs[name].array


class RunningRunner:
    """A runner that has loaded; `said` keeps what it said on the way."""

    def __init__(self, control: Control, process: subprocess.Popen[bytes] | None) -> None:
        self.control = control
        self.process = process
        self.said: dict[str, Message] = {}
        self._fronts = 0
        self.signature: Signature

    def hear(self) -> Message | None:
        """The next message; None when the runner is gone."""
        received = self.control.receive()
        if received is not None:
            self.said[received[0]["said"]] = received[0]
        return None if received is None else received[0]

    def ends(self, size: int = 2**22) -> tuple[socket.socket, Arena]:
        """A raw link to the runner: the front end's socket and arena."""
        ours, theirs = socket.socketpair()
        arena = Arena.create(size)
        self._fronts += 1
        with theirs:
            self.control.send(
                {"do": "link", "front_end": self._fronts}, [theirs.fileno(), arena.fd]
            )
        return ours, arena

    @contextlib.asynccontextmanager
    async def connected(self, size: int = 2**22) -> AsyncIterator[RunnerLink]:
        """A link in the running event loop."""
        lost: list[RunnerLink] = []
        link = RunnerLink(*self.ends(size), self.signature, lost.append)
        try:
            yield link
        finally:
            link.close()


def start(
    bundle: Bundle, folder: Path, kind: str = "thread", **options: Any
) -> tuple[RunningRunner, threading.Thread | None]:
    """Starts a runner and sends `load`; what it says is still to be heard."""
    ours, theirs = Control.pair()
    process = thread = None
    if kind == "process":
        fd = theirs.fileno()
        process = subprocess.Popen(
            [sys.executable, "-m", "visionloop_inference.runner_process", str(fd)],
            pass_fds=[fd],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        theirs.close()
    else:
        thread = threading.Thread(target=serve, args=[theirs], daemon=True)
        thread.start()
    runner = RunningRunner(ours, process)
    runner.signature = bundle.signature
    ours.send({"do": "load", "folder": str(folder), "threads": 1, "max_batch": 8, **options})
    return runner, thread


@contextlib.contextmanager
def running(
    bundle: Bundle, folder: Path, kind: str = "thread", **options: Any
) -> Iterator[RunningRunner]:
    """A loaded runner of either kind; it is gone at the end, without being killed."""
    runner, thread = start(bundle, folder, kind, **options)
    try:
        for _ in range(2):
            heard = runner.hear()
            assert heard is not None, "the runner died while it loaded"
            assert heard["said"] != "refused", heard
        yield runner
    finally:
        runner.control.close()
        if thread is not None:
            thread.join(timeout=60)
            assert not thread.is_alive(), "the runner did not end with its control channel"
        if runner.process is not None:
            runner.process.wait(timeout=60)

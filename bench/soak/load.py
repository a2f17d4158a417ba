"""Callers as a process of their own: python -m bench.soak.load PLAN

Sends ModelInfer with one row each, and writes a line for each answer as it comes: when it was sent
and how long it took (seconds), the version that answered, which row, the best class and its
probability. A call that fails has its status instead. With a rate it is open loop: a slow answer
holds back no other call. With rate 0 it is closed loop, `in_flight` calls at once. It ends when its
standard input does, after its last answer. A call that was turned away waits as long as the server
asks for (grpc-retry-pushback-ms), or longer each time where it says nothing.
"""

import asyncio
import json
import random
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from visionloop.proto.inference import open_inference_pb2 as pb

METHOD = "/inference.GRPCInferenceService/ModelInfer"
PATIENCE = 30.0  # seconds; only a lost answer takes so long
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 1.0  # seconds between two tries


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send. `rows` is a .npy file, (n, …): each call carries one of them."""

    target: str
    model: str
    rows: str
    input: str
    output: str
    rate: float = 0.0
    in_flight: int = 16
    connections: int = 2
    retry: bool = False  # calls that failed are made again until they are answered

    def write(self, path: Path) -> Path:
        path.write_text(json.dumps(asdict(self)))
        return path


@dataclass(frozen=True, slots=True)
class Call:
    """One line. `status` is "OK" or a gRPC status; what the answer says is there for OK only."""

    sent: float  # time.monotonic(), which all processes of a machine share
    seconds: float
    status: str
    row: int
    version: int = 0
    best: int = -1
    probability: float = 0.0
    details: str = ""

    @property
    def answered(self) -> float:
        """When the answer came."""
        return self.sent + self.seconds


def parse(line: str) -> Call:
    """A line of this program."""
    return Call(**json.loads(line))


class Caller:
    """The calls of one plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        rows = np.load(plan.rows)
        self._requests = [_request(plan, row).SerializeToString() for row in rows]
        self._sent = 0
        self._stop = asyncio.Event()

    async def run(self) -> None:
        plan = self._plan
        # Connections of their own: by default, channels to one target share one.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        channels = [
            grpc.aio.insecure_channel(plan.target, options=options) for _ in range(plan.connections)
        ]
        calls: list[Any] = [channel.unary_unary(METHOD) for channel in channels]
        watching = asyncio.create_task(self._watch())
        if plan.rate:
            await self._open(calls)
        else:
            await asyncio.gather(
                *(self._closed(calls[i % len(calls)]) for i in range(plan.in_flight))
            )
        await watching
        for channel in channels:
            await channel.close()

    async def _watch(self) -> None:
        await asyncio.to_thread(sys.stdin.read)
        self._stop.set()

    async def _open(self, calls: list[Any]) -> None:
        under_way: set[asyncio.Task[None]] = set()
        began = time.monotonic()
        while not self._stop.is_set():
            task = asyncio.create_task(self._one(calls[self._sent % len(calls)]))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            due = began + self._sent / self._plan.rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        await asyncio.gather(*under_way)

    async def _closed(self, call: Any) -> None:
        while not self._stop.is_set():
            await self._one(call)

    async def _one(self, call: Any) -> None:
        row = self._sent % len(self._requests)
        self._sent += 1
        pause = FIRST_PAUSE
        while True:
            sent = time.monotonic()
            try:
                data = await call(self._requests[row], timeout=PATIENCE)
            except grpc.aio.AioRpcError as error:
                status = error.code().name
                _say(
                    Call(sent, time.monotonic() - sent, status, row, details=error.details() or "")
                )
                await asyncio.sleep(_pushback(error) or pause * random.uniform(0.5, 1.5))  # noqa: S311
                pause = min(2 * pause, LONGEST_PAUSE)
                if self._plan.retry and not self._stop.is_set():
                    continue
                return
            version, best, probability = self._read(data)
            took = time.monotonic() - sent
            _say(Call(sent, took, "OK", row, version, best, probability))
            return

    def _read(self, data: bytes) -> tuple[int, int, float]:
        answer = pb.ModelInferResponse.FromString(data)
        place = [output.name for output in answer.outputs].index(self._plan.output)
        values: NDArray[np.float32] = np.frombuffer(answer.raw_output_contents[place], np.float32)
        best = int(values.argmax())
        return int(answer.model_version), best, float(values[best])


def _request(plan: Plan, row: NDArray[np.uint8]) -> pb.ModelInferRequest:
    made = pb.ModelInferRequest(model_name=plan.model)
    made.inputs.add(name=plan.input, datatype="UINT8", shape=[1, *row.shape])
    made.outputs.add(name=plan.output)
    made.raw_input_contents.append(row.tobytes())
    return made


def _pushback(error: grpc.aio.AioRpcError) -> float | None:
    """Seconds that the server asks for."""
    for name, value in error.trailing_metadata() or ():
        if name == "grpc-retry-pushback-ms":
            return int(value) / 1000
    return None


def _say(call: Call) -> None:
    sys.stdout.write(json.dumps(asdict(call)) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(Caller(Plan(**json.loads(Path(sys.argv[1]).read_text()))).run())

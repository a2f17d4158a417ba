"""Our own load generator: a closed loop of N callers over gRPC or HTTP, in a process of its own.

    python -m bench.serving.generator PLAN.json

It sends ready-made bytes and reads no answer beyond its status, so it costs little: about 0.1 ms of
CPU for a gRPC call, 0.04 ms for HTTP. NVIDIA's perf_analyzer costs half of that over gRPC, so it is
preferred there; this one is for what perf_analyzer does not speak: peers on plain HTTP, and encoded
images through visionloop.v1.Recognition. Prints BEGINS when the clock starts, and at its end one
JSON object (`Outcome`).
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, cast

import grpc
import uvloop

from bench.serving.figures import percentile
from visionloop.proto.v1 import recognition_pb2 as pb

CALLERS_PER_CHANNEL = 16
BEGINS = "begins"
WARM_UP = 0.25  # seconds before the clock starts
SAME = 1e-3  # largest difference of a probability that counts as the same answer

Call = Callable[[int], Awaitable[bytes]]  # sends the body of this number, gives the answer


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send where. `bodies` are files; callers send them in turn."""

    protocol: str  # grpc or http
    target: str
    path: str
    bodies: list[str]
    concurrency: int
    seconds: float
    content_type: str = "application/octet-stream"
    # Answers of Recognize without its mistakes, one file for each body: every answer is compared.
    expected: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Answers inside the measured time, and what went wrong in words (the first few)."""

    answers: int
    seconds: float
    p50_ms: float
    p99_ms: float
    errors: int
    problems: list[str]


class Callers:
    """N callers that each send the next request when the last is answered."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._bodies = [Path(name).read_bytes() for name in plan.bodies]
        self._expected = [
            pb.RecognizeResponse.FromString(Path(name).read_bytes()) for name in plan.expected
        ]
        self._numbers = count()
        self._latencies: list[float] = []  # seconds
        self._problems: list[str] = []
        self._errors = 0

    async def run(self) -> Outcome:
        """Sends for the warm-up and the plan's seconds."""
        plan = self._plan
        async with AsyncExitStack() as stack:
            calls = await self._calls(stack)
            begin = time.perf_counter() + WARM_UP
            end = begin + plan.seconds
            asyncio.get_running_loop().call_later(WARM_UP, partial(print, BEGINS, flush=True))
            await asyncio.gather(*(self._caller(call, begin, end) for call in calls))
        latencies = self._latencies or [float("nan")]
        return Outcome(
            answers=len(self._latencies),
            seconds=plan.seconds,
            p50_ms=1000 * percentile(latencies, 50),
            p99_ms=1000 * percentile(latencies, 99),
            errors=self._errors,
            problems=self._problems,
        )

    async def _caller(self, call: Call, begin: float, end: float) -> None:
        while (sent := time.perf_counter()) < end:
            index = next(self._numbers) % len(self._bodies)
            try:
                answer = await call(index)
                problem = self._difference(index, answer) if self._expected else ""
            except (grpc.aio.AioRpcError, OSError, ValueError) as error:
                problem = " ".join(str(error).split())
            now = time.perf_counter()
            if problem:
                self._errors += 1
                if len(self._problems) < 3:
                    self._problems.append(problem)
                await asyncio.sleep(0.01)
            elif begin <= now < end:
                self._latencies.append(now - sent)

    def _difference(self, index: int, answer: bytes) -> str:
        expected = self._expected[index].results
        got = pb.RecognizeResponse.FromString(answer).results
        if len(expected) != len(got):
            return f"{len(got)} results for {len(expected)} images"
        return next(filter(None, map(_differs, expected, got)), "")

    async def _calls(self, stack: AsyncExitStack) -> Sequence[Call]:
        plan = self._plan
        if plan.protocol == "http":
            return [await self._http(stack) for _ in range(plan.concurrency)]
        channels = [
            await stack.enter_async_context(
                grpc.aio.insecure_channel(
                    plan.target,
                    options=[
                        ("grpc.use_local_subchannel_pool", 1),  # a connection for each channel
                        ("grpc.max_receive_message_length", -1),
                    ],
                )
            )
            for _ in range(-(-plan.concurrency // CALLERS_PER_CHANNEL))
        ]
        return [self._grpc(channels[i % len(channels)]) for i in range(plan.concurrency)]

    def _grpc(self, channel: grpc.aio.Channel) -> Call:
        method: Any = channel.unary_unary(self._plan.path)  # bytes in, bytes out

        async def call(index: int) -> bytes:
            answer: bytes = await method(self._bodies[index])
            return answer

        return call

    async def _http(self, stack: AsyncExitStack) -> Call:
        plan = self._plan
        host, _, port = plan.target.rpartition(":")
        loop = asyncio.get_running_loop()
        transport, connection = await loop.create_connection(HttpConnection, host, int(port))
        stack.callback(transport.close)
        heads = [
            f"POST {plan.path} HTTP/1.1\r\nHost: {plan.target}\r\n"
            f"Content-Type: {plan.content_type}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            for body in self._bodies
        ]

        async def call(index: int) -> bytes:
            return await connection.exchange(heads[index] + self._bodies[index])

        return call


def _differs(expected: pb.ImageResult, got: pb.ImageResult) -> str:
    if expected.status.code != got.status.code:
        return f"status {got.status.code} {got.status.message!r}, not {expected.status.code}"
    best = zip(expected.classification.labels[:1], got.classification.labels[:1], strict=True)
    for wanted, label in best:
        if wanted.class_id != label.class_id or abs(wanted.probability - label.probability) > SAME:
            return (
                f"{label.class_id} with {label.probability:.4f}, "
                f"not {wanted.class_id} with {wanted.probability:.4f}"
            )
    return ""


class HttpConnection(asyncio.Protocol):
    """One kept-alive HTTP/1.1 connection: a request, its answer, the next request."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[bytes] | None = None
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is of another class

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio's."""
        self._transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionError("the server closed the connection"))

    async def exchange(self, request: bytes) -> bytes:
        """The answer's body. Raises OSError, and ValueError for a status that is not 200."""
        if self._transport is None:
            raise ConnectionError("the server closed the connection")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        """asyncio's."""
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0 or self._answer is None or self._answer.done():
            return
        head = bytes(self._received[:end])
        length = content_length(head)
        if length is None:
            self._answer.set_exception(ValueError("an answer without Content-Length"))
        elif len(self._received) >= end + 4 + length:
            body = bytes(self._received[end + 4 : end + 4 + length])
            del self._received[: end + 4 + length]
            if head.split(b" ", 2)[1] == b"200":
                self._answer.set_result(body)
            else:
                status = head.split(b"\r\n", 1)[0].decode(errors="replace")
                self._answer.set_exception(ValueError(f"{status}: {body[:200]!r}"))


def content_length(head: bytes) -> int | None:
    """Of a response head; None when it has none (chunked answers are not understood)."""
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    return None


def main() -> None:
    """Runs the plan named on the command line."""
    plan = Plan(**json.loads(Path(sys.argv[1]).read_text()))
    print(json.dumps(asdict(uvloop.run(Callers(plan).run()))))


if __name__ == "__main__":
    main()

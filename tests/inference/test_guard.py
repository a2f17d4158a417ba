"""What stands around every call: the bound on their number, and errors that fit a status."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from support.waiting import until

from visionloop.telemetry import inference as metrics
from visionloop.telemetry.metrics import values
from visionloop_inference.access_log import AccessLog
from visionloop_inference.auth import Gate
from visionloop_inference.guard import Guard
from visionloop_inference.traffic import Traffic

LIMIT = 3
SERVICE = "test.Waiting"


def refused() -> float:
    """Calls that were turned away for their number, in this process."""
    return values()[metrics.REJECTED.metric.name].get(("concurrency",), [0.0])[0]


class Waiting:
    """`Ask` and `Stream` answer what they got, once `go` is set."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.traffic = Traffic()
        settings: Any = SimpleNamespace(max_concurrent_requests=LIMIT, tokens=None)
        guard = Guard(self.traffic, Gate(None, loopback=True), AccessLog(0.0), settings)
        asked = grpc.unary_unary_rpc_method_handler(self._ask)
        streamed = grpc.stream_stream_rpc_method_handler(self._stream)
        self.handlers = {
            "Ask": guard.around(f"/{SERVICE}/Ask", asked, raw=True),
            "Stream": guard.around(f"/{SERVICE}/Stream", streamed, raw=True),
        }

    async def _ask(self, request: bytes, _context: object) -> bytes:
        await self.go.wait()
        return request

    async def _stream(
        self, requests: AsyncIterator[bytes], _context: object
    ) -> AsyncIterator[bytes]:
        got = [request async for request in requests]
        await self.go.wait()
        for request in got:
            yield request


def play(scenario: Callable[[Waiting, grpc.aio.Channel], Awaitable[None]]) -> None:
    async def run() -> None:
        waiting = Waiting()
        server = grpc.aio.server()
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, waiting.handlers),)
        )
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                await scenario(waiting, channel)
        finally:
            waiting.go.set()
            await server.stop(0)

    asyncio.run(asyncio.wait_for(run(), 60))


def test_calls_above_the_bound_are_refused_and_counted() -> None:
    async def scenario(waiting: Waiting, channel: grpc.aio.Channel) -> None:
        ask = channel.unary_unary(f"/{SERVICE}/Ask")
        before = refused()
        calls = [asyncio.ensure_future(ask(b"x")) for _ in range(LIMIT)]
        await until(lambda: waiting.traffic.under_way == LIMIT)
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await ask(b"y")
        assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert f"{LIMIT + 1} calls are under way and the limit is {LIMIT}" in (
            refusal.value.details() or ""
        )
        assert dict(refusal.value.trailing_metadata() or ())["grpc-retry-pushback-ms"]
        assert refused() == before + 1
        waiting.go.set()
        assert await asyncio.gather(*calls) == [b"x"] * LIMIT
        assert await ask(b"z") == b"z"  # there is room again
        assert waiting.traffic.calls == 0

    play(scenario)


def test_a_stream_is_one_call_however_many_requests_are_in_it() -> None:
    async def scenario(waiting: Waiting, channel: grpc.aio.Channel) -> None:
        sent = [b"%d" % number for number in range(2 * LIMIT)]
        stream = channel.stream_stream(f"/{SERVICE}/Stream")(iter(sent))
        await until(lambda: waiting.traffic.under_way == len(sent))
        call = asyncio.ensure_future(channel.unary_unary(f"/{SERVICE}/Ask")(b"x"))
        await until(lambda: waiting.traffic.under_way == len(sent) + 1)
        assert waiting.traffic.calls == 2
        waiting.go.set()
        assert await call == b"x"
        assert [answer async for answer in stream] == sent
        await until(lambda: waiting.traffic.calls == waiting.traffic.under_way == 0)

    play(scenario)

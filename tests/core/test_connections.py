"""Connections of an HTTP port: bounded, and silent ones make room for who asks."""

import asyncio
import contextlib
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from support.certificates import authority, signed

from visionloop.connections import (
    TURNED_AWAY,
    Connection,
    Connections,
    Listener,
    Stage,
    most_connections,
)

Scenario = Callable[[], Awaitable[None]]


@pytest.fixture(params=["asyncio", "uvloop"])
def play(request: pytest.FixtureRequest) -> Callable[[Scenario], None]:
    """Runs a scenario on the loop of the programs, and on Python's own."""

    def run(scenario: Scenario) -> None:
        factory = uvloop.new_event_loop if request.param == "uvloop" else None
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(asyncio.wait_for(scenario(), 30))

    return run


class Echo(asyncio.Protocol):
    """Gives back what comes; a line that begins with B or A is a body, or is being answered."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def connection_made(self, transport: Any) -> None:  # uvloop's is no asyncio.Transport
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.connection.heard()
        stages = {b"B": Stage.BODY, b"A": Stage.ANSWER}
        self.connection.reach(stages.get(data[:1], Stage.SILENT))
        self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.connection.leave()


class Caller:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def say(self, data: bytes) -> bytes:
        """What comes back; nothing from a connection that has ended."""
        with contextlib.suppress(ConnectionError):
            self.writer.write(data)
            return await self.reader.read(1000)
        return b""

    async def cut_off(self) -> bool:
        with contextlib.suppress(ConnectionError):
            return await self.reader.read(1000) == b""
        return True


@asynccontextmanager
async def listening(
    limit: int, server: ssl.SSLContext | None = None, client: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[Connections, Callable[[], Awaitable[Caller]], int]]:
    connections = Connections(limit)
    bound = socket.create_server(("127.0.0.1", 0))
    port = bound.getsockname()[1]
    listener = Listener([bound], Echo, connections, server)
    listener.start()
    callers: list[Caller] = []

    async def call() -> Caller:
        name = "localhost" if client else None
        opened = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname=name)
        callers.append(Caller(*opened))
        return callers[-1]

    try:
        yield connections, call, port
    finally:
        listener.close()
        for caller in callers:
            caller.writer.close()


def test_who_is_silent_for_longest_makes_room(play: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        async with listening(3) as (connections, call, _):
            one, two, three = await call(), await call(), await call()
            for caller in (three, two, one):  # three is silent for longest now
                assert await caller.say(b"hello") == b"hello"
            four = await call()
            assert await four.say(b"me, too") == b"me, too"
            assert await three.cut_off()
            assert await one.say(b"still here") == b"still here"
            assert await two.say(b"still here") == b"still here"
            assert len(connections) == 3

    play(scenario)


def test_a_body_is_cut_off_only_where_nobody_is_silent_and_an_answer_never(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario() -> None:
        async with listening(3) as (connections, call, _):
            answered, body, silent = await call(), await call(), await call()
            assert [await answered.say(b"A"), await body.say(b"B"), await silent.say(b"s")]
            assert await (await call()).say(b"A") == b"A"
            assert await silent.cut_off()
            assert await (await call()).say(b"A") == b"A"
            assert await body.cut_off()
            turned_away = await call()
            assert await turned_away.reader.read() == TURNED_AWAY
            assert TURNED_AWAY.startswith(b"HTTP/1.1 503 ")
            assert await answered.say(b"A") == b"A"
            assert len(connections) == 3

    play(scenario)


def test_places_come_back(play: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        async with listening(2) as (_, call, _):
            for _ in range(10):
                caller = await call()
                assert await caller.say(b"A") == b"A"
                caller.writer.close()
                assert await caller.cut_off()  # its end was seen, and answered by one

    play(scenario)


def test_handshakes_that_never_end_make_room_too(
    play: Callable[[Scenario], None], tmp_path: Path
) -> None:
    ca = authority(tmp_path)
    pair = signed(tmp_path, "server", ca)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pair.certificate, pair.key)
    client = ssl.create_default_context(cafile=str(ca.certificate))

    async def scenario() -> None:
        async with listening(3, server, client) as (connections, call, port):
            dumb = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
            caller = await call()
            assert await caller.say(b"A") == b"A"
            assert len(connections) <= 3
            assert await Caller(*dumb[0]).cut_off()
            for _, writer in dumb:
                writer.close()

    play(scenario)


def test_the_bound_is_below_what_the_process_may_open() -> None:
    program = (
        "import resource, visionloop.connections as c; "
        "resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400)); print(c.most_connections())"
    )
    made = asyncio.run(_output(program))
    assert made == b"200\n"
    assert 16 <= most_connections() <= 1000


async def _output(program: str) -> bytes:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE
    )
    return (await process.communicate())[0]

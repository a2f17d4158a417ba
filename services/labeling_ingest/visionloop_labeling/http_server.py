"""uvicorn as one of several servers of this program, and patient only for so long.

uvicorn waits for ever for the head of a request and for a caller who does not read its answer; both
hold a connection for nothing. Here the head of a request has 10 seconds, and an answer that the
other side does not take for 60 seconds ends with the connection. (Slow bodies are the business of
`api.guards`, which knows how much is coming.) The price is one timer per request. uvicorn's limit
of connections answers 503 to everybody while idle ones fill it; here those make room
(`visionloop.connections`).
"""

import asyncio
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from socket import socket
from typing import Any, Final

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from visionloop.connections import Connection, Connections, Listener, Stage, most_connections

HEAD_SECONDS: Final = 10.0
ANSWER_SECONDS: Final = 60.0
KEEP_ALIVE_SECONDS: Final = 75


class HttpServer(uvicorn.Server):
    """Serves on a bound socket; signals are the program's, not its own."""

    def __init__(
        self,
        api: FastAPI,
        bound: socket,
        drain_seconds: float,
        *,
        tls: ssl.SSLContext | None = None,
        trusted_proxies: Sequence[str] = (),
    ) -> None:
        """`trusted_proxies` are the addresses whose X-Forwarded-For and -Proto are believed."""
        config = uvicorn.Config(
            api,
            http=_PatientProtocol,
            ws="none",
            log_config=None,
            access_log=False,
            lifespan="off",
            log_level="error",  # its warnings are of what strangers send
            server_header=False,
            proxy_headers=bool(trusted_proxies),
            forwarded_allow_ips=list(trusted_proxies),
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=max(1, int(drain_seconds)),
        )
        config.load()
        super().__init__(config)
        self._bound = bound
        self._listener = Listener([bound], self._exchange, Connections(most_connections()), tls)
        self._running: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port of the socket."""
        return int(self._bound.getsockname()[1])

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals alone."""
        yield

    async def start(self) -> None:
        """Returns once it accepts connections."""
        self._running = asyncio.create_task(self.serve(sockets=[self._bound]))
        while not self.started:
            await asyncio.sleep(0.01)
            if self._running.done():
                await self._running

    async def startup(self, sockets: list[socket] | None = None) -> None:  # noqa: ARG002
        """uvicorn's, with a listener of ours."""
        await self.lifespan.startup()
        self.servers = []
        self._listener.start()
        self.started = True

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """uvicorn's, after the last connection was accepted."""
        self._listener.close()
        await super().shutdown(sockets)

    def _exchange(self, connection: Connection) -> asyncio.Protocol:
        protocol = _PatientProtocol(self.config, self.server_state, self.lifespan.state)
        protocol.connection = connection
        return protocol

    async def stop(self) -> None:
        """Finishes open requests, within the drain time."""
        self.should_exit = True
        if self._running is not None:
            await self._running


class _PatientProtocol(H11Protocol):
    """One connection, with a timer for the head and one for the answer."""

    connection: Connection
    _head: asyncio.TimerHandle | None = None
    _answer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head, self._answer = _cancelled(self._head), _cancelled(self._answer)
        self.connection.leave()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self.connection.heard()
        if self._head is None and (self.cycle is None or self.cycle.response_complete):
            self._expect_head()  # of the next request on this connection
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._head = _cancelled(self._head)
        self._tell()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._tell()

    def _tell(self) -> None:
        """What this connection waits for now."""
        if self.cycle is None or self.cycle.response_complete:
            self.connection.reach(Stage.SILENT)
        else:
            self.connection.reach(Stage.BODY if self.cycle.more_body else Stage.ANSWER)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._answer = _cancelled(self._answer)
        self._answer = self.loop.call_later(ANSWER_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        self._answer = _cancelled(self._answer)
        super().resume_writing()

    def _expect_head(self) -> None:
        self._head = self.loop.call_later(HEAD_SECONDS, self.transport.abort)


def _cancelled(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    if timer is not None:
        timer.cancel()
    return None

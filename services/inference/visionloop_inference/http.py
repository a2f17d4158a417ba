"""The HTTP port: /healthz (the event loop turns), /readyz (send me requests), /metrics.

A few lines on asyncio instead of a web framework: three GETs for probes and Prometheus, answered
and closed. It runs in the event loop that serves requests, so a loop that hangs fails the liveness
probe; only the text of /metrics is made in a thread.
"""

import asyncio
import logging
from collections.abc import Callable
from http import HTTPStatus

from visionloop.errors import ConfigurationError
from visionloop.telemetry import metrics

log = logging.getLogger(__name__)

MAX_REQUEST = 8192  # bytes of request line and headers
TIMEOUT = 10.0  # seconds for a whole exchange
PLAIN = "text/plain; charset=utf-8"

Reply = tuple[HTTPStatus, str, bytes]  # status, content type, body


class HttpServer:
    """`readiness` gives the reason for not being ready, or "" when ready."""

    def __init__(self, readiness: Callable[[], str]) -> None:
        self._readiness = readiness
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    async def start(self, host: str, port: int) -> int:
        """Listens; returns the port. Raises ConfigurationError when it is taken."""
        try:
            self._server = await asyncio.start_server(self._serve, host, port, limit=MAX_REQUEST)
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on {host}:{port}: {error.strerror or error}; choose another port "
                "by --http-port",
                field="http_port",
            ) from error
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def close(self) -> None:
        """Ends all exchanges: a caller who says nothing must not hold up the end of the program."""
        if self._server is not None:
            self._server.close()
            for writer in tuple(self._open):
                writer.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            async with asyncio.timeout(TIMEOUT):
                head = await reader.readuntil(b"\r\n\r\n")
                status, kind, body = await self._reply(head)
                headers = (
                    f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {kind}\r\n"
                    f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                )
                writer.write(headers.encode() + (b"" if head.startswith(b"HEAD ") else body))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            log.debug("an HTTP exchange broke off", exc_info=True)
        finally:
            self._open.discard(writer)
            writer.close()

    async def _reply(self, head: bytes) -> Reply:
        method, _, rest = head.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if method not in (b"GET", b"HEAD"):
            return HTTPStatus.METHOD_NOT_ALLOWED, PLAIN, b"only GET is offered\n"
        if path == b"/healthz":
            return HTTPStatus.OK, PLAIN, b"alive\n"
        if path == b"/readyz":
            reason = self._readiness()
            if reason:
                return HTTPStatus.SERVICE_UNAVAILABLE, PLAIN, f"not ready: {reason}\n".encode()
            return HTTPStatus.OK, PLAIN, b"ready\n"
        if path == b"/metrics":
            text, kind = await asyncio.to_thread(metrics.exposition)
            return HTTPStatus.OK, kind, text
        return HTTPStatus.NOT_FOUND, PLAIN, b"there is /healthz, /readyz and /metrics\n"

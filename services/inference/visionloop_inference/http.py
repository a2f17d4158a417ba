"""The HTTP ports: /healthz (the event loop turns), /readyz (send me requests), /metrics, and
POST /v1/recognize and /v1/feedback.

A few hundred lines on asyncio instead of a web framework: probes, Prometheus and curl, each
answered and closed. It runs in the supervisor's event loop, so a loop that hangs fails the liveness
probe; the text of /metrics is made in a thread.

The plain port is for probes and Prometheus, which bring no certificates. Images and tokens do not
travel over it where others could listen: it takes them on loopback, or when `--insecure` says so.
With TLS there is a second port, which offers the same over HTTPS, to clients with a certificate of
`--tls-client-ca` where that is given. A token is looked at before a body is read, so that strangers
cannot hold the room that there is for bodies; the front end checks it again, as for gRPC. So is
whose page sends it, where a browser says that: other sites' may not. Both ports together have so
many connections and no more (`visionloop.connections`).
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from http import HTTPStatus

from visionloop.certificates import Certificates
from visionloop.connections import Connection, Connections, Listener, Stage, most_connections
from visionloop.errors import (
    ConfigurationError,
    OverloadedError,
    PermissionDeniedError,
)
from visionloop.flags import endpoint
from visionloop.own_site import foreign_page
from visionloop.telemetry import inference as inference_metrics
from visionloop.telemetry import metrics
from visionloop_inference import http_feedback, http_recognition
from visionloop_inference.auth import Gate
from visionloop_inference.credentials import certificates
from visionloop_inference.http_feedback import HttpFeedback
from visionloop_inference.http_front_end import FrontEnd
from visionloop_inference.http_message import (
    MAX_HEAD,
    PLAIN,
    Head,
    HttpError,
    Reply,
    error_reply,
    read_body,
    read_head,
    says_body,
)
from visionloop_inference.http_recognition import HttpRecognition
from visionloop_inference.incidents import shown
from visionloop_inference.settings import Settings

log = logging.getLogger(__name__)

WRITE_SECONDS = 10.0
LINGER_SECONDS = 2.0
# What takes an image as its body: the RPC behind it, and what answers.
CALLS: dict[str, tuple[str, type[HttpRecognition | HttpFeedback]]] = {
    http_recognition.PATH: (http_recognition.METHOD, HttpRecognition),
    http_feedback.PATH: (http_feedback.METHOD, HttpFeedback),
}
THERE_IS = f"there is /healthz, /readyz, /metrics and POST {' and '.join(CALLS)}\n".encode()

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
BROKEN_OFF = (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError)


class HttpServer:
    """`readiness` gives the reason for not being ready, or "" when ready."""

    def __init__(self, readiness: Callable[[], str], settings: Settings) -> None:
        """Raises ConfigurationError for certificates or tokens that cannot serve."""
        self._readiness = readiness
        self._settings = settings
        self._certificates: Certificates | None = certificates(settings)
        self._gate = Gate(settings.tokens, loopback=settings.loopback)
        self._front_end: FrontEnd | None = None
        self._held = 0  # bytes of bodies
        self._connections = Connections(most_connections())
        self._listeners: list[Listener] = []
        self._open: set[asyncio.StreamWriter] = set()

    async def start(self, front_end: str) -> dict[str, str]:
        """Listens; returns the addresses as "http" and, with TLS, "https".

        `front_end` is the gRPC target of one. Raises ConfigurationError when a port is
        taken.
        """
        settings = self._settings
        self._front_end = FrontEnd(front_end, settings.max_message_bytes)
        addresses = {"http": await self._listen("http_port", settings.http_port, secure=False)}
        if self._certificates is not None:
            addresses["https"] = await self._listen("https_port", settings.https_port, secure=True)
        return addresses

    async def _listen(self, flag: str, port: int, *, secure: bool) -> str:
        host = self._settings.host
        context = self._certificates.for_http() if secure and self._certificates else None

        def exchange(connection: Connection) -> asyncio.Protocol:
            return _Exchange(connection, partial(self._serve, connection, secure=secure))

        try:
            sockets = await _bound(host.strip("[]"), port)
            listener = Listener(sockets, exchange, self._connections, context)
            listener.start()
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on {host}:{port}: {error.strerror or error}; choose another port "
                f"by --{flag.replace('_', '-')}",
                field=flag,
            ) from error
        self._listeners.append(listener)
        return endpoint(host, sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Ends all exchanges: a caller who says nothing must not hold up the end of the program."""
        for listener in self._listeners:
            listener.close()
        for writer in tuple(self._open):
            writer.close()
        if self._front_end is not None:
            await self._front_end.close()

    async def _serve(
        self,
        connection: Connection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        secure: bool,
    ) -> None:
        self._open.add(writer)
        try:
            head, reply = None, None
            try:
                head = await read_head(reader)
                connection.reach(Stage.ANSWER)
                reply = await self._reply(head, connection, reader, writer, secure=secure)
            except BROKEN_OFF:
                raise
            except Exception as error:  # noqa: BLE001 — a fault of ours must be an answer, too
                path = "an HTTP request" if head is None else head.path[:100]
                reply = error_reply(shown(error, path))
            async with asyncio.timeout(WRITE_SECONDS):
                writer.write(
                    reply.to_bytes(without_body=head is not None and head.method == "HEAD")
                )
                await writer.drain()
            connection.reach(Stage.SILENT)
            if 400 <= reply.status < 500:
                await _linger(reader, writer)
        except BROKEN_OFF:
            log.debug("an HTTP exchange broke off", exc_info=True)
        finally:
            connection.reach(Stage.SILENT)
            await _close(writer)
            self._open.discard(writer)
            connection.leave()

    async def _reply(
        self,
        head: Head,
        connection: Connection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        secure: bool,
    ) -> Reply:
        if head.path in CALLS:
            return await self._call(head, connection, reader, writer, secure=secure)
        if head.method not in ("GET", "HEAD"):
            return Reply(HTTPStatus.METHOD_NOT_ALLOWED, PLAIN, THERE_IS, {"Allow": "GET, HEAD"})
        if head.path == "/healthz":
            return Reply(HTTPStatus.OK, PLAIN, b"alive\n")
        if head.path == "/readyz":
            reason = self._readiness()
            if reason:
                text = f"not ready: {reason}\n".encode()
                return Reply(HTTPStatus.SERVICE_UNAVAILABLE, PLAIN, text)
            return Reply(HTTPStatus.OK, PLAIN, b"ready\n")
        if head.path == "/metrics":
            text, kind = await asyncio.to_thread(metrics.exposition)
            return Reply(HTTPStatus.OK, kind, text)
        return Reply(HTTPStatus.NOT_FOUND, PLAIN, THERE_IS)

    async def _call(
        self,
        head: Head,
        connection: Connection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        secure: bool,
    ) -> Reply:
        method, answering = CALLS[head.path]
        if head.method != "POST":
            raise HttpError(HTTPStatus.METHOD_NOT_ALLOWED, f"send the image by POST to {head.path}")
        open_to_all = self._settings.loopback and self._settings.tokens is None
        if (page := foreign_page(head.headers, loopback=open_to_all)) is not None:
            raise PermissionDeniedError(f"a page of {page} may not send anything here")
        if not (secure or self._settings.loopback or self._settings.insecure):
            raise PermissionDeniedError(
                "images are not taken over plain HTTP from other machines; use HTTPS on the port "
                "of --https-port, or gRPC"
            )
        front_end = self._front_end
        if front_end is None:
            raise HttpError(HTTPStatus.SERVICE_UNAVAILABLE, "the server is starting")
        self._gate.check(method, head.headers.items())
        call = answering(head)
        if call.body_is_optional and not says_body(head):
            return await call.answer(b"", front_end, _peer(writer))
        room = self._room(head, min(front_end.max_body, self._settings.queue_bytes))
        self._held += room
        try:
            connection.reach(Stage.BODY)
            body = await read_body(head, reader, writer, room)
            connection.reach(Stage.ANSWER)
            answer = call.answer(body, front_end, _peer(writer))
            del body  # which its message holds
            return await answer
        finally:
            self._held -= room

    def _room(self, head: Head, max_body: int) -> int:
        """Bytes to hold for a body: what it says, or the most where it comes in chunks.

        Raises OverloadedError when bodies hold too much already.
        """
        length = head.headers.get("content-length", "")
        known = length.isascii() and length.isdigit() and len(length) <= 18
        room = min(int(length), max_body) if known else max_body
        limit = self._settings.queue_bytes
        if self._held + room > limit:
            inference_metrics.REJECTED.labels(reason="bytes").inc()
            raise OverloadedError(
                f"HTTP requests hold {self._held} bytes and the limit is {limit} (--queue-bytes), "
                f"so {room} more have no room; retry later",
                retry_after_seconds=1.0,
            )
        return room


class _Exchange(asyncio.StreamReaderProtocol):
    """One connection as a pair of streams for `serve`."""

    def __init__(self, connection: Connection, serve: Serve) -> None:
        super().__init__(asyncio.StreamReader(limit=MAX_HEAD), serve)
        self._connection = connection

    def data_received(self, data: bytes) -> None:
        self._connection.heard()
        super().data_received(data)


async def _bound(host: str, port: int) -> list[socket.socket]:
    """A socket for each address of the host. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    sockets: list[socket.socket] = []
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            sockets.append(socket.create_server(address[:2], family=family))
    except OSError:
        for made in sockets:
            made.close()
        raise
    return sockets


async def _close(writer: asyncio.StreamWriter) -> None:
    """A caller who does not read gets WRITE_SECONDS for what is left: a socket that is only closed
    keeps it for as long as the caller likes."""
    writer.close()
    with suppress(*BROKEN_OFF):
        async with asyncio.timeout(WRITE_SECONDS):
            await writer.wait_closed()
    writer.transport.abort()


async def _linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Reads on for a while what an early error left unread: closing at once would reset the
    connection, and the caller would never see the error."""
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER_SECONDS):
            if writer.can_write_eof():
                writer.write_eof()
            while await reader.read(65536):
                pass


def _peer(writer: asyncio.StreamWriter) -> str:
    peer = writer.get_extra_info("peername")
    return f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else "unknown"

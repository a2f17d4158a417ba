"""The connections of an HTTP port: a bounded number, of which silent ones make room for new ones.

Each connection is a descriptor, and a process without a free one answers nobody, its probes least.
So there is a bound. At the bound the connection that has said nothing for longest is closed for the
one that comes: callers who are idle or slow, however many, lock nobody out. First those without a
whole head of a request go, then, when there is none, those whose body is waited for. Only where all
are being answered is a new one turned away: by a 503, or, on a port with TLS, by a close, since to
say anything there would cost a handshake.

Connections are accepted here, not by asyncio's server: that one tells of a connection with TLS only
after its handshake, so that those which never finish theirs would not count. Price: the accept loop
stands here once more.
"""

import asyncio
import contextlib
import enum
import errno
import logging
import resource
import socket
import ssl
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

log = logging.getLogger(__name__)

MOST: Final = 1000
LEAST: Final = 16
BACKLOG: Final = 1024  # connections that the kernel keeps for us until we accept them
HANDSHAKE_SECONDS: Final = 10.0
PAUSE: Final = 0.1  # seconds, after the system had no connection for us
_NO_ROOM: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_TEXT: Final = b"as many connections as are allowed are being answered; retry later\n"
TURNED_AWAY: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Length: %d\r\nRetry-After: 1\r\nConnection: close\r\n\r\n%s" % (len(_TEXT), _TEXT)
)


def most_connections() -> int:
    """1,000, or half of the descriptors that this process may open, if that is less."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if allowed == resource.RLIM_INFINITY else max(LEAST, min(MOST, allowed // 2))


class Stage(enum.Enum):
    """What a connection waits for."""

    SILENT = "the caller: a handshake, a whole head, the next request, or his close"
    BODY = "the caller: the body of his request"
    ANSWER = "us"


class Connection:
    """One connection's place. Its protocol says how far it is, and leaves at the end."""

    __slots__ = ("_places", "_socket", "stage")

    def __init__(self, places: "Connections", connected: socket.socket) -> None:
        self.stage: Stage | None = None  # None: it has left, or was made to
        self._places = places
        self._socket = connected

    def reach(self, stage: Stage) -> None:
        """The connection waits for something else now."""
        if self.stage is not None and self.stage is not stage:
            self._places._move(self, stage)

    def heard(self) -> None:
        """The caller said something."""
        if self.stage is not None:
            self._places._move(self, self.stage)

    def leave(self) -> None:
        """It is over."""
        if self.stage is not None:
            self._places._remove(self)

    def cut(self) -> None:
        """Ends it from our side. Its protocol sees the end of what is received."""
        self.leave()
        with contextlib.suppress(OSError):  # it may have ended by itself
            self._socket.shutdown(socket.SHUT_RDWR)


class Connections:
    """At most `limit` places."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        # By stage, in the order in which they were heard of last.
        self._open: dict[Stage, OrderedDict[Connection, None]] = {
            stage: OrderedDict() for stage in Stage
        }

    def __len__(self) -> int:
        return sum(len(some) for some in self._open.values())

    def enter(self, connected: socket.socket) -> Connection | None:
        """A place; None where all are being answered."""
        if len(self) >= self.limit and not self.make_room():
            return None
        connection = Connection(self, connected)
        connection.stage = Stage.SILENT
        self._open[Stage.SILENT][connection] = None
        return connection

    def make_room(self) -> bool:
        """Ends the connection that has been silent for longest; False where none is."""
        for stage in (Stage.SILENT, Stage.BODY):
            if self._open[stage]:
                next(iter(self._open[stage])).cut()
                return True
        return False

    def _move(self, connection: Connection, stage: Stage) -> None:
        self._remove(connection)
        connection.stage = stage
        self._open[stage][connection] = None

    def _remove(self, connection: Connection) -> None:
        assert connection.stage is not None  # noqa: S101 — who asks has looked
        del self._open[connection.stage][connection]
        connection.stage = None


class Listener:
    """Accepts on bound sockets; `protocol` makes what serves a connection, which then leaves it."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        protocol: Callable[[Connection], asyncio.Protocol],
        connections: Connections,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Takes the sockets over."""
        self._sockets = sockets
        self._protocol = protocol
        self._connections = connections
        self._tls = tls
        self._accepting: list[asyncio.Task[None]] = []
        self._opening: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Listens. Raises OSError."""
        for bound in self._sockets:
            bound.setblocking(False)
            bound.listen(BACKLOG)
            self._accepting.append(asyncio.create_task(self._accept(bound), name="accept"))

    def close(self) -> None:
        """Accepts no more; connections that are open stay."""
        for task in (*self._accepting, *self._opening):
            task.cancel()
        for bound in self._sockets:
            bound.close()

    async def _accept(self, bound: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connected, _ = await loop.sock_accept(bound)
            except OSError as error:
                log.warning("a connection could not be accepted: %s", error)
                if error.errno in _NO_ROOM:  # else the caller has gone again
                    self._connections.make_room()
                await asyncio.sleep(PAUSE)
                continue
            self._take(connected)
            await asyncio.sleep(0)  # a crowd at the door must not keep us from those inside

    def _take(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        connection = self._connections.enter(connected)
        if connection is None:
            self._turn_away(connected)
            return
        task = asyncio.create_task(self._open(connection, connected), name="open a connection")
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, connection: Connection, connected: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self._protocol(connection),
                connected,
                ssl=self._tls,
                ssl_handshake_timeout=HANDSHAKE_SECONDS if self._tls is not None else None,
            )
        except (OSError, asyncio.CancelledError) as error:
            log.debug("a connection was not made: %s", error)
            connection.cut()
            connected.close()
            if isinstance(error, asyncio.CancelledError):
                raise

    def _turn_away(self, connected: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if self._tls is None:
                connected.send(TURNED_AWAY)
                connected.shutdown(socket.SHUT_WR)
                connected.recv(65536)  # what is left unread would reset the connection
        connected.close()

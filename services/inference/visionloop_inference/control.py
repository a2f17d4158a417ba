"""The control channel between the supervisor and a child: small JSON messages, and descriptors.

A Unix socket that keeps message boundaries (SEQPACKET). What goes from the supervisor says what to
do, what comes back says what happened; the messages are listed where they are handled
(`front_end`, `runner`). Sockets and shared memory travel beside a message, so that
nothing needs a name in a file system that a killed process would leave behind. The end of the
channel is the end of the other side: each side watches for it, and there is no other heartbeat.

A message must fit the socket's buffer (208 KiB on a stock Linux). A larger one, as the statistics
of hundreds of versions, goes as memory beside a message that only says so; what has a file, as a
bundle, goes as its path.
"""

import contextlib
import errno
import json
import os
import socket
from collections.abc import Sequence
from typing import Any, TypeAlias

Message: TypeAlias = dict[str, Any]

MAX_BYTES = 192 * 1024
MAX_FDS = 8
_BESIDE = b"beside"  # no JSON: the message is in the first descriptor


class Control:
    """One end. Blocking unless `setblocking(False)`; usable from one thread at a time."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    @classmethod
    def pair(cls) -> tuple["Control", "Control"]:
        """Both ends of a new channel."""
        a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (a, b):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_BYTES)
        return cls(a), cls(b)

    @classmethod
    def of_fd(cls, fd: int) -> "Control":
        """The end that this process inherited."""
        return cls(socket.socket(fileno=fd))

    def fileno(self) -> int:
        return self._socket.fileno()

    def setblocking(self, blocking: bool) -> None:
        self._socket.setblocking(blocking)

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Sends a message and duplicates of `fds`, which stay the caller's to close.

        Raises OSError when the other side is gone (or, not blocking, when it does not read).
        """
        data = json.dumps(message, separators=(",", ":")).encode()
        if len(data) <= MAX_BYTES // 2:
            socket.send_fds(self._socket, [data], list(fds))
            return
        with os.fdopen(os.memfd_create("message", os.MFD_CLOEXEC), "wb") as memory:
            memory.write(data)
            memory.flush()
            socket.send_fds(self._socket, [_BESIDE], [memory.fileno(), *fds])

    def receive(self) -> tuple[Message, list[int]] | None:
        """The next message and its descriptors, now the caller's; None when the other side is gone.

        Raises BlockingIOError when not blocking and nothing is there, OSError for a large message
        that this process had no descriptor left for.
        """
        try:
            data, fds, _, _ = socket.recv_fds(self._socket, MAX_BYTES, MAX_FDS)
        except ConnectionResetError:
            return None
        if not data:
            return None
        for fd in fds:
            os.set_inheritable(fd, False)
        if data == _BESIDE:
            if not fds:
                raise OSError(errno.EMFILE, "a large message came without its memory")
            with os.fdopen(fds.pop(0), "rb") as memory:
                memory.seek(0)
                data = memory.read()
        return json.loads(data), fds

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.close()

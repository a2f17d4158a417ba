"""Callers that misbehave below gRPC: plain sockets that speak HTTP/2, slowly, badly or not at all.

    with connected(server.target) as raw:
        raw.begin()                          # preface and settings
        raw.call(1, "/inference.GRPCInferenceService/ServerLive", message(b""))

Nothing here reads unless it is asked to. Headers are sent without compression, so that each request
is a few lines and no library decides what is allowed.
"""

import contextlib
import socket
import struct
from collections.abc import Iterator

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    0, 1, 3, 4, 6, 7, 8, 9,
)  # fmt: skip
END_STREAM, END_HEADERS = 1, 4
INITIAL_WINDOW_SIZE = 4
TIMEOUT = 30.0


def frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0) -> bytes:
    """One HTTP/2 frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def message(data: bytes, length: int | None = None) -> bytes:
    """A gRPC message; `length` lies about its size."""
    return struct.pack(">BI", 0, len(data) if length is None else length) + data


def headers(path: str) -> bytes:
    """A header block of a gRPC call, each field literal."""
    fields = {
        ":method": "POST", ":scheme": "http", ":path": path, ":authority": "localhost",
        "content-type": "application/grpc", "te": "trailers",
    }  # fmt: skip
    block = b""
    for name, value in fields.items():
        assert max(len(name), len(value)) < 127
        block += bytes([0x10, len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
    return block


class RawClient:
    """One connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection

    def begin(self, *, window: int | None = None) -> None:
        """Preface and settings; `window` bytes may be sent to us on each stream."""
        settings = b"" if window is None else struct.pack(">HI", INITIAL_WINDOW_SIZE, window)
        self.send(PREFACE + frame(SETTINGS, settings))

    def call(self, stream: int, path: str, data: bytes, *, end: bool = True) -> None:
        """A whole request, or one that stays open."""
        self.send(
            frame(HEADERS, headers(path), flags=END_HEADERS, stream=stream)
            + frame(DATA, data, flags=END_STREAM if end else 0, stream=stream)
        )

    def send(self, data: bytes) -> None:
        """Everything; a server that has hung up is no error here."""
        with contextlib.suppress(ConnectionError):
            self.socket.sendall(data)

    def reset(self) -> None:
        """Closes without a goodbye: the other side gets an RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def connect(target: str, *, receive_bytes: int | None = None) -> RawClient:
    """A connection to host:port; `receive_bytes` bounds what the kernel takes for us unread."""
    host, _, port = target.rpartition(":")
    made = socket.socket()
    if receive_bytes is not None:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    made.settimeout(TIMEOUT)
    made.connect((host, int(port)))
    return RawClient(made)


@contextlib.contextmanager
def connected(target: str, *, receive_bytes: int | None = None) -> Iterator[RawClient]:
    """A connection that is closed at the end."""
    client = connect(target, receive_bytes=receive_bytes)
    try:
        yield client
    finally:
        client.socket.close()

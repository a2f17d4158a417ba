"""Callers that open a connection and then say nothing, or half of a request."""

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

HALF = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: "


@contextmanager
def idle_callers(address: str, count: int) -> Iterator[list[socket.socket]]:
    """So many connections to host:port, every second with half of a request on it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, soft + 2 * count), hard))
    host, _, port = address.rpartition(":")
    try:
        with ExitStack() as stack:
            made = []
            for number in range(count):
                one = stack.enter_context(socket.create_connection((host, int(port)), timeout=30))
                if number % 2:
                    one.sendall(HALF)
                made.append(one)
            yield made
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

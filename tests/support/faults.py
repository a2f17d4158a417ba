"""A reverse proxy that breaks HTTP answers on demand, to stand before a real S3 server or service.

The signatures stay valid: the client signs the proxy's address, and the Host header is passed on.
"""

import contextlib
import http.client
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import Message
from email.utils import formatdate, parsedate_to_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

HOP_BY_HOP = {"transfer-encoding", "connection"}
Kind = Literal[
    "lose_answer", "cut_body", "busy", "refuse", "expel", "gone", "hang", "slow", "agree", "late",
    "astray", "limit", "forget", "fail", "later", "much_later", "portal",
]  # fmt: skip
ALWAYS = 10**9  # times
SLOW_SECONDS = 1.0
LATE_SECONDS = 3600.0


REFUSALS: dict[str | None, tuple[int, str]] = {
    "busy": (503, "SlowDown"),
    "refuse": (403, "AccessDenied"),
    "expel": (403, "InvalidAccessKeyId"),
    "limit": (429, "RateLimitExceeded"),
    "forget": (404, "NoSuchUpload"),
}

PAGES: dict[str | None, tuple[int, list[tuple[str, str]], bytes]] = {
    "astray": (404, [], b"default backend - 404"),
    "fail": (500, [], b"<h1>Internal Server Error</h1>"),
    "later": (503, [("Retry-After", "1")], b"<h1>Over capacity</h1>"),
    "much_later": (503, [("Retry-After", "5")], b"<h1>Over capacity</h1>"),
    "portal": (200, [], b"<h1>Welcome aboard! Choose your internet package</h1>"),
}


@dataclass
class Fault:
    """What happens to the next `times` requests of `method` (* for any) whose target holds `part`.

    lose_answer: the server does the work, the connection breaks before the answer;
    cut_body: the answer breaks off in the middle of its body; busy: 503; limit: 429; refuse: 403;
    forget: 404 for an upload in parts, as AWS and MinIO say of one that is an object by now;
    expel: 403 for a key that is not known any more; gone: the connection breaks before the work is
    done; hang: no answer until the proxy ends; slow: half of the answer, SLOW_SECONDS of nothing,
    the rest;
    agree: a condition that does not hold (412) is answered as if it held; late: what was changed
    last was changed LATE_SECONDS before; astray: 404 of an ingress that has no way to the server;
    fail: 500 with a page for people; later, much_later: 503 with Retry-After; portal: 200 with the
    page of a network that wants to be paid first.
    """

    method: str
    kind: Kind
    times: int = 1
    part: str = ""


@dataclass
class FaultyProxy:
    """Where to connect, the faults that are still to happen, and what was asked so far."""

    url: str
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)  # "PUT /bucket/key?query"
    ended: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fault_for(self, method: str, target: str) -> Kind | None:
        """The fault of this request, used up by it."""
        with self._lock:
            self.requests.append(f"{method} {target}")
            for fault in self.faults:
                if fault.method in (method, "*") and fault.part in target and fault.times > 0:
                    fault.times -= 1
                    return fault.kind
        return None

    def count(self, method: str) -> int:
        """How many requests of this method came."""
        return sum(request.startswith(f"{method} ") for request in self.requests)


def forward(
    upstream: str, method: str, target: str, headers: Message, body: bytes
) -> tuple[int, list[tuple[str, str]], bytes]:
    """Asks the real server; returns its status, headers and body."""
    address = urlsplit(upstream)
    connection = http.client.HTTPConnection(str(address.hostname), address.port or 80)
    with contextlib.closing(connection):
        passed_on = {name: value for name, value in headers.items() if name.lower() != "expect"}
        connection.request(method, target, body, passed_on)
        answer = connection.getresponse()
        return answer.status, answer.getheaders(), answer.read()


class FaultyHandler(BaseHTTPRequestHandler):
    """Answers one connection's requests, or breaks them."""

    server: "FaultyServer"
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.proxy.fault_for(self.command, self.path)
        if fault in REFUSALS:
            status, code = REFUSALS[fault]
            self.reply(status, [], f"<Error><Code>{code}</Code></Error>".encode())
            return
        if fault in PAGES:
            self.reply(*PAGES[fault])
            return
        if fault in ("gone", "hang"):
            if fault == "hang":
                self.server.proxy.ended.wait()
            self.close_connection = True
            return
        status, headers, content = forward(
            self.server.upstream, self.command, self.path, self.headers, body
        )
        if fault == "agree" and status == 412:
            status, headers, content = 200, [("ETag", '"0"')], b""
        if fault == "late":
            headers = [(name, _earlier(name, value)) for name, value in headers]
        if fault == "lose_answer":
            self.close_connection = True
        elif fault == "cut_body":
            self.reply(status, headers, content, cut=True)
        elif fault == "slow":
            self.reply(status, headers, content, pause=SLOW_SECONDS)
        else:
            self.reply(status, headers, content)

    def reply(
        self,
        status: int,
        headers: list[tuple[str, str]],
        body: bytes,
        cut: bool = False,
        pause: float = 0.0,
    ) -> None:
        kept = {name: value for name, value in headers if name.lower() not in HOP_BY_HOP}
        if self.command != "HEAD":  # whose length is that of the body it does not have
            kept["Content-Length"] = str(len(body))
        self.send_response_only(status)
        for name, value in kept.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2])
            if not cut:
                time.sleep(pause)
                self.wfile.write(body[len(body) // 2 :])
        if cut:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        return

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = do_PATCH = answer  # noqa: N815


def _earlier(name: str, value: str) -> str:
    if name.lower() != "last-modified":
        return value
    return formatdate(parsedate_to_datetime(value).timestamp() - LATE_SECONDS, usegmt=True)


class FaultyServer(ThreadingHTTPServer):
    """Listens on a free port of the loopback address."""

    daemon_threads = True

    def __init__(self, upstream: str, tls: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), FaultyHandler)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.upstream = upstream
        scheme = "http" if tls is None else "https"
        self.proxy = FaultyProxy(f"{scheme}://127.0.0.1:{self.server_address[1]}")


@contextlib.contextmanager
def faulty_proxy(upstream: str, tls: ssl.SSLContext | None = None) -> Iterator[FaultyProxy]:
    """Runs a proxy before `upstream` (http://host:port), which itself speaks TLS where told so."""
    with FaultyServer(upstream, tls) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.proxy
        finally:
            server.proxy.ended.set()
            server.shutdown()
            thread.join()

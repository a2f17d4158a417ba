"""Fetching URLs that outsiders name, without becoming their way into the network.

What makes it safe, in order: only http and https and only allowed ports; the name is resolved once,
and every address it has must be a public one; the connection goes to an address that was checked,
with the name in TLS and the Host header, so a name that resolves differently the next time
("rebinding") gains nothing; redirects are followed by hand, at most three, each through the same
door; bytes are counted while they are read, and the clock runs over all of it, also over a server
that sends a byte a second. Proxies from the environment are not used: they would resolve names for
themselves. What comes back is bytes and nothing of their headers.

Not here: whether the bytes are an image. Network policies remain the second wall.
"""

import http.client
import io
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as TimeIsUpError
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, TypeAlias
from urllib.parse import SplitResult, urljoin, urlsplit

import visionloop
from visionloop.errors import InvalidInputError
from visionloop_labeling.fetch_rules import PORTS, FetchRules

# (host, port) → addresses. Raises OSError.
Resolve: TypeAlias = Callable[[str, int], Sequence[str]]

_REDIRECTS: Final = (301, 302, 303, 307, 308)
_MAX_URL: Final = 2000  # characters
_CHUNK: Final = 64 * 2**10
_ADDRESSES: Final = 4  # of one host that are tried
_HOST: Final = re.compile(r"[A-Za-z0-9._:-]{1,253}", re.ASCII)


class FetchError(InvalidInputError):
    """A URL that was not fetched; `reason` is a stable word for why."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message, field="url")
        self._reason = reason

    @property
    def reason(self) -> str:
        return self._reason


class SafeFetcher:
    """Fetches URLs by the rules. Threads may share it; each host is asked by a few at a time."""

    def __init__(self, rules: FetchRules, resolve: Resolve | None = None) -> None:
        self._rules = rules
        self._resolve = resolve or _addresses
        # Of hosts that are being asked: a list of URLs may name a million.
        self._hosts: dict[str, _Turns] = {}
        self._hosts_lock = threading.Lock()
        self._resolvers = ThreadPoolExecutor(8, thread_name_prefix="resolve")
        self._open: set[socket.socket] = set()
        self._closed = False

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context()  # reads all certificates there are: 10 ms

    def close(self) -> None:
        """Cuts what is being fetched; that fails as if the other side had gone."""
        self._closed = True
        self._resolvers.shutdown(wait=False, cancel_futures=True)
        for opened in list(self._open):
            with suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)

    def fetch(self, url: str) -> bytes:
        """The bytes at `url`. Raises FetchError, whatever the other side does."""
        deadline = time.monotonic() + self._rules.seconds
        for _hop in range(self._rules.redirects + 1):
            parts = _checked(url, self._rules)
            with self._turn(parts.hostname or "", deadline):
                answer = self._get(parts, deadline)
            if isinstance(answer, bytes):
                return answer
            url = _redirected(url, answer.location)
        raise FetchError(
            f"more than {self._rules.redirects} redirects; the last one goes to {_shown(url)}",
            reason="too_many_redirects",
        )

    @contextmanager
    def _turn(self, host: str, deadline: float) -> Iterator[None]:
        host = host.lower()
        with self._hosts_lock:
            turns = self._hosts.setdefault(host, _Turns(threading.Semaphore(self._rules.per_host)))
            turns.wanted += 1
        try:
            if not turns.free.acquire(timeout=max(0.0, deadline - time.monotonic())):
                raise _too_slow(host, self._rules)
            try:
                yield
            finally:
                turns.free.release()
        finally:
            with self._hosts_lock:
                turns.wanted -= 1
                if not turns.wanted:
                    del self._hosts[host]

    def _get(self, parts: SplitResult, deadline: float) -> "bytes | _Redirect":
        host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
        try:
            addresses = self._addresses(host, port, deadline)
            with _connected(addresses, port, deadline) as raw:
                tls = self._tls if parts.scheme == "https" else None
                plain = raw if tls is None else tls.wrap_socket(raw, server_hostname=host)
                with plain, self._cuttable(plain):
                    return self._ask(_TimedSocket(plain, deadline), parts, deadline)
        except (TimeoutError, TimeIsUpError):
            raise _too_slow(host, self._rules) from None
        except ssl.SSLError as error:
            raise FetchError(
                f"{_shown(host)} has no valid TLS certificate or speaks no TLS "
                f"({error.reason or 'broken'})",
                reason="tls",
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise FetchError(
                f"{_shown(host)} does not answer properly ({type(error).__name__})",
                reason="unreachable",
            ) from None

    @contextmanager
    def _cuttable(self, opened: socket.socket) -> Iterator[None]:
        self._open.add(opened)
        try:
            if self._closed:
                raise OSError("closed")
            yield
        finally:
            self._open.discard(opened)

    def _addresses(self, host: str, port: int, deadline: float) -> Sequence[str]:
        """The addresses of the host, once all of them are allowed."""
        found: Sequence[str] = []
        try:
            looking = self._resolvers.submit(self._resolve, host, port)
            found = looking.result(timeout=max(0.0, deadline - time.monotonic()))
        except (socket.gaierror, UnicodeError, RuntimeError):
            pass
        if not found:
            raise FetchError(f"there is no host {_shown(host)}", reason="no_such_host")
        for address in found:
            if not self._rules.allows(ipaddress.ip_address(address.partition("%")[0])):
                # Which address it is stays unsaid: a caller could map the network by it.
                raise FetchError(
                    f"{_shown(host)} is not a public address; an operator may allow its network "
                    "(--import-networks)",
                    reason="forbidden_address",
                )
        return found[:_ADDRESSES]

    def _ask(
        self, connection: "_TimedSocket", parts: SplitResult, deadline: float
    ) -> "bytes | _Redirect":
        connection.sendall(_request(parts))
        response = http.client.HTTPResponse(connection, method="GET")  # type: ignore[arg-type]
        try:
            response.begin()
            if response.status in _REDIRECTS:
                return _Redirect(response.getheader("Location") or "")
            if response.status != 200:
                raise FetchError(
                    f"{_shown(parts.geturl())} answers {response.status}", reason="http_status"
                )
            return self._body(response, parts, deadline)
        finally:
            response.close()

    def _body(
        self, response: http.client.HTTPResponse, parts: SplitResult, deadline: float
    ) -> bytes:
        limit = self._rules.max_bytes
        body = bytearray()
        while chunk := response.read(min(_CHUNK, limit + 1 - len(body))):
            body += chunk
            if len(body) > limit:
                raise FetchError(
                    f"{_shown(parts.geturl())} has more than {limit:,} bytes",
                    reason="too_many_bytes",
                )
            if time.monotonic() > deadline:
                raise TimeoutError
        if response.length:  # Content-Length promised more
            raise FetchError(f"{_shown(parts.geturl())} ended too early", reason="unreachable")
        return bytes(body)


@dataclass(frozen=True, slots=True)
class _Redirect:
    location: str


@dataclass(slots=True)
class _Turns:
    free: threading.Semaphore
    wanted: int = 0  # fetches that have a turn or wait for one


class _TimedSocket:
    """A socket whose every wait ends at the deadline, as http.client wants to see one."""

    def __init__(self, plain: socket.socket, deadline: float) -> None:
        self._plain = plain
        self._deadline = deadline

    def sendall(self, data: bytes) -> None:
        self._plain.settimeout(_left(self._deadline))
        self._plain.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedReader(self._plain, self._deadline))


class _TimedReader(io.RawIOBase):
    def __init__(self, plain: socket.socket, deadline: float) -> None:
        self._plain = plain
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._plain.settimeout(_left(self._deadline))
        return self._plain.recv_into(buffer)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _connected(addresses: Sequence[str], port: int, deadline: float) -> socket.socket:
    """A connection to the first address that answers; each has its share of the time."""
    for tried, address in enumerate(addresses, start=1):
        patience = _left(deadline) / (len(addresses) - tried + 1)
        try:
            opened = socket.create_connection((address, port), timeout=patience)
        except OSError:
            if tried == len(addresses):
                raise
            continue
        opened.settimeout(_left(deadline))  # for the TLS handshake, too
        return opened
    raise OSError("no address")


def _checked(url: str, rules: FetchRules) -> SplitResult:
    """The parts of a URL that may be asked for at all."""
    try:
        if len(url) > _MAX_URL or not url.isascii() or not url.isprintable() or " " in url:
            raise ValueError("it must be ASCII without spaces, at most 2,000 characters")
        parts = urlsplit(url)
        port = parts.port or PORTS.get(parts.scheme, 0)
    except ValueError as error:
        raise FetchError(f"{_shown(url)} is no URL: {error}", reason="bad_url") from None
    if parts.scheme not in PORTS:
        raise FetchError(
            f"{_shown(url)} is not http:// or https://; nothing else is fetched", reason="bad_url"
        )
    if parts.username is not None or parts.password is not None:
        raise FetchError("the URL holds a user name or password", reason="bad_url")
    if not _HOST.fullmatch(parts.hostname or ""):
        raise FetchError(f"{_shown(url)} names no host", reason="bad_url")
    if port not in rules.ports:
        allowed = ", ".join(map(str, sorted(rules.ports)))
        raise FetchError(
            f"port {port} is not allowed; allowed are {allowed} (--import-ports)",
            reason="forbidden_port",
        )
    return parts


def _redirected(url: str, location: str) -> str:
    """Where a redirect leads; it is not checked yet. Raises FetchError for what is no address."""
    try:
        return urljoin(url, location)
    except ValueError as error:
        raise FetchError(
            f"{_shown(url)} redirects to {_shown(location)}, which is no URL: {error}",
            reason="bad_url",
        ) from None


def _request(parts: SplitResult) -> bytes:
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    if parts.port is not None and parts.port != PORTS[parts.scheme]:
        host = f"{host}:{parts.port}"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = (
        f"GET {target} HTTP/1.1",
        f"Host: {host}",
        f"User-Agent: visionloop/{visionloop.__version__}",
        "Accept: image/*",
        "Accept-Encoding: identity",
        "Connection: close",
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


def _addresses(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(one[4][0]) for one in found))


def _too_slow(host: str, rules: FetchRules) -> FetchError:
    return FetchError(
        f"{_shown(host)} did not answer within {rules.seconds:g} seconds", reason="too_slow"
    )


def _shown(text: str) -> str:
    short = text if len(text) <= 120 else text[:120] + "…"
    return ascii(short)

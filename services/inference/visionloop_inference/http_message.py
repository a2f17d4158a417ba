"""One HTTP/1.1 request, read strictly and within limits; and the reply's bytes.

As much of HTTP as a probe, Prometheus and `curl --data-binary` need: a request per connection, a
body of known length or in chunks, `Expect: 100-continue`. What two readers could understand
differently (two lengths, a length beside chunks, folded headers) is refused.
"""

import asyncio
import json
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import NoReturn
from urllib.parse import parse_qsl, urlsplit

from visionloop.errors import InvalidInputError, VisionloopError

MAX_HEAD = 8192  # bytes of request line and headers
MAX_QUERY_FIELDS = 16
MAX_CHUNK_LINE = 256  # bytes
MAX_TRAILERS = 16
HEAD_SECONDS = 10.0
BODY_SECONDS = 60.0
PLAIN = "text/plain; charset=utf-8"
JSON = "application/json"


class HttpError(InvalidInputError):
    """A request that cannot be read, with the status that says why."""

    def __init__(self, status: HTTPStatus, message: str, *, field: str = "") -> None:
        super().__init__(message, field=field)
        self.status = status


@dataclass(frozen=True, slots=True)
class Head:
    """Request line and headers; header names in lower case."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes back."""

    status: HTTPStatus
    kind: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)

    def to_bytes(self, *, without_body: bool) -> bytes:
        """The whole reply; the connection is closed after it."""
        extra = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        head = (
            f"HTTP/1.1 {self.status.value} {self.status.phrase}\r\nContent-Type: {self.kind}\r\n"
            f"Content-Length: {len(self.body)}\r\n{extra}Connection: close\r\n\r\n"
        )
        return head.encode("latin-1") + (b"" if without_body else self.body)


def error_reply(error: VisionloopError) -> Reply:
    """The error as JSON: {"error": {"code", "reason", "message"}}."""
    status = error.status if isinstance(error, HttpError) else HTTPStatus(error.http_status)
    told = {"code": error.grpc_code, "reason": error.reason, "message": str(error)}
    headers = {}
    retry = getattr(error, "retry_after_seconds", None)
    if retry:
        headers["Retry-After"] = str(max(1, round(retry)))
    if status is HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return Reply(status, JSON, json.dumps({"error": told}).encode() + b"\n", headers)


async def read_head(reader: asyncio.StreamReader) -> Head:
    """Raises HttpError, and what a connection that breaks off raises."""
    try:
        async with asyncio.timeout(HEAD_SECONDS):
            data = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        raise HttpError(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            f"request line and headers are larger than {MAX_HEAD} bytes",
        ) from None
    first, *lines = data[:-4].split(b"\r\n")
    parts = first.split(b" ")
    if len(parts) != 3 or not parts[2].startswith(b"HTTP/1."):
        _bad("the request line is not METHOD PATH HTTP/1.1")
    try:
        target = urlsplit(parts[1].decode("ascii"))
        query = parse_qsl(
            target.query, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS, errors="strict"
        )
    except ValueError:
        _bad("the request's path is no URL path")
    names = [name for name, _ in query]
    for name in names:
        if names.count(name) > 1:
            _bad(f"the query has {name[:100]!r} twice")
    return Head(parts[0].decode("latin-1"), target.path, dict(query), _headers(lines))


def _headers(lines: list[bytes]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.decode("latin-1").partition(":")
        name = name.lower()
        if not colon or not name or name != name.strip() or not name.isprintable():
            _bad("a header is not of the form Name: value")
        if name in headers:
            if name in ("content-length", "transfer-encoding", "authorization"):
                _bad(f"the header {name} is there twice")
            continue
        headers[name] = value.strip()
    return headers


async def read_body(
    head: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: int
) -> bytes:
    """The body, at most `limit` bytes. Raises HttpError, and what a connection that breaks off
    raises."""
    size = _body_size(head, limit)
    expected = head.headers.get("expect", "").lower()
    if expected == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    elif expected:
        raise HttpError(HTTPStatus.EXPECTATION_FAILED, "only Expect: 100-continue is offered")
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await (reader.readexactly(size) if size is not None else _chunks(reader, limit))
    except TimeoutError:
        raise HttpError(
            HTTPStatus.REQUEST_TIMEOUT, f"the body did not arrive within {BODY_SECONDS:g} s"
        ) from None
    except asyncio.LimitOverrunError:
        _bad("a chunk's size is no hexadecimal number")


def says_body(head: Head) -> bool:
    """Whether a body follows, or is said to be empty."""
    return "content-length" in head.headers or "transfer-encoding" in head.headers


def _body_size(head: Head, limit: int) -> int | None:
    """The body's bytes; None where it comes in chunks."""
    encoding, length = head.headers.get("transfer-encoding"), head.headers.get("content-length")
    if encoding is not None:
        if length is not None:
            _bad("the request has a Content-Length and a Transfer-Encoding")
        if encoding.lower() != "chunked":
            raise HttpError(HTTPStatus.NOT_IMPLEMENTED, "only Transfer-Encoding: chunked is taken")
        return None
    if length is None:
        raise HttpError(HTTPStatus.LENGTH_REQUIRED, "the request says no Content-Length")
    if not length.isascii() or not length.isdigit() or len(length) > 18:
        _bad("Content-Length is no number")
    if int(length) > limit:
        raise _too_large(limit)
    return int(length)


async def _chunks(reader: asyncio.StreamReader, limit: int) -> bytes:
    body = bytearray()
    size = -1
    while size != 0:
        line = (await reader.readuntil(b"\r\n"))[:-2]
        digits = line.partition(b";")[0].strip()
        if len(line) > MAX_CHUNK_LINE or not _is_hexadecimal(digits):
            _bad("a chunk's size is no hexadecimal number")
        size = int(digits, 16)
        if len(body) + size > limit:
            raise _too_large(limit)
        body += await reader.readexactly(size)
        if size and await reader.readexactly(2) != b"\r\n":
            _bad("a chunk is longer than it said")
    trailers = 0
    while await reader.readuntil(b"\r\n") != b"\r\n":
        trailers += 1
        if trailers > MAX_TRAILERS:
            _bad("the chunks have too many trailers")
    return bytes(body)


def _is_hexadecimal(digits: bytes) -> bool:
    return 0 < len(digits) <= 16 and all(digit in b"0123456789abcdefABCDEF" for digit in digits)


def _too_large(limit: int) -> HttpError:
    return HttpError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"the body is larger than the limit of {limit} bytes (--max-message-bytes)",
        field="image",
    )


def _bad(message: str) -> NoReturn:
    raise HttpError(HTTPStatus.BAD_REQUEST, message) from None

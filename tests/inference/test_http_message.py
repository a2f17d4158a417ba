"""Reading HTTP requests: any bytes are a request, an error in words, or a broken connection."""

import asyncio
from http import HTTPStatus
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visionloop_inference.http_message import (
    MAX_HEAD,
    Head,
    HttpError,
    error_reply,
    read_body,
    read_head,
)

BROKEN_OFF = (asyncio.IncompleteReadError, asyncio.LimitOverrunError)
LIMIT = 1000


class Sink:
    """Where "100 Continue" goes."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data


def read(data: bytes) -> tuple[Head, bytes, bytes]:
    """Head, body, and what was written meanwhile, of a connection that ends after these bytes."""

    async def run() -> tuple[Head, bytes, bytes]:
        reader = asyncio.StreamReader(limit=MAX_HEAD)
        reader.feed_data(data)
        reader.feed_eof()
        head, sink = await read_head(reader), Sink()
        body = await read_body(head, reader, sink, LIMIT)  # type: ignore[arg-type]
        return head, body, sink.written

    return asyncio.run(run())


def chunked(body: bytes, sizes: list[int]) -> bytes:
    coded = b""
    for size in sizes:
        piece, body = body[:size], body[size:]
        coded += b"%X\r\n%s\r\n" % (len(piece), piece) if piece else b""
    if body:
        coded += b"%x;a=b\r\n%s\r\n" % (len(body), body)
    return coded + b"0\r\n\r\n"


@given(body=st.binary(max_size=LIMIT), sizes=st.lists(st.integers(1, 300), max_size=8))
def test_a_body_is_the_same_in_one_piece_and_in_chunks(body: bytes, sizes: list[int]) -> None:
    line = b"POST /v1/recognize?a=1&b=x%20y HTTP/1.1\r\nHost: x\r\n"
    head, found, _ = read(line + b"content-LENGTH: %d\r\n\r\n%s" % (len(body), body))
    assert (head.method, head.path, head.query) == ("POST", "/v1/recognize", {"a": "1", "b": "x y"})
    assert found == body
    coded = line + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(body, sizes)
    assert read(coded)[1] == body


PIECES = st.sampled_from(
    [b"POST / HTTP/1.1\r\n", b"Content-Length: ", b"Transfer-Encoding: chunked\r\n", b"5", b"\r\n",
     b"\r\n\r\n", b"0\r\n\r\n", b" ", b":", b"\x00", b"\xff", b"Expect: 100-continue\r\n",
     b"?a=%zz", b"GET ", b"fffffffffffffff\r\n", b"-1", b"+1", b"1_0", b"\xb2", b";", b"a" * 400]
)  # fmt: skip


@settings(max_examples=1500, deadline=None)
@given(data=st.one_of(st.binary(max_size=300), st.lists(PIECES, max_size=14).map(b"".join)))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for sent in (data, b"POST / HTTP/1.1\r\n" + data):
        try:
            outcome: Any = read(sent)
        except (HttpError, *BROKEN_OFF) as error:
            outcome = error
        if isinstance(outcome, HttpError):
            reply = error_reply(outcome).to_bytes(without_body=False)
            assert reply.startswith((b"HTTP/1.1 4", b"HTTP/1.1 501"))
        elif not isinstance(outcome, Exception):
            _, body, written = outcome
            assert len(body) <= LIMIT
            assert written in (b"", b"HTTP/1.1 100 Continue\r\n\r\n")


@pytest.mark.parametrize("length", ["+5", "5 ", "0x5", "1_0", "\xb2", "5,5", "9" * 30])
def test_lengths_that_others_might_read_otherwise(length: str) -> None:
    data = f"POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\nabcde".encode("latin-1")
    if length.strip() == "5":
        assert read(data)[1] == b"abcde"
        return
    with pytest.raises(HttpError, match="is no number"):
        read(data)


def test_a_reply_cannot_be_split_by_what_a_caller_sent() -> None:
    error = HttpError(HTTPStatus.BAD_REQUEST, "x\r\nSet-Cookie: y\r\n\r\n<script>")
    head, _, body = error_reply(error).to_bytes(without_body=False).partition(b"\r\n\r\n")
    assert b"Set-Cookie" not in head
    assert b"\r\n" not in body.strip()

"""POST /v1/recognize and the HTTP ports, asked by the clients that people use, and by raw bytes."""

import asyncio
import contextlib
import http.client
import io
import json
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from support.bundles import LABELS, answers, encoded, graph
from support.certificates import Pair, authority, signed
from support.idle_callers import idle_callers
from support.inference_server import Server, running_server
from support.process_tree import descriptors
from support.waiting import until, wait_for

from visionloop.prediction_id import PredictionId
from visionloop_inference import http as http_server
from visionloop_inference import http_message
from visionloop_inference.http import HttpServer
from visionloop_inference.http_front_end import MESSAGE_ROOM
from visionloop_inference.settings import parse

GRAPH = graph(1).SerializeToString()
LIMIT = 2 * 2**20


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, one_model: tuple[str, Any]
) -> Iterator[Server]:
    """One with a small limit, and room for three bodies."""
    flags = (f"--max-message-bytes={LIMIT}", f"--queue-bytes={3 * LIMIT}", "--access-log=1")
    with running_server(tmp_path_factory.mktemp("http"), one_model[0], *flags) as running:
        yield running.ready()


def post(server: Server, body: Any, query: str = "", **options: Any) -> httpx.Response:
    url = f"http://{server.address('http')}/v1/recognize{query}"
    return httpx.post(url, content=body, timeout=30, **options)


def raw(server: Server, *parts: bytes, half_close: bool = False) -> bytes:
    """What comes back for these bytes, until the server closes."""
    host, port = server.address("http").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        for part in parts:
            connection.sendall(part)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        received = b""
        while data := connection.recv(65536):
            received += data
    return received


def status(reply: bytes) -> int:
    return int(reply.split(b" ", 2)[1])


def error(reply: bytes) -> dict[str, str]:
    told: dict[str, str] = json.loads(reply.partition(b"\r\n\r\n")[2])["error"]
    return told


def large_image() -> bytes:
    """A PNG of about 1.5 MB."""
    output = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)
    Image.fromarray(noise).save(output, "PNG")
    return output.getvalue()


def test_an_image_as_the_body(server: Server) -> None:
    image = encoded(3)
    answer = post(server, image, "?model=cells&version=stable&top_k=2&timeout=20")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    told = answer.json()
    assert list(told) == ["model", "version", "results"]
    assert (told["model"], told["version"]) == ("cells", "1")  # int64 is text in proto's JSON
    (result,) = told["results"]
    assert list(result) == [
        "image_id", "status", "prediction_id", "width", "height", "classification",
    ]  # fmt: skip
    assert result["status"] == {"code": 0, "reason": "", "message": ""}
    assert (result["width"], result["height"]) == (160, 160)
    assert PredictionId.parse(result["prediction_id"]).model == "cells"
    labels = result["classification"]["labels"]
    row = answers(GRAPH, [image])["probabilities"][0]
    best = [LABELS[i] for i in np.argsort(-row)][:2]
    assert [label["class_id"] for label in labels] == best
    assert labels[0]["probability"] == pytest.approx(float(row.max()), abs=1e-5)
    assert result["classification"]["not_sure"] == (row.max() < 0.8)


def test_curl_as_the_documentation_says(server: Server, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl here")
    for image in (encoded(3), large_image()):  # curl asks for 100-continue above 1 MB
        (tmp_path / "cell.jpg").write_bytes(image)
        url = f"http://{server.address('http')}/v1/recognize?top_k=1"
        done = subprocess.run(
            ["curl", "--silent", "--show-error", "--fail-with-body", "--data-binary",
             f"@{tmp_path}/cell.jpg", url],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert len(json.loads(done.stdout)["results"][0]["classification"]["labels"]) == 1


@pytest.mark.parametrize("image", [encoded(1), large_image()], ids=["20 kB", "1.5 MB"])
def test_bodies_of_every_form(server: Server, image: bytes) -> None:
    expected = post(server, image).json()["results"][0]["classification"]

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(image), 7001):
            yield image[start : start + 7001]

    chunked = post(server, pieces())
    assert chunked.json()["results"][0]["classification"] == expected
    connection = http.client.HTTPConnection(server.address("http"), timeout=30)
    connection.request("POST", "/v1/recognize", body=image)
    assert json.load(connection.getresponse())["results"][0]["classification"] == expected
    head = b"POST /v1/recognize HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(image)
    reply = raw(server, head, image[:10], image[10:], half_close=True)
    assert status(reply) == 200
    whole = b"".join(b"%x;name=value\r\n%s\r\n" % (len(p), p) for p in pieces())
    head = b"POST /v1/recognize HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n"
    reply = raw(server, head + whole + b"0\r\nTrailer: x\r\n\r\n")
    assert json.loads(reply.partition(b"\r\n\r\n")[2])["results"][0]["classification"] == expected


def test_expect_continue_is_answered_before_the_body_comes(server: Server) -> None:
    image = encoded(1)
    host, port = server.address("http").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        head = b"POST /v1/recognize HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
        connection.sendall(head % len(image))
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(image)
        assert connection.recv(100).startswith(b"HTTP/1.1 200 OK")


POST = b"POST /v1/recognize HTTP/1.1\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "code", "said"),
    [
        (POST + b"\r\n", 411, "no Content-Length"),
        (POST + b"Content-Length: 0\r\n\r\n", 400, "the image is empty"),
        (POST + b"Content-Length: -1\r\n\r\n", 400, "is no number"),
        (POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, "twice"),
        (
            POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
            "a Content-Length and a Transfer-Encoding",
        ),
        (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501, "only Transfer-Encoding"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "no hexadecimal number"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n", 400, "no hexadecimal number"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1" * 9000, 400, "no hexadecimal"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nabcd", 400, "longer than it said"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nffffffff\r\n", 413, "larger than the limit"),
        (POST + b"Content-Length: 99999999\r\n\r\n", 413, "larger than the limit"),
        (POST + b"Expect: a-miracle\r\nContent-Length: 1\r\n\r\n", 417, "100-continue"),
        (POST + b"Content-Type: multipart/mixed; boundary=x\r\n\r\n", 415, "a form of several"),
        (POST + b"Content-Type: application/json\r\n\r\n", 415, "a form of several"),
        (POST + b" folded: x\r\n\r\n", 400, "not of the form"),
        (POST + b"no colon\r\n\r\n", 400, "not of the form"),
        (POST + b"x: " + b"y" * 9000 + b"\r\n\r\n", 431, "larger than 8192 bytes"),
        (b"GET /v1/recognize HTTP/1.1\r\n\r\n", 405, "by POST"),
        (b"POST /v1/recognize?top_k=many HTTP/1.1\r\nContent-Length: 1\r\n\r\nx", 400, "top_k is"),
        (b"POST /v1/recognize?top_k=-1 HTTP/1.1\r\nContent-Length: 1\r\n\r\nx", 400, "top_k is"),
        (b"POST /v1/recognize?topk=1 HTTP/1.1\r\nContent-Length: 1\r\n\r\nx", 400, "'topk'; there"),
        (b"POST /v1/recognize?a=1&a=1 HTTP/1.1\r\n\r\n", 400, "'a' twice"),
        (b"POST /v1/recognize?timeout=nan HTTP/1.1\r\n\r\n", 400, "timeout is 'nan'"),
        (b"POST /v1/recognize?timeout=0 HTTP/1.1\r\n\r\n", 400, "timeout is '0'"),
        (b"nonsense\r\n\r\n", 400, "request line"),
        (b"GET /\xff HTTP/1.1\r\n\r\n", 400, "no URL path"),
    ],
)
def test_what_is_wrong_is_said_as_json(
    server: Server, request_bytes: bytes, code: int, said: str
) -> None:
    reply = raw(server, request_bytes)
    assert status(reply) == code, reply
    told = error(reply)
    assert said in told["message"]
    assert told["code"] == ("INVALID_ARGUMENT" if code != 429 else "RESOURCE_EXHAUSTED")
    assert told["reason"]


def test_errors_of_the_service_have_their_status(server: Server) -> None:
    for body, query, code, grpc_code, reason in (
        (b"no image", "", 400, "INVALID_ARGUMENT", "not_an_image"),
        (encoded(1)[:500], "", 400, "INVALID_ARGUMENT", "truncated"),
        (encoded(1), "?model=dogs", 404, "NOT_FOUND", "not_found"),
        (encoded(1), "?version=99", 404, "NOT_FOUND", "not_found"),
        (encoded(1), "?top_k=5000", 400, "INVALID_ARGUMENT", "invalid_input"),
    ):
        answer = post(server, body, query)
        told = answer.json()["error"]
        assert (answer.status_code, told["code"]) == (code, grpc_code), told
        assert told["reason"] == reason, told
        assert "unix" not in told["message"]


def test_a_body_that_is_too_large_is_told_even_to_who_sends_it_all(server: Server) -> None:
    answer = post(server, b"x" * (LIMIT + 1))
    assert answer.status_code == 413
    assert f"limit of {LIMIT - MESSAGE_ROOM} bytes" in answer.json()["error"]["message"]
    assert post(server, b"x" * (LIMIT - MESSAGE_ROOM)).status_code == 400  # taken, and no image


def test_bodies_that_come_slowly_hold_no_more_than_their_room(server: Server) -> None:
    """Three senders that stop half-way take all the room; when they leave it is there again."""
    host, port = server.address("http").split(":")
    head = POST + b"Content-Length: %d\r\n\r\nabc" % (LIMIT - MESSAGE_ROOM)
    counted = server.metric("visionloop_rejected_total", reason="bytes")
    slow = [socket.create_connection((host, int(port)), timeout=30) for _ in range(3)]
    for connection in slow:
        connection.sendall(head)
    image = large_image()
    refused = answered(429, lambda: post(server, image))
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["error"]["code"] == "RESOURCE_EXHAUSTED"
    assert server.metric("visionloop_rejected_total", reason="bytes") == counted + 1
    assert server.get("/healthz") == (200, "alive\n")
    for connection in slow:
        connection.close()
    answered(200, lambda: post(server, image))


def answered(code: int, ask: Callable[[], httpx.Response]) -> httpx.Response:
    """The first answer of this code."""
    return wait_for(lambda: answer if (answer := ask()).status_code == code else None)


def test_many_at_once(server: Server) -> None:
    images = [encoded(n) for n in range(40)]
    with ThreadPoolExecutor(16) as pool:
        told = list(pool.map(lambda image: post(server, image, "?top_k=1").json(), images))
    expected = answers(GRAPH, images)["probabilities"]
    for one, row in zip(told, expected, strict=True):
        label = one["results"][0]["classification"]["labels"][0]
        assert label["class_id"] == LABELS[int(np.argmax(row))]


def test_a_thousand_idle_connections_lock_nobody_out(server: Server) -> None:
    before = descriptors(server.process.pid)
    with idle_callers(server.address("http"), 1200) as idle:
        assert server.get("/healthz") == (200, "alive\n")
        assert post(server, encoded(3)).status_code == 200
        assert descriptors(server.process.pid) < before + 1100
        assert idle[0].recv(1) == b""  # the first ones made room
        idle[-1].sendall(b"\r\n\r\n")  # and the last ones are still there
        assert idle[-1].recv(100).startswith(b"HTTP/1.1 200 OK")


def test_probes_and_other_paths(server: Server) -> None:
    assert server.get("/readyz") == (200, "ready\n")
    assert status(raw(server, b"POST /healthz HTTP/1.1\r\n\r\n")) == 405
    assert status(raw(server, b"GET /nowhere HTTP/1.1\r\n\r\n")) == 404
    head = raw(server, b"HEAD /metrics HTTP/1.1\r\n\r\n")
    assert status(head) == 200
    assert head.endswith(b"\r\n\r\n")
    assert "visionloop_model_info" in server.get("/metrics?x=1")[1]


def test_the_access_log_names_who_asked_over_http(server: Server) -> None:
    def told() -> dict[str, Any] | None:
        lines = [json.loads(line) for line in server.text().splitlines() if '"request"' in line]
        return next((each for each in lines if each.get("model") == "nobody-has-this"), None)

    post(server, encoded(1), "?model=nobody-has-this")
    line = wait_for(told, hint="the line, which is written after the answer")
    assert line["peer"].startswith("http:127.0.0.1:")
    assert (line["method"], line["code"]) == ("visionloop.v1.Recognition/Recognize", "NOT_FOUND")
    assert line["rows"] == 1


# --- TLS


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    for name in "ab":
        ca = authority(folder, name)
        signed(folder, f"server-{name}", ca)
    pair = Pair(folder / "a.crt", folder / "a.key")
    signed(folder, "client", pair, extension="keyUsage=digitalSignature")
    return folder


def test_https_follows_its_certificate_and_plain_http_takes_no_images(
    made: Path, tmp_path: Path, one_model: tuple[str, Any]
) -> None:
    for kind in ("crt", "key"):
        shutil.copy(made / f"server-a.{kind}", tmp_path / f"live.{kind}")
    live = tmp_path / "live"
    flags = (
        "--host=0.0.0.0", "--https-port=0", f"--tls-certificate={live}.crt",
        f"--tls-key={live}.key", f"--tls-client-ca={made}/a.crt",
    )  # fmt: skip
    with running_server(tmp_path / "server", one_model[0], *flags) as server:
        port = server.address("https").split(":")[1]
        plain = server.address("http").split(":")[1]
        probes = f"http://127.0.0.1:{plain}"
        answered(200, lambda: httpx.get(f"{probes}/readyz"))  # probes need no TLS
        refused = httpx.post(f"{probes}/v1/recognize", content=encoded(1))
        assert refused.status_code == 403
        assert "HTTPS on the port of --https-port" in refused.json()["error"]["message"]

        def ask(authority_name: str, *, client: bool = True) -> httpx.Response:
            context = ssl.create_default_context(cafile=str(made / f"{authority_name}.crt"))
            if client:
                context.load_cert_chain(made / "client.crt", made / "client.key")
            url = f"https://localhost:{port}/v1/recognize"
            return httpx.post(url, content=encoded(1), verify=context, timeout=30)

        assert ask("a").status_code == 200
        with pytest.raises(httpx.TransportError):
            ask("a", client=False)
        for kind in ("crt", "key"):
            shutil.copy(made / f"server-b.{kind}", tmp_path / f"live.{kind}")
        assert ask("b").status_code == 200
        with pytest.raises(httpx.ConnectError):
            ask("a")
        with pytest.raises(httpx.TransportError):  # still: only with a certificate
            ask("b", client=False)


# --- the server alone, with its patience cut short


@contextmanager
def alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *flags: str
) -> Iterator[tuple[str, int]]:
    """The HTTP server in a thread, without a front end behind it; its address."""
    monkeypatch.setattr(http_message, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(http_message, "BODY_SECONDS", 0.2)
    settings = parse(["--store=file:///nowhere", "--http-port=0", *flags], {})
    server = HttpServer(lambda: "because", settings)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(30)

    try:
        host, port = run(server.start(f"unix:{tmp_path}/none"))["http"].split(":")
        yield host, int(port)
    finally:
        run(server.close())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def test_a_fault_of_ours_is_an_answer_with_an_incident(caplog: pytest.LogCaptureFixture) -> None:
    def fails() -> str:
        raise KeyError("the inside")

    async def scenario() -> bytes:
        server = HttpServer(fails, parse(["--store=file:///nowhere", "--http-port=0"], {}))
        host, port = (await server.start("unix:none"))["http"].split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /readyz HTTP/1.1\r\n\r\n")
        received = await reader.read()
        writer.close()
        await server.close()
        return received

    reply = asyncio.run(asyncio.wait_for(scenario(), 60))
    assert status(reply) == 500
    assert error(reply)["code"] == "INTERNAL"
    assert "inside" not in error(reply)["message"]
    [record] = [record for record in caplog.records if record.exc_info]
    assert record.__dict__["incident"] in error(reply)["message"]


def told(address: tuple[str, int], data: bytes) -> bytes:
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(data)
        received = b""
        while more := connection.recv(65536):
            received += more
    return received


def test_slow_callers_are_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with alone(tmp_path, monkeypatch) as address:
        assert told(address, b"GET /healthz HT") == b""  # no request: nothing to answer
        for body in (b"Content-Length: 9\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n5\r\nab"):
            reply = told(address, POST + body)
            assert status(reply) == 408
            assert "did not arrive within" in error(reply)["message"]
        assert status(told(address, b"GET /readyz HTTP/1.0\r\n\r\n")) == 503


def test_who_has_no_token_is_refused_before_a_body_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a few callers that nobody knows could hold all the room for bodies."""
    tokens = tmp_path / "tokens.yaml"
    tokens.write_text("- {name: line-3, token: a-secret-of-the-test, scopes: [infer]}\n")
    length = b"Content-Length: 1000000\r\n\r\n"
    with alone(tmp_path, monkeypatch, f"--tokens={tokens}") as address:
        for token in (b"", b"Authorization: Bearer guessed\r\n", b"Authorization: Basic eA==\r\n"):
            reply = told(address, POST + token + length)
            assert status(reply) == 401
            assert b"WWW-Authenticate: Bearer" in reply
        reply = told(address, POST + b"Authorization: Bearer a-secret-of-the-test\r\n" + length)
        assert status(reply) == 408


FEEDBACK = b"POST /v1/feedback?prediction_id=cells:1:x&wrong=true HTTP/1.1\r\n"


@pytest.mark.parametrize("post", [POST, FEEDBACK])
@pytest.mark.parametrize(
    ("headers", "code"),
    [
        (b"Sec-Fetch-Site: cross-site\r\nOrigin: https://elsewhere.example\r\n", 403),
        (b"Sec-Fetch-Site: same-site\r\nOrigin: http://localhost:3000\r\n", 403),
        (b"Sec-Fetch-Site: cross-site\r\n", 403),
        (b"Origin: null\r\n", 403),
        (b"Origin: http://localhost:3000\r\n", 403),
        (b"Origin: http://localhost:8002\r\n", 408),
        (b"Sec-Fetch-Site: none\r\n", 408),
        # A proxy that gives us another Host than the browser's.
        (b"Sec-Fetch-Site: same-origin\r\nOrigin: https://app.example\r\n", 408),
    ],
)
def test_pages_of_other_sites_may_send_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, post: bytes, headers: bytes, code: int
) -> None:
    """No fetch with mode no-cors asks us first, and feedback changes something."""
    length = b"Content-Length: 1000000\r\n\r\n"
    with alone(tmp_path, monkeypatch) as address:
        reply = told(address, post + b"Host: localhost:8002\r\n" + headers + length)
    assert status(reply) == code  # 408: its body was waited for
    if code == 403:
        assert error(reply)["code"] == "PERMISSION_DENIED"


@pytest.mark.parametrize(
    ("host", "tokens", "code"),
    [("localhost:8002", False, 408), ("evil.example:8002", False, 403), ("a.example", True, 401)],
)
def test_a_page_gains_nothing_by_pointing_its_name_at_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, tokens: bool, code: int
) -> None:
    """DNS rebinding: to the browser it is the page's own site. With tokens, it has none."""
    file = tmp_path / "tokens.yaml"
    file.write_text("- {name: line-3, token: a-secret-of-the-test, scopes: [feedback]}\n")
    said = f"Host: {host}\r\nOrigin: http://{host}\r\nContent-Length: 1000000\r\n\r\n"
    with alone(tmp_path, monkeypatch, *([f"--tokens={file}"] if tokens else [])) as address:
        assert status(told(address, FEEDBACK + said.encode())) == code


def test_a_front_end_that_is_away_is_told_without_its_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with alone(tmp_path, monkeypatch) as address:
        reply = told(address, POST + b"Content-Length: 3\r\n\r\nabc")
        assert status(reply) == 503
        assert b"Retry-After: 1" in reply
        assert error(reply) == {
            "code": "UNAVAILABLE",
            "reason": "unavailable",
            "message": "the front end is being started; retry",
        }


def test_a_caller_who_does_not_read_the_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 64 * 2**20  # more than the kernel takes
    monkeypatch.setattr(http_server, "WRITE_SECONDS", 0.2)
    monkeypatch.setattr(http_server.metrics, "exposition", lambda: (b"x" * size, "text/plain"))

    async def scenario() -> int:
        server = HttpServer(lambda: "", parse(["--store=file:///nowhere", "--http-port=0"], {}))
        host, port = (await server.start("unix:none"))["http"].split(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
        writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
        await reader.readexactly(1)
        await until(lambda: not server._open)
        received = 1
        with contextlib.suppress(ConnectionResetError):
            while data := await reader.read(2**20):
                received += len(data)
        writer.close()
        await server.close()
        return received

    assert asyncio.run(asyncio.wait_for(scenario(), 60)) < size

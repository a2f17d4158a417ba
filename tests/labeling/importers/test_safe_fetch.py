"""URLs of strangers: only public addresses, whatever their names, redirects and servers try."""

import ipaddress
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.certificates import authority, signed
from support.waiting import wait_for

from visionloop_labeling.fetch_rules import FetchRules
from visionloop_labeling.safe_fetch import FetchError, SafeFetcher

PUBLIC = "93.184.215.14"
LOOPBACK = ipaddress.ip_network("127.0.0.0/8")


class Server(ThreadingHTTPServer):
    """Answers by the path; remembers what was asked."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Answers)
        self.asked: list[tuple[str, str]] = []
        self.redirect = ""
        self.at_once = 0
        self.most_at_once = 0
        self.let_go = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def port(self) -> int:
        return self.server_address[1]

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that leave in the middle are what these tests are about."""

    def stop(self) -> None:
        self.let_go.set()
        self.shutdown()
        self.server_close()


class Answers(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers["Host"]))
        getattr(self, "_" + self.path.strip("/").partition("?")[0], self._missing)()

    def log_message(self, *_: object) -> None:
        pass

    def _send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers and "Transfer_Encoding" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def _missing(self) -> None:
        self._send(404, b"no")

    def _image(self) -> None:
        self._send(200, b"pixels")

    def _moved(self) -> None:
        self._send(302, Location=self.server.redirect)

    def _round(self) -> None:
        self._send(302, Location="/round")

    def _relative(self) -> None:
        self._send(301, Location="image")

    def _large(self) -> None:
        self._send(200, b"x" * 2000)

    def _large_untold(self) -> None:
        self._send(200, b"40\r\n" + b"x" * 64 + b"\r\n", Transfer_Encoding="chunked")
        for _ in range(40):
            self.wfile.write(b"40\r\n" + b"x" * 64 + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def _cut(self) -> None:
        self._send(200, b"half", Content_Length="100")

    def _garbage(self) -> None:
        self.wfile.write(b"\x00\xff not http\r\n\r\n")
        self.close_connection = True

    def _trickle(self) -> None:
        self._send(200, Content_Length="100000")
        while not self.server.let_go.wait(0.02):
            self.wfile.write(b"x")

    def _slow_head(self) -> None:
        while not self.server.let_go.wait(0.02):
            self.wfile.write(b"X")

    def _several(self) -> None:
        self.server.at_once += 1
        self.server.most_at_once = max(self.server.most_at_once, self.server.at_once)
        time.sleep(0.05)  # so that fetches overlap; nothing is asserted of its length
        self.server.at_once -= 1
        self._send(200, b"pixels")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.stop()


def resolver(names: dict[str, list[str]]) -> Callable[[str, int], list[str]]:
    """A name service under the attacker's control; plain addresses are themselves."""

    def resolve(host: str, _port: int) -> list[str]:
        return names.get(host) or [host]

    return resolve


def fetcher(server: Server, *networks: object, names: dict[str, list[str]] | None = None, **rules):
    allowed = {"max_bytes": 1000, "seconds": 20.0, "ports": frozenset({server.port, 80, 443})}
    return SafeFetcher(
        FetchRules(**{**allowed, **rules}, networks=networks or (LOOPBACK,)),
        resolver(names or {}),
    )


def reason(fetch: SafeFetcher, url: str) -> str:
    with pytest.raises(FetchError) as caught:
        fetch.fetch(url)
    return caught.value.reason


def test_an_allowed_network_is_fetched_from_and_redirects_are_followed(server: Server) -> None:
    fetch = fetcher(server, names={"pictures.example": ["127.0.0.1"]})
    url = f"http://pictures.example:{server.port}"
    assert fetch.fetch(f"{url}/image") == b"pixels"
    assert server.asked[-1] == ("/image", f"pictures.example:{server.port}")
    assert fetch.fetch(f"{url}/relative?x=1") == b"pixels"


INTERNAL = [
    "127.0.0.1", "127.1.2.3", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254",
    "0.0.0.0",  # noqa: S104
    "100.64.0.1", "192.0.0.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255",
    "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1",
    "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:a9fe:a9fe::1", "2001:db8::1", "100::1",
    "fec0::1", "64:ff9b:1::a00:1", "168.63.129.16", "::ffff:168.63.129.16",
]  # fmt: skip


@pytest.mark.parametrize("address", INTERNAL)
def test_names_of_internal_addresses_are_refused(address: str) -> None:
    fetch = SafeFetcher(FetchRules(), resolver({"nice.example": [address]}))
    assert reason(fetch, "http://nice.example/") == "forbidden_address"
    both = SafeFetcher(FetchRules(), resolver({"nice.example": [PUBLIC, address]}))
    assert reason(both, "https://nice.example/") == "forbidden_address"


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "2130706433", "0x7f.1", "0x7f000001", "017700000001", "0177.0.0.1", "127.1",
     "[::1]", "[::ffff:127.0.0.1]", "localhost", "LOCALHOST", "0"],
)  # fmt: skip
def test_spellings_of_loopback_are_refused_by_the_real_resolver(server: Server, host: str) -> None:
    before = len(server.asked)
    fetch = SafeFetcher(FetchRules(ports=frozenset({server.port})))
    assert reason(fetch, f"http://{host}:{server.port}/image") in (
        "forbidden_address",
        "no_such_host",
    )
    assert len(server.asked) == before
    fetch.close()


def test_rebinding_gains_nothing(server: Server) -> None:
    """A name that is public when it is checked and internal when it is asked again."""
    answers = iter([["127.0.0.1"], ["10.0.0.1"], ["127.0.0.1"]])
    asked = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return next(answers)

    rules = FetchRules(ports=frozenset({server.port}), networks=(LOOPBACK,))
    fetch = SafeFetcher(rules, resolve)
    assert fetch.fetch(f"http://changing.example:{server.port}/image") == b"pixels"
    assert len(asked) == 1  # the address that was checked is the one that was connected to
    assert reason(fetch, f"http://changing.example:{server.port}/image") == "forbidden_address"


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("http://10.0.0.1/", "forbidden_address"),
        ("http://169.254.169.254/latest/meta-data/", "forbidden_address"),
        ("http://inner.example/", "forbidden_address"),
        ("http://127.0.0.1:22/", "forbidden_port"),
        ("file:///etc/passwd", "bad_url"),
        ("gopher://127.0.0.1/x", "bad_url"),
        ("//10.0.0.1/x", "forbidden_address"),
        ("", "too_many_redirects"),
        ("/round", "too_many_redirects"),
        ("http://\n127.0.0.1/", "bad_url"),
        ("http://[::1", "bad_url"),
        ("//[x]/", "bad_url"),
    ],
)
def test_each_redirect_goes_through_the_same_door(server: Server, target: str, why: str) -> None:
    server.redirect = target.replace("\n", " ")
    fetch = fetcher(server, names={"inner.example": ["10.1.2.3"]})
    assert reason(fetch, f"http://127.0.0.1:{server.port}/moved") == why


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("none", "http_status"),
        ("large", "too_many_bytes"),
        ("large_untold", "too_many_bytes"),
        ("cut", "unreachable"),
        ("garbage", "unreachable"),
    ],
)
def test_answers_that_are_none(server: Server, path: str, why: str) -> None:
    assert reason(fetcher(server), f"http://127.0.0.1:{server.port}/{path}") == why


@pytest.mark.parametrize("path", ["trickle", "slow_head"])
def test_a_server_that_sends_a_byte_at_a_time_is_left(server: Server, path: str) -> None:
    fetch = fetcher(server, seconds=0.3, max_bytes=10**6)
    assert reason(fetch, f"http://127.0.0.1:{server.port}/{path}") == "too_slow"


def test_closing_cuts_what_is_under_way(server: Server) -> None:
    fetch = fetcher(server, seconds=60.0, max_bytes=10**6)
    caught: list[FetchError] = []

    def get() -> None:
        try:
            fetch.fetch(f"http://127.0.0.1:{server.port}/trickle")
        except FetchError as error:
            caught.append(error)

    before = len(server.asked)
    fetching = threading.Thread(target=get)
    fetching.start()
    wait_for(lambda: len(server.asked) > before)
    fetch.close()
    fetching.join(timeout=20)
    assert [error.reason for error in caught] == ["unreachable"]


def test_a_host_is_asked_by_a_few_at_a_time(server: Server) -> None:
    fetch = fetcher(server, per_host=2)
    url = f"http://127.0.0.1:{server.port}/several"
    threads = [threading.Thread(target=fetch.fetch, args=(url,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.most_at_once == 2
    assert fetch._hosts == {}, "a list may name a million of them"


@pytest.mark.parametrize(
    "url",
    ["", "x", "http://", "http:///x", "ftp://a/", "http://a:b@c.example/", "http://a b/",
     "http://ä.example/", "http://a:99999/", "http://a:x/", "http://[::1/", "http://a/\r\nX: y",
     "javascript:alert(1)", "http://" + "a" * 3000, "http://a%00b/", "http://a\\b/", "HTTP:/x"],
)  # fmt: skip
def test_what_is_no_url(url: str) -> None:
    assert reason(SafeFetcher(FetchRules()), url) == "bad_url"


def test_proxies_of_the_environment_are_not_used(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    fetch = fetcher(server, names={"pictures.example": ["127.0.0.1"]})
    assert fetch.fetch(f"http://pictures.example:{server.port}/image") == b"pixels"


def test_tls_is_checked_by_the_name_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = authority(tmp_path)
    pair = signed(tmp_path, "server", ours)  # for localhost
    running = Server()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    seen: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: seen.append(name)
    running.socket = context.wrap_socket(running.socket, server_side=True)
    names = {"localhost": ["127.0.0.1"], "other.example": ["127.0.0.1"]}
    try:
        untrusting = fetcher(running, names=names)
        assert reason(untrusting, f"https://localhost:{running.port}/image") == "tls"
        monkeypatch.setenv("SSL_CERT_FILE", str(ours.certificate))
        trusting = fetcher(running, names=names)
        assert trusting.fetch(f"https://localhost:{running.port}/image") == b"pixels"
        assert reason(trusting, f"https://other.example:{running.port}/image") == "tls"
        assert seen == ["localhost", "localhost", "other.example"]
        running.redirect = f"http://10.0.0.1:{running.port}/"
        moved = f"https://localhost:{running.port}/moved"
        assert reason(trusting, moved) == "forbidden_address"
    finally:
        running.stop()


@given(st.ip_addresses())
def test_no_address_that_is_not_global_is_allowed(address) -> None:
    if FetchRules().allows(address):
        assert address.is_global
        assert not address.is_private
        assert not address.is_multicast


@given(st.text(max_size=60))
def test_any_text_is_a_url_or_refused(text: str) -> None:
    fetch = SafeFetcher(FetchRules(), lambda *_: [])
    with pytest.raises(FetchError):
        fetch.fetch(text)
    with pytest.raises(FetchError):
        fetch.fetch(f"http://{text}")

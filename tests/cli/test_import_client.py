"""The HTTP client of imports where there is no labeling-ingest service; with one it is tested in
tests/labeling/importers/test_imports_service.py."""

import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support.command_line import command, environment
from support.stores import free_ports

from visionloop.cli.import_client import ImportClient
from visionloop.errors import ConfigurationError, InvalidInputError, UnavailableError


class WebSite(BaseHTTPRequestHandler):
    """Says the same to everybody, as the page of another program."""

    def do_GET(self) -> None:
        body = b"<!doctype html><title>Welcome</title>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


class Forms(BaseHTTPRequestHandler):
    """Keeps what is sent."""

    seen: list[tuple[str, bytes]]  # boundary, body

    def do_POST(self) -> None:
        boundary = self.headers["Content-Type"].partition("boundary=")[2]
        self.seen.append((boundary, self.rfile.read(int(self.headers["Content-Length"]))))
        body = json.dumps({"id": "1", "state": "queued"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def forms() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """The address of a site that takes forms, and those that it took."""
    seen: list[tuple[str, bytes]] = []
    handler = type("SeenForms", (Forms,), {"seen": seen})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}", seen
        server.shutdown()
        thread.join()


@pytest.fixture
def web_site() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), WebSite) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    "url",
    ["", "http://", "ftp://labeling", "http://labeling:99999", "http://labeling:eighty",
     "http://labeling:0", "http://[::1", "labeling:80:80"],
)  # fmt: skip
def test_a_url_that_is_no_address_is_told(url: str) -> None:
    with pytest.raises(ConfigurationError, match="is not the service's HTTP address"):
        ImportClient(url, "cells", token=None)


def test_another_program_at_the_address_is_told(web_site: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"at {web_site} is not the labeling-ingest"):
        ImportClient(web_site, "cells", token=None).create_dataset("classification")


def test_a_file_cannot_end_its_own_part_of_the_form(
    forms: tuple[str, list[tuple[str, bytes]]], tmp_path: Path
) -> None:
    """Of a data set from anywhere, which knows how an earlier import was sent."""
    address, seen = forms
    client = ImportClient(address, "cells", token=None)
    (tmp_path / "a.zip").write_bytes(b"harmless")
    client.begin("archive", {}, tmp_path / "a.zip", "key")
    hostile = f"\r\n--{seen[0][0]}\r\n".encode()
    hostile += b'Content-Disposition: form-data; name="kind"\r\n\r\nurls'
    (tmp_path / "a.zip").write_bytes(hostile)
    client.begin("archive", {}, tmp_path / "a.zip", "key")
    boundary, body = seen[1]
    _, *parts, end = body.split(f"--{boundary}".encode())
    assert len(parts) == 3  # kind, parameters, file
    assert parts[2].endswith(b"\r\n\r\n" + hostile + b"\r\n")
    assert end == b"--\r\n"


@pytest.mark.parametrize("batch", ["Prüfung", "a\nb"])
def test_a_name_that_no_header_holds_is_refused_in_words(batch: str) -> None:
    with pytest.raises(InvalidInputError, match="printable ASCII"):
        ImportClient("127.0.0.1:1", "cells", token=None).begin("s3", {}, None, batch)


def test_a_password_in_the_address_is_not_shown() -> None:
    client = ImportClient(f"http://me:hunter2@127.0.0.1:{free_ports(1)[0]}", "cells", token=None)
    with pytest.raises(UnavailableError, match=r"at 127\.0\.0\.1:") as caught:
        client.create_dataset("classification")
    assert "hunter2" not in str(caught.value)


def test_a_token_with_a_line_end_is_refused_and_not_shown(
    forms: tuple[str, list[tuple[str, bytes]]], tmp_path: Path
) -> None:
    """As a Secret made of a file has it. http.client would repeat it in its complaint."""
    (tmp_path / "a.zip").write_bytes(b"PK\5\6" + bytes(18))
    done = subprocess.run(
        command("import", tmp_path / "a.zip", "--dataset", "cells", "--url", f"http://{forms[0]}"),
        capture_output=True,
        text=True,
        env=environment() | {"VISIONLOOP_TOKEN": "hunter2\n"},
        timeout=120,
        check=False,
    )
    assert done.returncode == 64, done.stderr
    assert "hunter2" not in done.stdout + done.stderr
    assert done.stderr.startswith("visionloop: VISIONLOOP_TOKEN: token must be")

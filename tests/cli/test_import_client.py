"""The HTTP client of imports where there is no labeling-ingest service; with one it is tested in
tests/labeling/importers/test_imports_service.py."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from visionloop.cli.import_client import ImportClient
from visionloop.errors import ConfigurationError


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

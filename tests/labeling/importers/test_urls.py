"""Images taken in over URLs: lists of them, and tables that name their images by URL."""

import ipaddress
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from support.imports import picture, receipts, run

from visionloop_labeling.fetch_rules import FetchRules
from visionloop_labeling.import_jobs import JobState

LOOPBACK = ipaddress.ip_network("127.0.0.0/8")
PICTURES = {f"/{number}.png": picture(number) for number in range(3)}


class Photographs(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/2.png")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.path == "/inside":  # a redirect into the operator's own network
            self.send_response(302)
            self.send_header("Location", "http://169.254.169.254/latest/meta-data")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = b"hello" if self.path == "/text" else PICTURES.get(self.path)
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Photographs)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def tools(site: str) -> dict[str, Any]:
    """What an operator allows: this network, this port."""
    port = int(site.rpartition(":")[2])
    return {"fetch_rules": FetchRules(ports=frozenset({port, 80}), networks=(LOOPBACK,))}


def test_a_list_of_urls_is_taken_in_row_by_row(core: Any, site: str) -> None:
    lines = [
        "# cells of Monday", f"{site}/0.png", "", f"{site}/moved", f"{site}/gone",
        f"{site}/text", f"{site}/inside", "http://10.0.0.1/x.png", "ftp://example.com/x.png",
        f"{site}/0.png",
    ]  # fmt: skip
    job = run(core, "urls", "\n".join(lines).encode(), tools(site), label="crack")
    assert job.state == JobState.DONE, job.message
    assert [(row.outcome, row.reason) for row in receipts(core, job)] == [
        ("accepted", ""),
        ("accepted", ""),
        ("rejected", "http_status"),
        ("rejected", "not_an_image"),
        ("rejected", "forbidden_address"),
        ("rejected", "forbidden_address"),
        ("rejected", "bad_url"),
        ("duplicate", ""),
    ]
    labels = {one.source: one.class_name for one in core.labels().values()}
    assert labels == {f"{site}/0.png": "crack", f"{site}/moved": "crack"}


def test_a_fresh_install_asks_no_address_that_is_not_public(core: Any, site: str) -> None:
    rules = FetchRules(ports=tools(site)["fetch_rules"].ports)
    job = run(core, "urls", f"{site}/0.png".encode(), {"fetch_rules": rules})
    [row] = receipts(core, job)
    assert (row.outcome, row.reason) == ("rejected", "forbidden_address")
    assert not core.labels()


@pytest.mark.parametrize("kind", ["csv", "coco", "label-studio"])
def test_tables_name_their_images_by_url(core: Any, site: str, kind: str) -> None:
    url = f"{site}/1.png"
    table = {
        "csv": f"url,label\n{url},crack\n",
        "coco": json.dumps(
            {
                "images": [
                    {"id": 1, "file_name": "1.png", "coco_url": url, "width": 32, "height": 24}
                ],
                "categories": [{"id": 1, "name": "crack"}],
                "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 8, 9]}],
            }
        ),
        "label-studio": json.dumps(
            [
                {
                    "id": 1,
                    "data": {"image": url},
                    "annotations": [
                        {
                            "id": 1,
                            "result": [
                                {
                                    "type": "choices",
                                    "from_name": "c",
                                    "to_name": "image",
                                    "value": {"choices": ["crack"]},
                                }
                            ],
                        }
                    ],
                }
            ]
        ),
    }[kind]
    job = run(core, kind, table.encode(), tools(site))
    assert job.state == JobState.DONE, job.message
    [row] = receipts(core, job)
    assert row.outcome == "accepted", row.message
    assert len(core.labels()) == 1

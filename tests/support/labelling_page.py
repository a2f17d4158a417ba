"""The labelling page as a person uses it, over a real service: keys, images, what was stored."""

import http.client
import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlencode

from playwright.sync_api import Page
from support.labeling_server import LabelingServer
from support.waiting import PATIENCE

from visionloop.proto.v1 import labeling_pb2 as pb

# Painted, and no longer on its way: only then a key is about it.
_SHOWN = (
    "() => document.querySelector('#stage[data-fresh], #layer.loading') ? undefined : "
    "(document.querySelector('#picture img')?.src.match(/images\\/(\\w+)/) ?? [])[1]"
)

_DONE = "() => !document.querySelector('#nothing-links').closest('[hidden]')"


class Site:
    """One dataset of a running service, by its HTTP interface."""

    def __init__(self, server: LabelingServer, dataset: str, task: str, classes: list[str]) -> None:
        self.server = server
        self.dataset = dataset
        self.root = f"/v1/datasets/{dataset}"
        self.ask("POST", "/v1/datasets", {"name": dataset, "settings": {"task": task}})
        for name in classes:
            self.ask("POST", f"{self.root}/classes", {"name": name})

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """The answer's JSON."""
        connection = http.client.HTTPConnection(self.server.http_address, timeout=PATIENCE)
        try:
            headers = {"Content-Type": "application/json"}
            connection.request(method, path, json.dumps(body) if body else None, headers)
            answer = connection.getresponse()
            text = answer.read()
            assert answer.status < 300, text
            return json.loads(text)
        finally:
            connection.close()

    def fetch(self, path: str) -> tuple[int, bytes]:
        """HTTP status and body."""
        connection = http.client.HTTPConnection(self.server.http_address, timeout=PATIENCE)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def add(self, images: Iterable[bytes]) -> list[str]:
        """Unlabelled images; their digests."""
        rows = [
            pb.SubmitImageRequest(
                dataset=self.dataset, batch="b", ordinal=n, image=image, source=f"photo-{n}.png"
            )
            for n, image in enumerate(images)
        ]
        receipts = self.server.submit(rows)
        assert all(one.outcome == pb.SubmitImageReceipt.ACCEPTED for one in receipts), receipts
        return [one.sha256 for one in receipts]

    def item(self, sha256: str) -> Any:
        """The image as it stands."""
        return self.ask("GET", f"{self.root}/images/{sha256}")

    def classes(self, sha256: str) -> list[str] | None:
        """The classes of its label."""
        annotation = self.item(sha256)["annotation"]
        return annotation and annotation.get("classes")

    def history(self, sha256: str) -> list[Any]:
        """Its events, oldest first."""
        return self.ask("GET", f"{self.root}/images/{sha256}/history")

    def kinds(self, sha256: str) -> list[str]:
        """Their kinds."""
        return [event["kind"] for event in self.history(sha256)]


class Labeller:
    """A browser's page on a dataset."""

    def __init__(self, page: Page, site: Site, address: str = "") -> None:
        """`address`: http://host:port, where it is not the service's own."""
        self.page = page
        self.site = site
        self.address = address

    def open(self, **query: str) -> "Labeller":
        """Waits until an image is shown."""
        address = self.address or f"http://{self.site.server.http_address}"
        self.page.goto(f"{address}/datasets/{self.site.dataset}/label?{urlencode(query)}")
        self.wait_ready()
        return self

    def wait_ready(self) -> None:
        """Waits until an image is shown, or has failed to come."""
        self.page.wait_for_selector("#layer:not([hidden]) #picture img")
        self.page.wait_for_function(f"() => ({_SHOWN})() !== undefined")

    @property
    def shown(self) -> str:
        """The digest of the image on screen."""
        self.wait_ready()
        return self.page.evaluate(_SHOWN)

    def press(self, *keys: str) -> None:
        """Keys, one after the other."""
        for key in keys:
            self.page.keyboard.press(key)

    def decide(self, key: str) -> str:
        """Presses a key that leads on; the digest of the image it was about."""
        before = self.shown
        self.press(key)
        self.wait_left(before)
        return before

    def wait_left(self, sha256: str) -> None:
        """Waits until another image is on screen, or the queue is done."""
        script = f"sha => {{ const now = ({_SHOWN})(); return now ? now !== sha : ({_DONE})() }}"
        self.page.wait_for_function(script, arg=sha256)

    def wait_shown(self, sha256: str) -> None:
        """Waits until this image is on screen."""
        self.page.wait_for_function(f"sha => ({_SHOWN})() === sha", arg=sha256)

    def wait_saved(self) -> None:
        """Waits until nothing is unsent."""
        self.wait_phase("saved")

    def wait_phase(self, phase: str) -> None:
        """Waits for a state of the journal: saved, saving, offline, busy, signed_out, forbidden."""
        self.page.wait_for_selector(f'#journal[data-phase="{phase}"]')

    def text(self, selector: str) -> str:
        """What stands there."""
        return self.page.inner_text(selector).strip()

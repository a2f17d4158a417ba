"""A service with something to show: real photographs, people of every role, a week of work.

Everything goes in as it would in life: imports as archives, labels and decisions over the API, each
by its own account. Three things are put into the database while the service is down, because they
would take a week or a trained bundle: the days on which labels came, and the predictions, which are
those of a logistic regression fitted here on the labelled images.
"""

import http.client
import io
import json
import sqlite3
import subprocess
import sys
import time
import uuid
import zipfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
from sklearn.linear_model import LogisticRegression
from support.labeling_server import LabelingServer
from support.pictures import solar_cells

PASSWORD = "four plain words together"  # noqa: S105 - of a service that lives for a minute
PEOPLE = {"ada": "admin", "rosa": "reviewer", "ben": "labeller", "line-3": "service"}
CELLS, LABELLED = 264, 168
PATIENCE = 120.0  # seconds
# Boxes (x, y, width, height) in pixels of scikit-image's photographs.
BOXES = {
    "astronaut.png": [("person", 30, 14, 375, 498), ("helmet", 277, 343, 232, 169)],
    "coffee.png": [("cup", 173, 14, 240, 296), ("spoon", 318, 67, 107, 261)],
    "chelsea.png": [("cat", 0, 0, 374, 299)],
    "motorcycle_left.png": [("motorcycle", 119, 72, 565, 382)],
    "rocket.jpg": [("rocket", 305, 122, 34, 302)],
}
OTHERS = ("horse.png", "coins.png", "retina.jpg", "page.png")


class Stage:
    """The staged service. `folder` keeps its files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tokens: dict[str, str] = {}
        self.server = LabelingServer(folder, "--accounts")

    @property
    def address(self) -> str:
        """http://host:port."""
        return f"http://{self.server.http_address}"

    def set(self) -> None:
        """Fills the service; afterwards it runs."""
        self.server.listening().terminate()
        for name, role in PEOPLE.items():
            self._account("add", name, "--role", role, *_password(role), stdin=PASSWORD)
            made = self._account("token", name, "--for", "conveyor camera", "--json")
            self._tokens[name] = json.loads(made)["token"]
        self._restart()
        self._cells()
        self._photographs()
        self.server.terminate()
        self._spread_over_days()
        self._predict("solar-cells")
        self._restart()

    def ask(self, who: str, method: str, path: str, body: object = None) -> Any:
        """The answer's JSON to somebody's request."""
        data, kind = (body, "") if isinstance(body, bytes) else (json.dumps(body).encode(), "json")
        return self._send(
            who, method, path, data if body is not None else None, f"application/{kind}"
        )

    def images(self, dataset: str, **conditions: str) -> list[Any]:
        """The images for which the conditions hold."""
        query = urlencode({**conditions, "limit": 200})
        return self.ask("ada", "GET", f"/v1/datasets/{dataset}/images?{query}")["items"]

    def close(self) -> None:
        """Ends the service."""
        self.server.close()

    def _restart(self) -> None:
        self.server = LabelingServer(self._folder, "--accounts").listening()

    def _account(self, *arguments: str, stdin: str = "") -> str:
        command = [sys.executable, "-m", "visionloop_labeling", "account", *arguments]
        command += ["--database", self.server.database]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=True)
        return done.stdout

    def _send(self, who: str, method: str, path: str, data: bytes | None, kind: str) -> Any:
        headers = {"Authorization": f"Bearer {self._tokens[who]}", "Content-Type": kind}
        connection = http.client.HTTPConnection(self.server.http_address, timeout=PATIENCE)
        try:
            connection.request(method, path, data, headers)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {text.decode()[:500]}")
        return json.loads(text or b"null")

    def _import(
        self, dataset: str, name: str, entries: Mapping[str, bytes], **said: object
    ) -> None:
        """An archive as an import, followed to its end."""
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as writer:
            for path, data in entries.items():
                writer.writestr(path, data)
        body, kind = _multipart(
            archive.getvalue(), name, kind="archive", parameters=json.dumps(said)
        )
        job = self._send("ada", "POST", f"/v1/datasets/{dataset}/imports", body, kind)
        end = time.monotonic() + PATIENCE
        while job["state"] in ("queued", "running"):
            if time.monotonic() > end:
                raise TimeoutError(f"the import of {name} does not end: {job}")
            time.sleep(0.1)
            job = self.ask("ada", "GET", f"/v1/datasets/{dataset}/imports/{job['id']}")
        if job["state"] != "done":
            raise RuntimeError(f"the import of {name} failed: {job}")

    def _say(self, who: str, dataset: str, sha256: str, **event: object) -> None:
        said = {"event_id": str(uuid.uuid4()), "sha256": sha256, **event}
        self.ask(who, "POST", f"/v1/datasets/{dataset}/events", said)

    def _cells(self) -> None:
        root = "/v1/datasets/solar-cells"
        self.ask("ada", "POST", "/v1/datasets", {"name": "solar-cells"})
        cells = solar_cells()
        chosen = [cells[n] for n in np.linspace(0, len(cells) - 1, CELLS).astype(int)]
        first, rest = chosen[:LABELLED], chosen[LABELLED:]
        named = {f"{_class(defect)}/{path.name}": path.read_bytes() for path, defect, _ in first}
        named["cracked/cut-off.png"] = next(iter(named.values()))[:9000]
        self._import("solar-cells", "line-3-september.zip", named)
        unnamed = {path.name: path.read_bytes() for path, *_ in rest}
        self._import("solar-cells", "line-3-october.zip", unnamed, classes=False)
        colours = {"sound": "#2f8f4e", "cracked": "#c8441e", "unclear": "#7a6bd1"}
        helps = {
            "sound": "No crack, no dark finger; scratches of the glass do not count.",
            "cracked": "A dark line or area with sharp edges that runs through the cell.",
            "unclear": "Gray areas without edges: a second look with the current curve.",
        }
        for key, (name, colour) in zip("123", colours.items(), strict=True):
            change = {"colour": colour, "help": helps[name], "hotkey": key}
            self.ask("rosa", "PATCH", f"{root}/classes/{name}", change)
        self.ask("rosa", "POST", f"{root}/classes", {"name": "finger interruption"})
        self.ask("ada", "POST", f"{root}/snapshots")
        self.ask("rosa", "PUT", f"{root}/attributes", [
            {"name": "light", "kind": "choice", "detail": {"choices": ["even", "fading"]}},
            {"name": "cracks", "kind": "number", "detail": {"minimum": 0, "maximum": 20}},
        ])  # fmt: skip
        self._work("solar-cells")
        self.ask("ada", "POST", f"{root}/snapshots")

    def _work(self, dataset: str) -> None:
        waiting = self.images(dataset, state="open")
        for number, item in enumerate(waiting[:36]):
            who = ("ben", "rosa", "ada")[number % 3]
            said = {"classes": [("sound", "cracked", "sound")[number % 3]]}
            used = {"suggested_by": "cells:3", "suggestion": _outcome(number), "seconds": 1.4}
            self._say(who, dataset, item["sha256"], kind="label", annotation=said, **used)
        for item, note in zip(waiting[36:39], ("glare?", "two cells", ""), strict=True):
            self._say("ben", dataset, item["sha256"], kind="flag", note=note)
        self._say("ben", dataset, waiting[40]["sha256"], kind="skip")
        for item in self.images(dataset, class_id="cracked")[3:8]:
            said = {"sha256": item["sha256"], "label": "sound", "author_kind": "app"}
            self.ask(
                "line-3", "POST", f"/v1/datasets/{dataset}/labels", {**said, "author": "line-3"}
            )

    def _photographs(self) -> None:
        settings = {"task": "detection"}
        self.ask("ada", "POST", "/v1/datasets", {"name": "workshop", "settings": settings})
        folder = Path(str(files("skimage").joinpath("data")))
        entries = {name: (folder / name).read_bytes() for name in (*BOXES, *OTHERS)}
        self._import("workshop", "photographs.zip", entries, classes=False)
        for name in dict.fromkeys(name for boxes in BOXES.values() for name, *_ in boxes):
            self.ask("rosa", "POST", "/v1/datasets/workshop/classes", {"name": name})
        by_source = {item["source"].rpartition("/")[2]: item for item in self.images("workshop")}
        for source, boxes in BOXES.items():
            found = [
                {"class_id": name, "x": x, "y": y, "width": width, "height": height}
                for name, x, y, width, height in boxes
            ]
            if source != "motorcycle_left.png":
                self._say(
                    "ben", "workshop", by_source[source]["sha256"],
                    kind="label", annotation={"boxes": found},
                )  # fmt: skip

    def _database(self) -> sqlite3.Connection:
        return sqlite3.connect(self.server.database.removeprefix("sqlite:///"))

    def _spread_over_days(self) -> None:
        """Gives the labels of people the days of four weeks."""
        now = datetime.now(UTC)
        with self._database() as database:
            events = database.execute(
                "SELECT id, author_kind FROM label_event WHERE kind = 'label' ORDER BY sequence"
            ).fetchall()
            for number, (row, kind) in enumerate(events):
                ago = 40 if kind == "import" else (number * 11 % 26) * (number % 3) // 2
                at = now - timedelta(days=ago, minutes=number)
                database.execute("UPDATE label_event SET at = ? WHERE id = ?", [at, row])

    def _predict(self, dataset: str) -> None:
        with self._database() as database:
            rows = database.execute(
                "SELECT item.id, blob.thumbnail, label_class.key FROM item "
                "JOIN blob ON blob.sha256 = item.sha256 "
                "JOIN dataset ON dataset.id = item.dataset_id "
                "LEFT JOIN label_head ON label_head.item_id = item.id "
                "LEFT JOIN label_class ON label_class.id = label_head.class_id "
                "WHERE dataset.name = ?",
                [dataset],
            ).fetchall()
            keys = dict(database.execute("SELECT key, id FROM label_class"))
            features = np.stack([_features(thumbnail) for _, thumbnail, _ in rows])  # (n, 144)
            named = [number for number, row in enumerate(rows) if row[2]]
            model = LogisticRegression(max_iter=2000, C=0.02)
            model.fit(features[named], [rows[number][2] for number in named])
            for (item, *_), probabilities in zip(rows, model.predict_proba(features), strict=True):
                database.execute(*_prediction(item, model.classes_, probabilities, keys))


def _prediction(
    item: int, classes: Sequence[str], probabilities: Any, keys: Mapping[str, int]
) -> tuple[str, list[object]]:
    ranked = sorted(zip(map(float, probabilities), classes, strict=True), reverse=True)
    scores = json.dumps([[key, round(p, 4)] for p, key in ranked])
    (first, key), (second, _) = ranked[0], ranked[1]
    return (
        "INSERT INTO prediction (item_id, model, version, scores, class_id, probability, margin,"
        " sure, at) VALUES (?, 'cells', 3, ?, ?, ?, ?, ?, ?)",
        [item, scores, keys[key], first, first - second, first > 0.8, datetime.now(UTC)],
    )


def _features(thumbnail: bytes) -> Any:
    """(144,) low frequencies of a stored thumbnail of 64 x 64 gray pixels."""
    gray = np.frombuffer(thumbnail, np.uint8).reshape(64, 64).astype(np.float32)
    return np.log1p(np.abs(np.fft.rfft2(gray))[:12, :12]).ravel()


def _class(defect: float) -> str:
    return "sound" if defect < 0.1 else "cracked" if defect > 0.9 else "unclear"


def _outcome(number: int) -> str:
    return ("accepted", "accepted", "accepted", "accepted", "rejected", "edited")[number % 6]


def _password(role: str) -> list[str]:
    return ["--no-password"] if role == "service" else []


def _multipart(data: bytes, name: str, **fields: str) -> tuple[bytes, str]:
    """A form with a file: body and Content-Type."""
    boundary = uuid.uuid4().hex
    body = b"".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
        for key, value in fields.items()
    )
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
    body += head.encode() + b"Content-Type: application/zip\r\n\r\n" + data
    return body + f"\r\n--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"

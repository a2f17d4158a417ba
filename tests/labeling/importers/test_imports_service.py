"""Imports through the real program: over HTTP, by the CLI, and killed at the worst moments."""

import hashlib
import json
import random
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import update
from support.command_line import result, visionloop
from support.imports import picture, tarred, zipped
from support.kill_places import ROUNDS, Place, at, places
from support.labeling_facts import engine_of
from support.labeling_server import LabelingServer, running_labeling
from support.waiting import wait_for

from visionloop_labeling.schema import ImportJob

FILES = {f"set/{'cats' if n % 2 else 'dogs'}/{n}.png": picture(n) for n in range(48)}
ARCHIVE = zipped(FILES)
COCO = {
    "images": [{"id": n, "file_name": f"{n}.png", "width": 32, "height": 24} for n in range(4)],
    "categories": [{"id": 1, "name": "dog"}],
    "annotations": [{"image_id": n, "category_id": 1, "bbox": [n, 1, 5, 6]} for n in range(3)],
}


def client(server: LabelingServer) -> httpx.Client:
    return httpx.Client(base_url=f"http://{server.http_address}", timeout=60)


def begin(
    http: httpx.Client, kind: str, data: bytes | None, dataset: str = "d", **more: Any
) -> httpx.Response:
    files = {} if data is None else {"file": ("x", data)}
    said = {"kind": kind, "parameters": json.dumps(more.pop("said", {}))}
    sent = {name: (None, value) for name, value in said.items()}
    return http.post(f"/v1/datasets/{dataset}/imports", files={**sent, **files}, **more)


def finished(http: httpx.Client, key: str, dataset: str = "d") -> dict[str, Any]:
    def over() -> dict[str, Any] | None:
        job = http.get(f"/v1/datasets/{dataset}/imports/{key}").json()
        return None if job["state"] in ("queued", "running") else job

    return wait_for(over, hint=f"the end of import {key}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelingServer]:
    with running_labeling(tmp_path_factory.mktemp("imports"), "--max-import-bytes=3000000") as one:
        with client(one) as http:
            http.post("/v1/datasets", json={"name": "d", "settings": {"task": "detection"}})
        yield one


@pytest.fixture
def http(server: LabelingServer) -> Iterator[httpx.Client]:
    with client(server) as opened:
        yield opened


def test_an_archive_is_taken_and_its_receipts_are_told(http: httpx.Client) -> None:
    data = zipped({**FILES, "set/dogs/=bad.png": b"no image"})
    answer = begin(http, "archive", data, headers={"Idempotency-Key": "k"})
    assert answer.status_code == 202, answer.text
    job = finished(http, answer.json()["id"])
    assert (job["state"], job["rows"], job["answered"]) == ("done", 49, 49)
    assert job["counts"] == {"accepted": 48, "duplicate": 0, "rejected": 1, "quarantined": 0}
    again = begin(http, "archive", data, headers={"Idempotency-Key": "k"})
    assert again.json()["id"] == job["id"]
    other = begin(http, "archive", ARCHIVE, headers={"Idempotency-Key": "k"})
    assert (other.status_code, other.json()["reason"]) == (409, "conflict")
    url = f"/v1/datasets/d/imports/{job['id']}"
    page = http.get(f"{url}/receipts", params={"limit": 30}).json()
    rest = http.get(f"{url}/receipts", params={"after": page["next"], "limit": 30}).json()
    assert [one["ordinal"] for one in page["receipts"] + rest["receipts"]] == list(range(49))
    assert rest["next"] is None
    table = http.get(f"{url}/receipts", params={"format": "csv", "outcome": "rejected"}).text
    assert table.splitlines()[0].startswith("ordinal,outcome,sha256,reason")
    assert len(table.splitlines()) == 2
    assert job["id"] in [one["id"] for one in http.get("/v1/datasets/d/imports").json()]
    done = http.post(f"{url}/cancel")
    assert (done.status_code, done.json()["reason"]) == (412, "refused")


@pytest.mark.parametrize(
    ("request_", "status", "field"),
    [
        ({"files": {"kind": (None, "zip"), "file": ("x", b"x")}}, 400, "kind"),
        ({"files": {"kind": (None, "archive")}}, 400, "file"),
        ({"files": {"kind": (None, "archive"), "file": ("x", b"")}}, 400, "file"),
        ({"files": {"kind": (None, "s3"), "file": ("x", b"x")}}, 400, "file"),
        ({"files": {"kind": (None, "s3")}}, 400, "parameters.url"),
        ({"files": {"kind": (None, "urls"), "parameters": (None, "[]"), "file": ("x", b"x")}},
         400, "parameters"),
        ({"files": {"kind": (None, "urls"), "parameters": (None, '{"a":1}'), "file": ("x", b"x")}},
         400, "parameters.a"),
        ({"files": [("file", ("x", b"x")), ("file", ("y", b"y"))]}, 400, "kind"),
        ({"files": [("kind", (None, "csv")), ("file", ("x", b"x")), ("file", ("y", b"y"))]},
         400, "file"),
        ({"files": [("file", ("x", b"x")), ("file", ("y", b"y")), ("kind", (None, "csv"))]},
         400, "file"),
        ({"files": {"kind": (None, "images")}}, 400, "file"),
        ({"files": {"kind": (None, "images"), "parameters": (None, '{"class": "a"}'),
                    "file": ("x", b"x")}}, 400, "parameters.class"),
        ({"files": {"kind": (None, "x" * 70_000)}}, 400, "kind"),
        ({"files": {f"f{n}": (None, "x") for n in range(30)}}, 400, "body"),
        ({"files": {"kind": (None, b"\xff")}}, 400, "kind"),
        ({"content": b"--x", "headers": {"content-type": "multipart/form-data; boundary=x"}},
         400, "body"),
        ({"content": b"{}"}, 400, "Content-Type"),
        ({"content": b"", "headers": {"content-type": "multipart/form-data"}}, 400, "Content-Type"),
        ({"files": {"kind": (None, "archive"), "file": ("x", bytes(4_000_000))}}, 413, ""),
        ({"files": {"kind": (None, "archive")}, "headers": {"Idempotency-Key": "x" * 300}},
         400, "Idempotency-Key"),
    ],
)  # fmt: skip
def test_forms_that_are_none(
    http: httpx.Client, request_: dict[str, Any], status: int, field: str
) -> None:
    answer = http.post("/v1/datasets/d/imports", **request_)
    assert (answer.status_code, answer.json()["field"]) == (status, field), answer.text
    assert http.post("/v1/datasets/none/imports", **request_).status_code in (400, 404, 413)


NAMES = [
    "a.jpg",
    "a.jpg",
    "../../etc/passwd",
    "C:\\photos\\b.png",
    "猫🐈.webp",
    "=1+1",
    "..",
    "no.zip",
]


def test_many_images_of_one_form(http: httpx.Client) -> None:
    pictures = [picture(400 + n) for n in range(len(NAMES))]
    files = [("file", (name, data)) for name, data in zip(NAMES, pictures, strict=True)]
    files.insert(3, ("file", ("empty.jpg", b"")))
    files.append(("parameters", (None, '{"label": "cats"}')))
    files.append(("kind", (None, "images")))  # fields may come after the files
    url = "/v1/datasets/d/imports"
    answer = http.post(url, files=files, headers={"Idempotency-Key": "images"})
    assert answer.status_code == 202, answer.text
    assert answer.json()["file"] == "a.jpg and 8 more"
    job = finished(http, answer.json()["id"])
    assert (job["state"], job["rows"]) == ("done", 9), job
    page = http.get(f"{url}/{job['id']}/receipts").json()["receipts"]
    assert [(one["source"], one["outcome"]) for one in page] == [
        ("a.jpg", "accepted"), ("a.jpg", "accepted"), ("passwd", "accepted"),
        ("empty.jpg", "rejected"), ("b.png", "accepted"), ("猫🐈.webp", "accepted"),
        ("=1+1", "accepted"), ("unnamed", "accepted"), ("no.zip", "rejected"),
    ]  # fmt: skip
    digests = [hashlib.sha256(data).hexdigest() for data in pictures]
    assert [one["sha256"] for one in page if one["outcome"] == "accepted"] == digests[:-1]
    assert "send it by itself, as kind archive" in page[-1]["message"]
    history = http.get(f"/v1/datasets/d/images/{digests[1]}/history").json()
    assert [one["annotation"]["classes"] for one in history] == [["cats"]], history
    again = http.post(url, files=files, headers={"Idempotency-Key": "images"})
    assert again.json()["id"] == job["id"]
    files[0], files[1] = files[1], files[0]  # the same names, other images behind them
    other = http.post(url, files=files, headers={"Idempotency-Key": "images"})
    assert (other.status_code, other.json()["reason"]) == (409, "conflict")


def test_the_cli_sends_folders_of_annotations_and_follows(
    server: LabelingServer, http: httpx.Client, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for n in range(4):
        (images / f"{n}.png").write_bytes(picture(100 + n))
    table = tmp_path / "instances.json"
    table.write_text(json.dumps(COCO))
    flags = ("--dataset", "cli", "--url", f"http://{server.http_address}")
    first = result("import", table, "--images", images, "--option", "unannotated=empty", *flags)
    assert (first["rows"], first["accepted"], first["rejected"]) == (4, 4, [])
    again = result("import", table, "--images", images, "--option", "unannotated=empty", *flags)
    assert again["import"] == first["import"]
    archive = tmp_path / "more.tar"
    archive.write_bytes(tarred({"cats/a.png": picture(200), "cats/b.png": b"x"}))
    said = result("import", archive, *flags, code=65)
    assert (said["accepted"], said["message"]) == (1, "")
    [row] = said["rejected"]
    assert (row["row"], row["source"], row["reason"]) == (1, "cats/b.png", "not_an_image")
    by_digest = tmp_path / "labels.csv"
    receipts = http.get(f"/v1/datasets/cli/imports/{first['import']}/receipts").json()["receipts"]
    by_digest.write_text("sha256,label\n" + f"{receipts[3]['sha256']},cat\n" + f"{'0' * 64},dog\n")
    labelled = result("import", by_digest, *flags, code=65)
    assert (labelled["duplicates"], len(labelled["rejected"])) == (1, 1)
    assert "has no image" in labelled["rejected"][0]["message"]
    broken = visionloop("import", archive, "--format", "yolo", *flags, code=65)
    assert "does not name its classes" in broken


def test_the_cli_makes_a_dataset_of_the_task_that_the_labels_need(
    server: LabelingServer, http: httpx.Client, tmp_path: Path
) -> None:
    (tmp_path / "instances.json").write_text(json.dumps(COCO))
    (tmp_path / "images" / "cats").mkdir(parents=True)
    (tmp_path / "images" / "cats" / "0.png").write_bytes(picture(100))
    (tmp_path / "one.tar").write_bytes(tarred({"cats/a.png": picture(200)}))
    target = ("--url", f"http://{server.http_address}", "--target", server.grpc_address)
    coco = (tmp_path / "instances.json", "--images", tmp_path / "images" / "cats")
    visionloop("import", *coco, *target, "--dataset", "boxes", code=65)
    visionloop("import", tmp_path / "one.tar", *target, "--dataset", "class")
    visionloop("import", tmp_path / "one.tar", *target, "--dataset", "a", "--task", "multi_label")
    visionloop("import", tmp_path / "images", *target, "--dataset", "b", "--task", "multi_label")
    tasks = {one["name"]: one["settings"]["task"] for one in http.get("/v1/datasets").json()}
    assert (tasks["boxes"], tasks["class"]) == ("detection", "classification")
    assert (tasks["a"], tasks["b"]) == ("multi_label", "multi_label")
    for source in ("one.tar", "images"):  # sent over HTTP, and row by row
        other = ("--dataset", "a", "--task", "detection")
        said = visionloop("import", tmp_path / source, *target, *other, code=64)
        assert "'a' is there already, and its task, multi_label, never changes" in said


# The suite dies at the first of these on SQLite and files; KILL_ROUNDS asks for all of them, each
# with random moments, on every combination of database and store.
FAILPOINTS = [
    "import.checkpoint:1",
    "import.staged",
    "import.queued",
    "import.claimed",
    "ingest.committed:2",
    "import.finished",
    "import.discarded",
]


@pytest.mark.kill
@pytest.mark.timeout(7200 if ROUNDS else 600)
@pytest.mark.parametrize("place", places(sample=at("sqlite", "file")), indirect=True)
def test_an_import_survives_kills_and_stops(place: Place, tmp_path: Path) -> None:
    """Killed at a step, killed at random moments, stopped: sent again it has each row once."""
    chance = random.Random(ROUNDS)

    def running(**environment: str) -> AbstractContextManager[LabelingServer]:
        return running_labeling(
            tmp_path, "--inspectors=1", store=place.store, database=place.database, **environment
        )

    for number, failpoint in enumerate(FAILPOINTS if ROUNDS else FAILPOINTS[:1]):
        dataset = f"d{number}"  # with the same images: the later ones find them in the store
        with running(VISIONLOOP_FAILPOINT=failpoint) as server:
            send(server, dataset)
            server.wait_killed()
        a_minute_passes(place)
        for _ in range(ROUNDS // 12):  # few: a job that is begun five times in vain is given up
            with running() as server:
                send(server, dataset)
                time.sleep(chance.uniform(0.0, 0.6))
                server.process.send_signal(signal.SIGKILL)
                server.wait_killed()
            a_minute_passes(place)
        if ROUNDS:
            with running() as server:
                send(server, dataset)
                assert server.terminate() == 0  # in time, the job given back
        with running() as server:
            check_once(server, dataset)


def a_minute_passes(place: Place) -> None:
    """The lease of a killed replica ends; on SQLite a restart does not wait for it anyway."""
    engine = engine_of(place.database)
    with engine.begin() as connection:
        connection.execute(update(ImportJob).values(lease_until=datetime.now(UTC)))
    engine.dispose()


# Two imports under their keys; the first one dies at the first failpoint.
FORMS: dict[str, list[tuple[str, Any]]] = {
    "images": [
        ("kind", (None, "images")),
        ("parameters", (None, '{"label": "cats"}')),
        *(("file", (f"{n % 6}.png", picture(500 + n))) for n in range(12)),
    ],
    "archive": [("kind", (None, "archive")), ("file", ("x", ARCHIVE))],
}


def send(server: LabelingServer, dataset: str) -> None:
    with client(server) as http:
        try:
            http.post("/v1/datasets", json={"name": dataset})
            for key in FORMS:
                post(http, dataset, key)
        except httpx.TransportError:
            pass  # it died before it could answer


def post(http: httpx.Client, dataset: str, key: str) -> httpx.Response:
    headers = {"Idempotency-Key": key}
    return http.post(f"/v1/datasets/{dataset}/imports", files=FORMS[key], headers=headers)


def check_once(server: LabelingServer, dataset: str) -> None:
    """The imports, sent again under their keys, end with each row once."""
    with client(server) as http:
        digests = set[str]()
        for key, rows in (("images", 12), ("archive", 48)):
            job = finished(http, post(http, dataset, key).json()["id"], dataset)
            assert (job["state"], job["rows"], job["answered"]) == ("done", rows, rows), job
            assert job["counts"]["accepted"] == rows
            url = f"/v1/datasets/{dataset}/imports/{job['id']}/receipts"
            receipts = http.get(url, params={"limit": 1000}).json()["receipts"]
            assert [one["ordinal"] for one in receipts] == list(range(rows))
            digests |= {one["sha256"] for one in receipts}
        [found] = [one for one in http.get("/v1/datasets").json() if one["name"] == dataset]
        assert len(digests) == found["images"] == found["labelled"] == 60
        history = http.get(f"/v1/datasets/{dataset}/images/{digests.pop()}/history").json()
        assert len(history) == 1
        assert len(http.get(f"/v1/datasets/{dataset}/imports").json()) == 2

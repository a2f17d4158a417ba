"""The HTTP API, in process: the same operations, typed errors, bounded uploads, safe CSV."""

import csv
import io
import json
import uuid

import httpx
import pytest
from support.fresh_database import fresh_sqlite
from support.pictures import noise

from visionloop.images import Limits
from visionloop.objectstore import open_store
from visionloop_labeling.api import make_api
from visionloop_labeling.database import open_database
from visionloop_labeling.service import LabelingService

LIMIT = 40_000  # bytes


@pytest.fixture
async def client(tmp_path, anyio_backend):
    database = open_database(fresh_sqlite(tmp_path / "l.db"))
    service = LabelingService(
        database, open_store(f"file://{tmp_path / 's'}"), Limits(max_bytes=LIMIT)
    )
    transport = httpx.ASGITransport(make_api(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://labeling") as made:
        assert (await made.post("/v1/datasets", json={"name": "d"})).status_code == 200
        yield made
    service.close()


pytestmark = pytest.mark.anyio


async def upload(client, image: bytes, *, key: str = "", **fields: str) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    return await client.post(
        "/v1/datasets/d/images",
        files={"file": ("a.png", image, "image/png")},
        data=fields,
        headers=headers,
    )


async def test_upload_correct_history_snapshot(client) -> None:
    made = await upload(client, noise(1), label="a", group="g", attributes='{"line": "3"}')
    assert made.status_code == 201
    sha256 = made.json()["sha256"]
    assert (await upload(client, noise(1), label="a")).status_code == 200
    body = {"sha256": sha256, "label": "b", "event_id": str(uuid.uuid4()), "base_sequence": 1}
    answer = await client.post("/v1/datasets/d/labels", json=body)
    assert answer.json() == {"sequence": 3, "class_id": "b", "current": True}
    assert (await client.post("/v1/datasets/d/labels", json=body)).json() == answer.json()
    stale = {**body, "event_id": str(uuid.uuid4())}
    refused = await client.post("/v1/datasets/d/labels", json=stale)
    assert (refused.status_code, refused.json()["reason"]) == (409, "conflict")
    history = (await client.get(f"/v1/datasets/d/images/{sha256}/history")).json()
    assert [event["class_name"] for event in history] == ["a", "a", "b"]
    assert [event["current"] for event in history] == [False, False, True]
    cut = (await client.post("/v1/datasets/d/snapshots")).json()
    assert cut["created"]
    assert cut["split_images"] == {"train": 1, "val": 0, "test": 0}
    again = (await client.post("/v1/datasets/d/snapshots")).json()
    assert (again["id"], again["created"]) == (cut["id"], False)
    listed = (await client.get("/v1/datasets")).json()
    assert [(one["name"], one["images"], one["labelled"]) for one in listed] == [("d", 1, 1)]


async def test_the_idempotency_key_makes_an_upload_once(client) -> None:
    first = await upload(client, noise(1), key="k1", label="a")
    again = await upload(client, noise(1), key="k1", label="a")
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == {**first.json(), "replayed": True}
    other = await upload(client, noise(2), key="k1", label="a")
    assert (other.status_code, other.json()["reason"]) == (409, "conflict")


@pytest.mark.parametrize(
    ("image", "fields", "reason", "field"),
    [
        (b"", {}, "empty", "image"),
        (b"<svg/>", {}, "unsupported_format", "image"),
        (noise(1), {"label": "a\x07"}, "invalid_input", "label"),
        (noise(1), {"attributes": "{"}, "invalid_input", "attributes"),
        (noise(1), {"attributes": '{"a": 1}'}, "invalid_input", "attributes"),
    ],
)
async def test_bad_uploads_are_typed(client, image, fields, reason, field) -> None:
    answer = await upload(client, image, **fields)
    assert answer.status_code == 400
    assert (answer.json()["reason"], answer.json()["field"]) == (reason, field)


async def test_an_upload_is_cut_off_at_the_limit_whatever_it_claims(client) -> None:
    sent = 0

    async def endless():
        nonlocal sent
        head = (
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n'
            b"Content-Type: image/png\r\n\r\n"
        )
        yield head
        while sent < 2**30:
            sent += 65536
            yield bytes(65536)

    answer = await client.post(
        "/v1/datasets/d/images",
        content=endless(),
        headers={"Content-Type": "multipart/form-data; boundary=x"},
    )
    assert answer.status_code == 413
    assert answer.json()["reason"] == "too_many_bytes"
    assert sent < 2**20


async def test_requests_with_wrong_shape_get_the_field(client) -> None:
    answer = await client.post("/v1/datasets/d/labels", json={"sha256": "0" * 64, "lable": "a"})
    assert answer.status_code == 422
    assert answer.json()["reason"] == "invalid_input"
    assert answer.json()["field"] in ("label", "lable")
    settings = {"name": "e", "settings": {"ratios": {"train": 0.5, "val": 0.1, "test": 0.1}}}
    answer = await client.post("/v1/datasets", json=settings)
    assert answer.status_code == 422
    assert "sum to 0.7" in answer.json()["message"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/datasets/none/labels.csv"),
        ("POST", "/v1/datasets/none/snapshots"),
        ("GET", f"/v1/datasets/none/images/{'0' * 64}/history"),
        ("GET", f"/v1/datasets/d/images/{'0' * 64}/history"),
        ("GET", "/nothing"),
    ],
)
async def test_what_is_not_there_is_a_typed_404(client, method: str, path: str) -> None:
    answer = await client.request(method, path)
    assert answer.status_code == 404
    assert set(answer.json()) == {"reason", "message", "field"}
    assert answer.json()["reason"] == "not_found"


async def test_settings_of_a_dataset_never_change(client) -> None:
    wish = {"name": "e", "settings": {"ratios": {"train": 0.8, "val": 0.1, "test": 0.1}}}
    assert (await client.post("/v1/datasets", json=wish)).status_code == 200
    assert (await client.post("/v1/datasets", json=wish)).status_code == 200
    assert (await client.post("/v1/datasets", json={"name": "e"})).status_code == 200
    wish["settings"]["ratios"] = {"train": 0.6, "val": 0.2, "test": 0.2}
    answer = await client.post("/v1/datasets", json=wish)
    assert (answer.status_code, answer.json()["reason"]) == (409, "conflict")


async def test_csv_is_safe_in_a_spreadsheet(client) -> None:
    for number, label in enumerate(["=1+1", "+a", "-a", "@a", 'say "x", y', "plain"]):
        assert (await upload(client, noise(number), label=label)).status_code == 201
    answer = await client.get("/v1/datasets/d/labels.csv")
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    names = [row["class_name"] for row in rows]
    assert names == ["'=1+1", "'+a", "'-a", "'@a", 'say "x", y', "plain"]
    for row in rows:
        assert not any(cell.startswith(("=", "+", "-", "@")) for cell in row.values())


async def test_health_and_description(client) -> None:
    assert (await client.get("/healthz")).json() == {"status": "alive"}
    assert (await client.get("/readyz")).status_code == 200
    described = json.loads((await client.get("/openapi.json")).text)
    assert {"/v1/datasets", "/v1/datasets/{dataset}/images"} <= set(described["paths"])
    assert (await client.get("/docs")).status_code == 404  # its page would load foreign scripts


async def test_attributes_nested_without_end_are_refused_in_words(client) -> None:
    answer = await upload(client, noise(1), attributes="[" * 200_000)
    assert (answer.status_code, answer.json()["field"]) == (400, "attributes")


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://labeling:9", "null", "http://[", "http://labeling.x"]
)
async def test_pages_of_other_sites_change_nothing(client, origin: str) -> None:
    client.headers["Origin"] = origin
    for answer in (
        await upload(client, noise(1), label="a"),
        await client.post("/v1/datasets", json={"name": "other"}),
        await client.post("/v1/datasets/d/snapshots"),
    ):
        assert (answer.status_code, answer.json()["reason"]) == (403, "permission_denied")
    listed = (await client.get("/v1/datasets")).json()
    assert [(one["name"], one["images"]) for one in listed] == [("d", 0)]


async def test_our_own_page_may_change_things(client) -> None:
    client.headers["Origin"] = "http://labeling"
    assert (await upload(client, noise(1), label="a")).status_code == 201


@pytest.mark.parametrize("key", ["4f1c\u2026".encode(), b"x" * 196])
async def test_a_wrong_idempotency_key_is_named(client, key: bytes) -> None:
    answer = await client.post(
        "/v1/datasets/d/images",
        files={"file": ("a.png", noise(1), "image/png")},
        headers={"Idempotency-Key": key},
    )
    assert (answer.status_code, answer.json()["field"]) == (400, "Idempotency-Key")


@pytest.mark.parametrize(
    ("asked", "body"), [("dataset=d", None), ("said=kettle", None), ("", {"meant": "teapot"})]
)
async def test_half_of_what_names_refused_feedback_does_not_mean_all_of_it(
    client, asked: str, body: dict[str, str] | None
) -> None:
    refused = await client.post(f"/v1/feedback/refused/retry?{asked}", json=body)
    assert (refused.status_code, refused.json()["reason"]) == (400, "invalid_input")
    assert (await client.post("/v1/feedback/refused/retry")).status_code == 200

"""Events, queue, classes, attributes and preferences as programs and the page see them: HTTP."""

import uuid
from collections.abc import AsyncIterator

import httpx
import pytest
from support.fresh_database import fresh_sqlite
from support.pictures import noise

from visionloop.images import Limits
from visionloop.objectstore import open_store
from visionloop_labeling.accounts import Caller, Role
from visionloop_labeling.api import make_api
from visionloop_labeling.api.callers import current
from visionloop_labeling.database import open_database
from visionloop_labeling.service import LabelingService

pytestmark = pytest.mark.anyio
ANN = Caller("ann", Role.LABELLER)
BOB = Caller("bob", Role.LABELLER)
RAE = Caller("rae", Role.REVIEWER)


class Page:
    """What a browser does, as whoever `caller` is."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self.caller = RAE

    async def call(self, method: str, path: str, expected: int = 200, **request: object):
        answer = await self.client.request(method, f"/v1/datasets/d{path}", **request)
        assert answer.status_code == expected, answer.text
        return answer.json()

    async def upload(self, number: int, **fields: str) -> str:
        files = {"file": ("a.png", noise(number), "image/png")}
        answer = await self.client.post("/v1/datasets/d/images", files=files, data=fields)
        assert answer.status_code == 201, answer.text
        return answer.json()["sha256"]

    async def say(self, sha256: str, kind: str, expected: int = 200, **fields: object):
        event = {"event_id": str(uuid.uuid4()), "sha256": sha256, "kind": kind, **fields}
        return await self.call("POST", "/events", expected, json=event)

    async def label(self, sha256: str, name: str, expected: int = 200, **fields: object):
        return await self.say(sha256, "label", expected, annotation={"classes": [name]}, **fields)


@pytest.fixture
async def page(tmp_path, anyio_backend) -> AsyncIterator[Page]:
    database = open_database(fresh_sqlite(tmp_path / "l.db"))
    service = LabelingService(database, open_store(f"file://{tmp_path / 's'}"), Limits())
    api = make_api(service)
    transport = httpx.ASGITransport(api)
    async with httpx.AsyncClient(transport=transport, base_url="http://labeling") as client:
        made = Page(client)
        api.dependency_overrides[current] = lambda: made.caller
        assert (await client.post("/v1/datasets", json={"name": "d"})).status_code == 200
        yield made
    service.close()


async def test_a_round_from_the_queue_to_the_last_undo(page) -> None:
    digests = [await page.upload(number) for number in range(3)]
    for name, key in (("crack", "1"), ("fine", "2")):
        body = {"name": name, "hotkey": key, "help": "Look\nclosely."}
        made = await page.call("POST", "/classes", 201, json=body)
        assert (made["id"], made["hotkey"], made["state"]) == (name, key, "active")
    page.caller = ANN
    queue = await page.call("GET", "/queue?n=2")
    assert queue["remaining"] == 3
    assert [one["sha256"] for one in queue["items"]] == digests[:2]
    first = queue["items"][0]
    assert (first["sequence"], first["annotation"], first["state"]) == (0, None, "open")
    assert first["leased_until"]
    answer = await page.label(digests[0], "crack", base_sequence=0, seconds=1.5)
    assert answer == {"sequence": 1, "current": True, "state": "labelled", "label_sequence": 1}
    page.caller = BOB
    others = await page.call("GET", "/queue")
    assert (others["remaining"], [one["sha256"] for one in others["items"]]) == (2, digests[2:])
    page.caller = ANN
    given = await page.call("POST", "/queue/release", json={"sha256": digests})
    assert given == {"released": 1}
    mine = await page.call("GET", "/events?author=ann&limit=5")
    assert [(one["kind"], one["sha256"], one["seconds"]) for one in mine] == [
        ("label", digests[0], 1.5)
    ]
    undone = await page.say(digests[0], "undo", undoes=mine[0]["sequence"])
    assert undone == {"sequence": 2, "current": True, "state": "open", "label_sequence": 0}
    history = await page.call("GET", f"/images/{digests[0]}/history")
    assert [(one["kind"], one["undone"]) for one in history] == [("label", True), ("undo", False)]
    shown = await page.call("GET", f"/images/{digests[0]}")
    assert (shown["sequence"], shown["why"]) == (0, {"reason": "label_taken_back"})


async def test_a_conflict_shows_what_is_there_now(page) -> None:
    sha256 = await page.upload(1, label="crack")
    await page.call("POST", "/classes", 201, json={"name": "fine"})
    page.caller = ANN
    await page.label(sha256, "fine", base_sequence=1)
    page.caller = BOB
    refused = await page.label(sha256, "crack", 409, base_sequence=1)
    assert (refused["reason"], refused["field"]) == ("conflict", "base_sequence")
    now = refused["current"]
    assert (now["sequence"], now["author"], now["author_kind"]) == (2, "ann", "human")
    assert now["annotation"] == {"classes": ["fine"]}
    nothing = await page.say(sha256, "undo", 409)
    assert (nothing["field"], nothing["current"]["sequence"]) == ("undoes", 2)
    await page.label(sha256, "crack", base_sequence=now["sequence"])


async def test_a_batch_records_the_good_ones(page) -> None:
    digests = [await page.upload(number, label="a") for number in range(2)]

    def event(sha256: str, kind: str = "label", **fields: object) -> dict[str, object]:
        return {"event_id": str(uuid.uuid4()), "sha256": sha256, "kind": kind, **fields}

    events = [
        event(digests[0], annotation={"classes": ["a"]}),
        event(digests[1], annotation={"classes": ["zebra"]}),
        event("0" * 64, annotation={"classes": ["a"]}),
        event(digests[1], "flag", note="a\x00b"),
        event(digests[1], annotation={"classes": ["a"]}, base_sequence=9),
        event(digests[1], "skip"),
        event(digests[0], "undo"),
    ]
    answer = await page.call("POST", "/events/batch", json={"events": events})
    assert [next(iter(one)) for one in answer["results"]] == [
        *("ok", "error", "error", "error", "error", "ok", "ok"),
    ]
    errors = [one["error"] for one in answer["results"] if "error" in one]
    assert [(one["reason"], one["field"]) for one in errors] == [
        ("invalid_input", "annotation"),
        ("not_found", ""),
        ("invalid_input", "note"),
        ("conflict", "base_sequence"),
    ]
    assert errors[3]["current"]["sha256"] == digests[1]
    assert "current" not in errors[0]
    again = await page.call("POST", "/events/batch", json={"events": events})
    assert [one.get("ok", {}).get("sequence") for one in again["results"]] == [
        one.get("ok", {}).get("sequence") for one in answer["results"]
    ]
    too_many = {"events": events * 30}
    refused = await page.call("POST", "/events/batch", 422, json=too_many)
    assert refused["field"] == "events"


async def test_reviewers_decide_and_labellers_do_not(page) -> None:
    sha256 = await page.upload(1, label="a")
    page.caller = ANN
    await page.say(sha256, "flag", note="two cells")
    page.caller = BOB
    for kind, fields in (
        ("unflag", {}),
        ("retract", {}),
        ("label", {"annotation": {"classes": ["a"]}}),
    ):
        refused = await page.say(sha256, kind, 403, **fields)
        assert refused["reason"] == "permission_denied"
    assert (await page.call("GET", "/queue?state=review", 403))["reason"] == "permission_denied"
    page.caller = RAE
    waiting = await page.call("GET", "/queue?state=review")
    assert waiting["items"][0]["why"] == {
        "reason": "flagged",
        "by": "ann",
        "note": "two cells",
        "sequence": 2,
    }
    assert (await page.label(sha256, "a"))["state"] == "labelled"


async def test_classes_are_changed_over_http(page) -> None:
    sha256 = await page.upload(1, label="cat")
    await page.upload(2, label="dog")
    changed = await page.call("PATCH", "/classes/cat", json={"name": "feline", "colour": "#AA0000"})
    assert (changed["id"], changed["name"], changed["colour"]) == ("cat", "feline", "#aa0000")
    merged = await page.call("POST", "/classes/cat/merge", json={"into": "dog"})
    assert (merged["state"], merged["merged_into"], merged["images"]) == ("merged", "dog", 0)
    assert (await page.call("GET", f"/images/{sha256}"))["annotation"] == {"classes": ["dog"]}
    await page.call("POST", "/classes/cat/restore")
    await page.call("POST", "/classes/cat/split", json={"into": ["tabby", "tiger"]})
    split = await page.call("GET", f"/images/{sha256}")
    assert (split["state"], split["why"]) == ("open", {"reason": "class_split"})
    await page.call("POST", "/classes/dog/retire")
    classes = {one["id"]: one for one in await page.call("GET", "/classes")}
    assert {key: one["state"] for key, one in classes.items()} == {
        "cat": "split",
        "dog": "retired",
        "tabby": "active",
        "tiger": "active",
    }
    assert classes["tabby"]["split_from"] == "cat"
    changes = await page.call("GET", "/classes/history")
    assert [one["kind"] for one in changes] == [
        *("describe", "rename", "merge", "restore", "split", "retire"),
    ]
    for method, path, body, status in (
        ("PATCH", "/classes/zebra", {"name": "x"}, 404),
        ("PATCH", "/classes/%00", {"name": "x"}, 404),
        ("POST", "/classes/dog/merge", {"into": "tabby"}, 409),
        ("POST", "/classes/tabby/merge", {"into": "zebra\x00"}, 400),
        ("POST", "/classes", {"name": "tabby"}, 409),
        ("POST", "/classes", {"name": "new", "hotkey": "s"}, 400),
        ("PATCH", "/classes/tabby", {"place": -1}, 422),
    ):
        await page.call(method, path, status, json=body)
    assert "new" not in {one["id"] for one in await page.call("GET", "/classes")}


async def test_attributes_and_preferences_are_set(page) -> None:
    tone = {"name": "tone", "kind": "choice", "detail": {"choices": ["light", "dark"]}}
    volts = {"name": "volts", "kind": "number", "detail": {"minimum": 0, "unit": "V"}}
    made = await page.call("PUT", "/attributes", json=[tone, volts])
    assert [(one["name"], one["retired"]) for one in made] == [("tone", False), ("volts", False)]
    sha256 = await page.upload(1, label="a")
    said = {"classes": ["a"], "attributes": {"tone": "dark", "volts": 3}}
    await page.say(sha256, "label", annotation=said)
    for wrong in ({"tone": "grey"}, {"volts": -1}, {"hue": "x"}):
        body = {"classes": ["a"], "attributes": wrong}
        refused = await page.say(sha256, "label", 400, annotation=body)
        assert refused["field"] == "annotation.attributes"
    kept = await page.call("PUT", "/attributes", json=[tone])
    assert [(one["name"], one["retired"]) for one in kept] == [("tone", False), ("volts", True)]
    for wrong, status in (
        ([{**tone, "kind": "number", "detail": {}}], 409),
        ([tone, tone], 400),
        ([{**tone, "name": "a b"}], 422),
        ([{**volts, "detail": {"minimum": 2, "maximum": 1}}], 422),
        ([{**tone, "detail": {"choices": ["a\x00"]}}], 400),
    ):
        await page.call("PUT", "/attributes", status, json=wrong)
    wish = {"instructions": "One.\nTwo.", "suggestions_model": "cells"}
    assert await page.call("PUT", "/preferences", json=wish) == wish
    assert await page.call("GET", "/preferences") == wish
    await page.call("PUT", "/preferences", 400, json={**wish, "suggestions_model": "a\x00"})


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/queue?n=0", None, 422),
        ("GET", "/queue?state=labelled", None, 422),
        ("GET", "/events?author=%00", None, 400),
        ("GET", "/images/zebra", None, 400),
        ("GET", f"/images/{'0' * 64}", None, 404),
        ("POST", "/queue/release", {"sha256": ["\x00"]}, 400),
        ("POST", "/events", {"event_id": "7", "sha256": "", "kind": "label"}, 422),
        ("POST", "/events", {"event_id": str(uuid.UUID(int=1)), "sha256": "x"}, 400),
        ("POST", "/events", {"event_id": str(uuid.UUID(int=1)), "sha256": "", "kind": "no"}, 422),
    ],
)
async def test_what_is_malformed_is_named(page, method, path, body, status) -> None:
    answer = await page.call(method, path, status, json=body)
    assert answer["message"]

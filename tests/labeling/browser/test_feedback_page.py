"""Feedback that could not be used, from the app's call to its label, on a real service."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import expect
from support.axe import violations
from support.bundles import encoded, publish_bundle
from support.labelling_page import Site

from visionloop.feedback import Feedback, FeedbackHeader, FeedbackImage, store_feedback
from visionloop.objectstore import ObjectStore, open_store
from visionloop.prediction_id import PredictionId
from visionloop.repository import ModelRepository

pytestmark = pytest.mark.browser
DATASET = "test"  # the one that the test bundles say they were trained on


@pytest.fixture(scope="module")
def made(server) -> Site:
    """The dataset of the model that apps ask."""
    publish_bundle(ModelRepository(open_store(server.store)), "cells", golden=4)
    return Site(server, DATASET, "classification", ["cat", "coffee", "rocket"])


@pytest.fixture(scope="module")
def images(made: Site) -> list[str]:
    """Of nobody's label."""
    return made.add([encoded(0), encoded(3), encoded(4)])


def leave(
    store: ObjectStore, sha256: str, class_id: str, *, received: datetime | None = None
) -> str:
    """As inference leaves it; its id."""
    header = FeedbackHeader(
        id=str(uuid.uuid4()),
        prediction_id=str(PredictionId.new("cells", 1, sha256)),
        verdict="class",
        class_id=class_id,
        image=FeedbackImage(sha256=sha256, inline=False),
        note="the handle is plain to see",
        caller="line-3",
        received=received or datetime.now(UTC),
    )
    store_feedback(store, Feedback(header, None))
    return header.id


def test_refused_feedback_is_seen_with_its_reason_and_taken_once_the_class_is_there(
    chromium, server, made, images
) -> None:
    image = images[0]
    store = open_store(server.store)
    leave(store, image, "teapot")
    with chromium.page(viewport={"width": 360, "height": 740}) as page:
        page.goto(f"http://{server.http_address}/")
        server.wait(lambda: made.ask("GET", "/v1/feedback/refused")["items"])
        page.get_by_role("link", name="Refused feedback").click()
        card = page.locator("li.card")
        expect(card).to_contain_text("unknown class")
        expect(card).to_contain_text(
            "dataset \"test\" has no class 'teapot', by id or by name; add it"
        )
        expect(card).to_contain_text("line-3")
        assert violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        card.get_by_role("button", name="Take").click()
        expect(card.get_by_role("alert")).to_contain_text("it cannot be used yet: dataset")
        page.get_by_role("button", name="Add class teapot").click()
        expect(page.get_by_text("teapot is a class now: take it again.")).to_be_visible()
        expect(page.get_by_role("button", name="Add class")).to_have_count(0)
        part = {"taken": 0, "left": 0, "next": "0"}  # as when there is more than a call takes
        page.route("**/refused/retry", lambda route: route.fulfill(json=part))
        page.get_by_role("button", name="Take all again").click()
        expect(page.locator(".empty")).to_contain_text("Nothing was refused")
    assert made.classes(image) == ["teapot"]
    status, metrics = server.get("/metrics")
    assert status == 200
    assert 'visionloop_feedback_refused_total{reason="unknown_class"} 1.0' in metrics
    assert "a feedback was put aside" in server.log.read_text()


def test_what_an_app_calls_otherwise_is_taken_for_the_class_that_a_person_names(
    chromium, server, made, images
) -> None:
    _, named, typed = images
    store = open_store(server.store)
    yesterday = datetime.now(UTC) - timedelta(days=1)
    leave(store, named, "Coffee!", received=yesterday)
    leave(store, typed, "dataset", received=yesterday)  # a name that forms have for themselves
    with chromium.page() as page:
        server.wait(lambda: len(made.ask("GET", "/v1/feedback/refused")["items"]) == 2)
        leave(store, typed, "rocket")
        server.wait(lambda: made.classes(typed) == ["rocket"])
        page.goto(f"http://{server.http_address}/feedback")
        alike = page.locator("li.card").filter(has_text="Coffee!")
        expect(alike.get_by_label("“Coffee!” means")).to_have_value("coffee")
        alike.get_by_role("button", name="Take").click()
        expect(page.get_by_text("Taken.")).to_be_visible()
        assert made.classes(named) == ["coffee"]
        field = page.get_by_label("“dataset” means")
        assert violations(page) == []
        field.fill("kat")
        field.press("Enter")
        expect(page.get_by_role("alert").filter(has_text="has no class 'kat'")).to_be_visible()
        field.fill("cat")
        field.press("Enter")
        expect(page.get_by_text("something newer was said of it since")).to_be_visible()
        page.goto(f"http://{server.http_address}/datasets/{DATASET}/images/{typed}")
        late = page.locator(".history li").filter(has_text="did not count")
        expect(late).to_contain_text(", recorded ")
        (event,) = [one for one in made.history(typed) if not one["applied"]]
        assert event["said_at"] < event["at"]
    assert made.classes(typed) == ["rocket"]


def test_what_several_say_alike_is_taken_or_thrown_away_at_once(
    chromium, server, made, images
) -> None:
    store = open_store(server.store)
    yesterday = datetime.now(UTC) - timedelta(days=1)
    for image in images[:2]:
        leave(store, image, "Cat & dog", received=yesterday)
        leave(store, image, "craack", received=yesterday)
    leave(store, images[0], "kettle")
    with chromium.page(viewport={"width": 360, "height": 740}) as page:
        server.wait(lambda: len(made.ask("GET", "/v1/feedback/refused")["items"]) == 5)
        page.goto(f"http://{server.http_address}/feedback")
        taken = page.get_by_role("region", name="“Cat & dog” is said 2 times here")
        thrown = page.get_by_role("region", name="“craack” is said 2 times here")
        expect(page.get_by_role("region")).to_have_count(2)
        assert violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        taken.get_by_label("All “Cat & dog” means").fill("cat")
        taken.get_by_role("button", name="Take all").click()
        expect(page.get_by_text("What could be taken is taken.")).to_be_visible()
        expect(taken).to_have_count(0)
        thrown.get_by_text("Throw all of these away").click()
        thrown.get_by_role("button", name="Throw away").click()
        expect(thrown).to_have_count(0)
        expect(page.locator("li.card")).to_have_count(1)
    (left,) = made.ask("GET", "/v1/feedback/refused")["items"]
    assert left["shown"] == ["kettle"]
    said = [[event["annotation"] for event in made.history(image)] for image in images[:2]]
    assert all({"classes": ["cat"]} in one for one in said)

"""Feedback that could not be used, from the app's call to its label, on a real service."""

import uuid
from datetime import UTC, datetime

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


def leave(store: ObjectStore, sha256: str, class_id: str) -> str:
    """As inference leaves it; its id."""
    header = FeedbackHeader(
        id=str(uuid.uuid4()),
        prediction_id=str(PredictionId.new("cells", 1, sha256)),
        verdict="class",
        class_id=class_id,
        image=FeedbackImage(sha256=sha256, inline=False),
        note="the handle is plain to see",
        caller="line-3",
        received=datetime.now(UTC),
    )
    store_feedback(store, Feedback(header, None))
    return header.id


def test_refused_feedback_is_seen_with_its_reason_and_taken_once_the_class_is_there(
    chromium, server
) -> None:
    made = Site(server, DATASET, "classification", ["cat", "coffee", "rocket"])
    (image,) = made.add([encoded(0)])
    store = open_store(server.store)
    publish_bundle(ModelRepository(store), "cells", golden=4)
    leave(store, image, "teapot")
    with chromium.page(viewport={"width": 360, "height": 740}) as page:
        page.goto(f"http://{server.http_address}/")
        server.wait(lambda: made.ask("GET", "/v1/feedback/refused")["items"])
        page.get_by_role("link", name="Refused feedback").click()
        card = page.locator("li.card")
        expect(card).to_contain_text("unknown class")
        expect(card).to_contain_text("dataset \"test\" has no class 'teapot'; add it")
        expect(card).to_contain_text("line-3")
        assert violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        again = page.get_by_role("button", name="Take")
        again.click()
        expect(card.get_by_role("alert")).to_contain_text("it cannot be used yet: dataset")
        made.ask("POST", f"{made.root}/classes", {"name": "teapot"})
        again.click()
        expect(page.locator(".empty")).to_contain_text("Nothing was refused")
    assert made.classes(image) == ["teapot"]
    status, metrics = server.get("/metrics")
    assert status == 200
    assert 'visionloop_feedback_refused_total{reason="unknown_class"} 1.0' in metrics
    assert "a feedback was put aside" in server.log.read_text()

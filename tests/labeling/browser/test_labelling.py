"""Labelling by keys, as a person does it all day, on real photographs."""

import hashlib
import re
import sqlite3
import uuid
from collections.abc import Callable

import pytest
from playwright.sync_api import expect
from support.browser import Chromium
from support.labelling_page import Labeller, Site
from support.pictures import solar_cells

pytestmark = pytest.mark.browser
MakeSite = Callable[..., Site]


def test_a_round_of_fifty_photographs_by_keyboard_alone(
    chromium: Chromium, site: MakeSite, cells: list[bytes]
) -> None:
    made = site()
    truth = {
        hashlib.sha256(image).hexdigest(): "cracked" if defect > 0.5 else "sound"
        for image, (_, defect, _) in zip(cells[:50], solar_cells(), strict=False)
    }
    assert set(made.add(cells[:50])) == set(truth)
    with chromium.page() as page:
        labeller = Labeller(page, made).open()
        said: dict[str, str] = {}
        for number in range(50):
            sha256 = labeller.shown
            key = {7: "s", 11: "f"}.get(number) or ("2" if truth[sha256] == "cracked" else "1")
            assert labeller.decide(key) == sha256
            said[sha256] = key
        assert labeller.text("#nothing-title") == "All done here"
        labeller.wait_saved()
        expect(page.locator("[data-left]")).to_have_text("0")
    assert set(said) == set(truth)  # each image once
    for sha256, key in said.items():
        item, history = made.item(sha256), made.history(sha256)
        assert [(event["kind"], event["author"]) for event in history] == [
            ({"s": "skip", "f": "flag"}.get(key, "label"), "local")
        ]
        if key in "sf":
            assert (item["state"], item["annotation"]) == (
                {"s": "skipped", "f": "review"}[key], None
            )  # fmt: skip
        else:
            assert item["state"] == "labelled"
            assert item["annotation"] == {"classes": [truth[sha256]]}
            assert 0 <= history[0]["seconds"] < 600


def test_undo_goes_back_across_images_and_on_again(
    chromium: Chromium, site: MakeSite, cells: list[bytes]
) -> None:
    made = site()
    made.add(cells[:5])
    with chromium.page() as page:
        labeller = Labeller(page, made).open()
        first, second, third = (labeller.decide(key) for key in "111")
        fourth = labeller.shown
        labeller.press("z")
        labeller.wait_shown(third)
        labeller.press("z")
        labeller.wait_shown(second)
        labeller.wait_saved()
        assert [made.classes(one) for one in (first, second, third)] == [["sound"], None, None]
        assert made.kinds(second) == ["label", "undo"]
        assert labeller.decide("2") == second
        assert labeller.shown == third
        assert labeller.decide("s") == third
        assert labeller.shown == fourth
        labeller.wait_saved()
        assert made.classes(second) == ["cracked"]
        assert made.item(third)["state"] == "skipped"
        # After a reload it still reaches back.
        labeller.open()
        labeller.press("z")
        labeller.wait_shown(third)
        labeller.wait_saved()
        assert made.item(third)["state"] == "open"


def test_arrows_lead_to_images_before_where_another_key_corrects(
    chromium: Chromium, site: MakeSite, cells: list[bytes]
) -> None:
    made = site()
    made.add(cells[:4])
    with chromium.page() as page:
        labeller = Labeller(page, made).open()
        first, second = labeller.decide("1"), labeller.decide("1")
        third = labeller.shown
        labeller.press("ArrowLeft", "ArrowLeft")
        assert labeller.shown == first
        assert page.get_attribute('.class-button[data-id="sound"]', "aria-pressed") == "true"
        assert labeller.decide("2") == first
        assert labeller.shown == third
        labeller.press("ArrowLeft")
        assert labeller.shown == second
        labeller.press("ArrowRight")
        assert labeller.shown == third
        labeller.wait_saved()
    assert made.kinds(first) == ["label", "label"]
    assert (made.classes(first), made.classes(second)) == (["cracked"], ["sound"])


def test_a_suggestion_is_marked_and_one_key_accepts_it(
    chromium: Chromium, site: MakeSite, cells: list[bytes]
) -> None:
    made = site()
    digests = made.add(cells[:3])
    suggest(
        made,
        digests[:2],
        [["cracked", 0.91], ["sound", 0.09]],
        why='{"reason": "uncertain", "between": [["cracked", 0.91], ["sound", 0.09]]}',
    )
    suggest(made, digests[2:], [["cracked", 0.91], ["sound", 0.09]], why='{"blind": true}')
    with chromium.page() as page:
        labeller = Labeller(page, made).open()
        assert labeller.shown == digests[0]
        reason = "The model is unsure about this one: cracked 91 % / sound 9 %"
        assert labeller.text("#why") == reason
        assert labeller.text("#suggestion-model") == "cells:7"
        assert labeller.text("#suggestion-probability") == "91 %"
        assert "suggested" in str(page.get_attribute('[data-id="cracked"]', "class"))
        labeller.decide("Enter")
        labeller.decide("1")
        assert not page.is_visible("#suggestion")
        assert "cells" not in labeller.text(".panel")
        labeller.press("Enter")  # nothing to accept: nobody learns what the model thinks
        assert labeller.shown == digests[2]
        assert labeller.text("#hint") == "Choose a class first."
        labeller.decide("2")
        labeller.wait_saved()
    assert [made.classes(one) for one in digests] == [["cracked"], ["sound"], ["cracked"]]
    outcomes = [made.history(one)[0] for one in digests]
    assert [(one["suggested_by"], one["suggestion"]) for one in outcomes[:2]] == [
        ("cells:7", "accepted"),
        ("cells:7", "rejected"),
    ]


def suggest(made: Site, digests: list[str], scores: list, why: str = "{}") -> None:
    """Writes predictions as the loop that asks the inference service does."""
    with sqlite3.connect(made.server.database.removeprefix("sqlite:///")) as connection:
        for sha256 in digests:
            query = (
                "select item.id from item join dataset on dataset.id = item.dataset_id "
                "where dataset.name = ? and item.sha256 = ?"
            )
            (item,) = connection.execute(query, (made.dataset, sha256)).fetchone()
            connection.execute("update item set why = ? where id = ?", (why, item))
            connection.execute(
                "insert into prediction (item_id, model, version, scores, probability, margin, "
                "sure, at) values (?, 'cells', 7, ?, ?, 0.8, 1, '2026-01-01 00:00:00')",
                (item, str(scores).replace("'", '"'), scores[0][1]),
            )
    connection.close()


def test_several_classes_are_switched_and_saved_with_enter(
    chromium: Chromium, site: MakeSite, cells: list[bytes]
) -> None:
    made = site(("crack", "shunt", "dark"), "multi_label")
    digests = made.add(cells[:2])
    with chromium.page() as page:
        labeller = Labeller(page, made).open()
        labeller.press("1", "2", "3", "2")
        assert labeller.shown == digests[0]
        labeller.decide("Enter")
        assert labeller.text("#save-text") == "None of these"
        labeller.decide("Enter")
        labeller.wait_saved()
    assert made.classes(digests[0]) == ["crack", "dark"]
    assert made.classes(digests[1]) == []


def test_a_class_among_many_is_found_by_typing(
    chromium: Chromium, site: MakeSite, cells: list[bytes]
) -> None:
    made = site(tuple(f"part {n:02}" for n in range(40)))
    (sha256,) = made.add(cells[:1])
    with chromium.page() as page:
        labeller = Labeller(page, made).open()
        labeller.press("/", "3", "7", "Enter")
        labeller.wait_left(sha256)
        labeller.wait_saved()
    (event,) = made.history(sha256)
    assert event["class_name"] == "part 37"


def test_an_image_that_does_not_load_stops_nobody(
    chromium: Chromium, site: MakeSite, cells: list[bytes]
) -> None:
    made = site()
    digests = made.add(cells[:3])
    with chromium.page() as page:
        page.route(f"**/{digests[1]}/preview*", lambda route: route.fulfill(status=503))
        labeller = Labeller(page, made).open()
        assert labeller.decide("1") == digests[0]
        page.wait_for_selector("#failed:not([hidden])")
        page.unroute_all()
        page.click("#failed button")
        page.wait_for_selector("#failed", state="hidden")
        assert labeller.decide("1") == digests[1]
        assert labeller.decide("1") == digests[2]
        labeller.wait_saved()
    assert [made.item(one)["state"] for one in digests] == ["labelled"] * 3


def test_a_note_and_keys_typed_into_it_stay_with_it(
    chromium: Chromium, site: MakeSite, cells: list[bytes]
) -> None:
    made = site()
    (sha256,) = made.add(cells[:1])
    with chromium.page() as page:
        labeller = Labeller(page, made).open()
        labeller.press("n")
        page.keyboard.type("12 s? z")
        assert labeller.shown == sha256
        labeller.press("Escape")
        labeller.decide("2")
        labeller.wait_saved()
    assert made.item(sha256)["annotation"] == {"classes": ["cracked"], "note": "12 s? z"}


def test_a_class_has_the_key_its_dataset_gives_it(
    chromium: Chromium, site: MakeSite, cells: list[bytes]
) -> None:
    made = site()
    (sha256,) = made.add(cells[:1])
    made.ask("PATCH", f"{made.root}/classes/cracked", {"hotkey": "x", "help": "A dark line."})
    with chromium.page() as page:
        labeller = Labeller(page, made).open()
        assert labeller.text('[data-id="cracked"] kbd') == "X"
        assert labeller.text('[data-id="sound"] kbd') == "1"
        labeller.press("?")
        assert "A dark line." in labeller.text("#help")
        labeller.press("Escape")
        labeller.decide("x")
        labeller.wait_saved()
    assert made.classes(sha256) == ["cracked"]


def test_attributes_are_said_beside_the_class(
    chromium: Chromium, site: MakeSite, cells: list[bytes]
) -> None:
    made = site()
    first, second = made.add(cells[:2])
    attributes = [
        {"name": "module", "kind": "choice", "detail": {"choices": ["mono", "poly"]}},
        {"name": "severity", "kind": "number", "detail": {"minimum": 0, "maximum": 10}},
        {"name": "tint", "kind": "colour"},
    ]
    made.ask("PUT", f"{made.root}/attributes", attributes)
    with chromium.page() as page:
        labeller = Labeller(page, made).open()
        labeller.press("2")  # chooses only: there is more to say
        assert labeller.shown == first
        page.get_by_label("module", exact=True).select_option("poly")
        page.get_by_label("severity", exact=True).fill("11")
        page.get_by_label("severity", exact=True).press("Enter")
        labeller.press("Enter")
        assert "severity" in labeller.text("#hint")
        assert labeller.shown == first
        page.get_by_label("severity", exact=True).fill("7.5")
        page.get_by_label("tint", exact=True).fill("#aa3300")
        labeller.open(image=first)  # what is begun is not lost
        assert page.get_by_label("severity", exact=True).input_value() == "7.5"
        page.focus("#stage")
        labeller.decide("Enter")
        labeller.wait_shown(second)
        page.get_by_label("saves at once").check()
        labeller.decide("1")
        labeller.wait_saved()
    assert made.item(first)["annotation"] == {
        "classes": ["cracked"],
        "attributes": {"module": "poly", "severity": 7.5, "tint": "#aa3300"},
    }
    assert made.item(second)["annotation"] == {"classes": ["sound"]}


def test_of_many_classes_the_chosen_ones_are_there_to_be_taken_back(
    chromium: Chromium, site: MakeSite, cells: list[bytes]
) -> None:
    made = site(tuple(f"class-{number:02}" for number in range(70)), "multi_label")
    made.add(cells[:2])
    with chromium.page() as page:
        labeller = Labeller(page, made).open()
        image = labeller.shown
        chosen = page.locator('.class-button[aria-pressed="true"]')
        for word in ("63", "07", "69"):
            labeller.press("/", *word, "Enter")
        expect(chosen).to_have_text([re.compile("63"), re.compile("69"), re.compile("07")])
        expect(page.locator(".class-button")).to_have_count(62)
        expect(page.locator("#classes-more")).to_have_text("8 more: press / and type.")
        assert labeller.text("#live") == "class-69: chosen."
        chosen.first.click()
        assert labeller.text("#live") == "class-63: not chosen."
        labeller.press("Enter")
        labeller.wait_left(image)
        expect(chosen).to_have_count(0)
        labeller.wait_saved()
    assert made.classes(image) == ["class-07", "class-69"]


def test_the_field_that_finds_classes_chooses_nothing_that_nobody_asked_for(
    chromium: Chromium, site: MakeSite, cells: list[bytes]
) -> None:
    made = site()
    made.add(cells[:2])
    with chromium.page() as page:
        labeller = Labeller(page, made).open()
        image = labeller.shown
        labeller.press("/", "Enter")  # thought better of it
        expect(page.locator("#find")).not_to_be_focused()
        assert labeller.shown == image
        labeller.press("/", "c", "r")
        page.evaluate(
            "document.getElementById('find').dispatchEvent(new KeyboardEvent('keydown',"
            " { key: 'Enter', isComposing: true, bubbles: true, cancelable: true }))"
        )
        expect(page.locator("#find")).to_be_focused()
        assert labeller.shown == image
        labeller.press("Enter")
        labeller.wait_left(image)
        labeller.wait_saved()
    assert made.classes(image) == ["cracked"]


def test_names_from_right_to_left_leave_the_numbers_where_they_belong(
    chromium: Chromium, site: MakeSite, cells: list[bytes]
) -> None:
    """ "2 × A, 1 × B" is not drawn as "2 × B × 1 ,A"."""
    names = ("\u05e9\u05dc\u05d5\u05dd", "\u05d7\u05ea\u05d5\u05dc")
    made = site(names, "detection")
    image, *_ = made.add(cells[:2])
    ids = [one["id"] for one in made.ask("GET", f"{made.root}/classes")]
    boxes = [{"class_id": ids[at], "x": 9, "y": 9, "width": 20, "height": 20} for at in (0, 0, 1)]
    event = {"event_id": str(uuid.uuid4()), "sha256": image, "annotation": {"boxes": boxes}}
    made.ask("POST", f"{made.root}/events", event)
    with chromium.page() as page:
        Labeller(page, made).open(image=image)
        expect(page.locator("#stored")).to_contain_text("2 ×")
        left = page.evaluate(
            """(words) => {
              const text = document.querySelector("#stored").firstChild;
              return words.map((word) => {
                const range = document.createRange();
                range.setStart(text, text.data.indexOf(word));
                range.setEnd(text, text.data.indexOf(word) + word.length);
                return range.getBoundingClientRect().left;
              });
            }""",
            ["Label", "2 ×", names[0], "1 ×", names[1]],
        )
        assert left == sorted(left)

"""How many images each class has, beside its button: at once, in words, and right in the end."""

import uuid
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect
from support.browser import Chromium
from support.labelling_page import Labeller, Site

pytestmark = pytest.mark.browser
MakeSite = Callable[..., Site]


def say(site: Site, sha256: str, *classes: str) -> None:
    """A colleague's label, in another window."""
    annotation = {"classes": list(classes)}
    event = {"event_id": str(uuid.uuid4()), "sha256": sha256, "kind": "label"}
    site.ask("POST", f"{site.root}/events", {**event, "annotation": annotation})


def expect_images(page: Page, most: int = 1, **images: int) -> None:
    """What stands beside the buttons, what is said of them, and how long their bars are. `most`: of
    a class that is not among them."""
    most = max(most, *images.values())
    for key, number in images.items():
        button = page.locator(f'.class-button[data-id="{key}"]')
        expect(button.locator(".count")).to_have_text(str(number))
        words = f"{key} ({number} {'image' if number == 1 else 'images'})"
        expect(button).to_have_accessible_name(words)
        bar = "one => getComputedStyle(one, '::after').backgroundSize"
        assert float(button.evaluate(bar).partition("%")[0]) == pytest.approx(
            100 * number / most, rel=1e-4
        )


def counted(site: Site) -> dict[str, int]:
    return {one["id"]: one["images"] for one in site.ask("GET", f"{site.root}/classes")}


def test_a_label_counts_at_once_and_undo_takes_it_back(
    chromium: Chromium, site: MakeSite, cells: list[bytes]
) -> None:
    made = site(("sound", "cracked", "dark"))
    images = made.add(cells[:9])
    for one in images[:3]:
        say(made, one, "sound")
    said = {"sha256": images[3], "label": "dark", "author_kind": "app", "author": "line-3"}
    made.ask("POST", f"{made.root}/labels", said)  # an app's word trains nothing yet
    with chromium.page() as page:
        labeller = Labeller(page, made).open()
        expect_images(page, sound=3, cracked=0, dark=0)
        page.route("**/events/batch", lambda route: route.abort())  # nothing is waited for
        for key in "221":
            labeller.decide(key)
        expect_images(page, sound=4, cracked=2, dark=0)
        labeller.press("ArrowLeft")
        labeller.decide("3")  # the last one is corrected
        expect_images(page, sound=3, cracked=2, dark=1)
        labeller.press("z")
        expect_images(page, sound=4, cracked=2, dark=0)
        labeller.press("z", "z")
        expect_images(page, sound=3, cracked=1, dark=0)
        labeller.decide("s")
        expect_images(page, sound=3, cracked=1, dark=0)
        page.unroute("**/events/batch")
        labeller.wait_saved()
        assert counted(made) == {"sound": 3, "cracked": 1, "dark": 0}
        expect_images(page, sound=3, cracked=1, dark=0)
        labeller.open()
        labeller.press("z", "z")  # said before this visit: only the service knows what it was
        expect_images(page, sound=3, cracked=0, dark=0)


def test_what_colleagues_label_shows_within_half_a_minute(
    chromium: Chromium, site: MakeSite, cells: list[bytes]
) -> None:
    made = site()
    images = made.add(cells[:5])
    with chromium.page() as page:
        page.clock.install()
        labeller = Labeller(page, made).open()
        expect_images(page, sound=0, cracked=0)
        for one in images[1:4]:
            say(made, one, "cracked")
        page.clock.fast_forward("00:31")
        expect_images(page, sound=0, cracked=3)
        # A conflict: what was said here does not count after all, until somebody insists.
        labeller.wait_shown(images[0])
        say(made, images[0], "sound")
        labeller.press("2")
        expect(page.locator("#undecided")).to_be_visible()
        expect_images(page, sound=1, cracked=3)
        labeller.press("c", "k")
        expect_images(page, sound=0, cracked=4)
        labeller.wait_saved()
        assert counted(made) == {"sound": 0, "cracked": 4}


def test_images_are_counted_not_boxes_and_each_for_all_its_classes(
    chromium: Chromium, site: MakeSite, cells: list[bytes]
) -> None:
    several = site(("sound", "cracked"), "multi_label")
    several.add(cells[:2])
    with chromium.page() as page:
        labeller = Labeller(page, several).open()
        labeller.press("1", "2")
        expect_images(page, sound=0, cracked=0)  # chosen, not saved
        labeller.decide("Enter")
        expect_images(page, sound=1, cracked=1)
    boxed = site(("roof", "sky"), "detection")
    boxed.add(cells[:2])
    with chromium.page() as page:
        labeller = Labeller(page, boxed).open()
        layer = page.locator("#layer").bounding_box()
        assert layer is not None
        for left in (40, 200):
            page.mouse.move(layer["x"] + left, layer["y"] + 40)
            page.mouse.down()
            page.mouse.move(layer["x"] + left + 80, layer["y"] + 120, steps=3)
            page.mouse.up()
        assert page.locator(".box-row").count() == 2
        labeller.decide("Enter")
        expect_images(page, roof=1, sky=0)
        labeller.wait_saved()
    assert counted(boxed) == {"roof": 1, "sky": 0}


def test_of_many_classes_those_that_are_found_have_their_numbers(
    chromium: Chromium, site: MakeSite, cells: list[bytes]
) -> None:
    made = site(tuple(f"class-{number:02}" for number in range(64)))
    images = made.add(cells[:4])
    for one in images[:2]:
        say(made, one, "class-62")
    with chromium.page(viewport={"width": 360, "height": 740}) as page:
        labeller = Labeller(page, made).open()
        expect_images(page, 2, **{"class-00": 0, "class-59": 0})
        labeller.decide("1")
        labeller.press("/", "6", "2")
        expect_images(page, **{"class-62": 2})
        labeller.press("Enter")
        expect_images(page, 3, **{"class-00": 1, "class-01": 0})
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        labeller.wait_saved()
        labeller.press("/", "6", "2")
        expect_images(page, **{"class-62": 3})

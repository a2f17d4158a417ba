"""For everybody: axe-core's rules, small and large screens, focus, what is said aloud."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from support.axe import violations
from support.browser import Chromium
from support.labeling_server import running_labeling
from support.labelling_page import Labeller, Site
from support.photographs import photograph

from visionloop_labeling import account_commands

pytestmark = pytest.mark.browser
MakeSite = Callable[..., Site]
SIZES = [(1440, 900), (360, 740)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_axe_finds_nothing(
    chromium: Chromium, site: MakeSite, size: tuple[int, int], scheme: str
) -> None:
    made = site(("roof", "sky"), "detection")
    made.add([photograph("china"), photograph("flower")])
    viewport = {"width": size[0], "height": size[1]}
    with chromium.page(viewport=viewport, color_scheme=scheme) as page:
        labeller = Labeller(page, made).open()
        layer = page.locator("#layer").bounding_box()
        assert layer is not None
        page.mouse.move(layer["x"] + 40, layer["y"] + 40)
        page.mouse.down()
        page.mouse.move(layer["x"] + 120, layer["y"] + 120, steps=3)
        page.mouse.up()
        assert page.locator(".box-row").count() == 1
        assert violations(page) == []
        labeller.press("?")
        page.wait_for_selector("#help[open]")
        assert violations(page) == []
        labeller.press("Escape")
        labeller.decide("Enter")
        labeller.decide("s")
        assert violations(page) == []  # nothing left
        labeller.wait_saved()


def test_axe_finds_nothing_where_people_sign_in(chromium: Chromium, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("a long enough password\n")
    with running_labeling(tmp_path / "service", "--accounts") as server:
        beside = f"--database={server.database}"
        for command in (
            ["add", "ada", "--role=admin", f"--password-file={password}"],
            ["add", "line-3", "--role=service", "--no-password"],
            ["add", "ben", "--role=labeller", "--no-password"],
            ["disable", "ben"],
            ["token", "line-3", "--for=conveyor camera"],
            ["token", "ada", "--for=notebook", "--days=9"],
        ):
            account_commands.run([*command, beside])
        found: dict[tuple[str, int], list[str]] = {}
        for (width, height), scheme in zip(SIZES, ("light", "dark"), strict=True):
            size = {"width": width, "height": height}
            with chromium.page(viewport=size, color_scheme=scheme) as page:
                for moment in _moments_with_accounts(page, f"http://{server.http_address}"):
                    if wrong := violations(page):
                        found[moment, width] = wrong
                    assert page.evaluate("document.documentElement.scrollWidth") <= width, moment
    assert found == {}


def _moments_with_accounts(page: Page, address: str) -> Iterator[str]:
    """What somebody sees who signs in and looks after accounts, one moment after the other."""
    page.goto(f"{address}/accounts")
    yield "signed out"
    for tried, leads in (("not this one", "login"), ("a long enough password", "accounts")):
        page.get_by_label("Name").fill("ada")
        page.get_by_label("Password").fill(tried)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(f"{address}/{leads}")
        yield f"after {tried!r}"
    page.get_by_label("Change line-3").click()
    yield "a menu is open"
    page.get_by_label("Change line-3").click()
    page.get_by_label("Name", exact=True).fill("rosa")
    page.get_by_label("Password", exact=True).fill("short")
    page.get_by_role("button", name="Make account").click()
    expect(page.get_by_role("alert")).to_be_visible()
    yield "refused"
    page.goto(f"{address}/account")
    yield "one's own account"
    page.get_by_label("What it is for").fill("a script")
    page.get_by_role("button", name="Make token").click()
    expect(page.locator("[data-made-token] code")).to_be_focused()
    yield "a token is made"


@pytest.mark.parametrize("size", SIZES)
def test_the_decision_is_within_reach_on_every_screen(
    chromium: Chromium, site: MakeSite, cells: list[bytes], size: tuple[int, int]
) -> None:
    made = site()
    made.add(cells[:3])
    width, height = size
    with chromium.page(viewport={"width": width, "height": height}) as page:
        labeller = Labeller(page, made).open()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        stage = page.locator("#stage").bounding_box()
        assert stage is not None
        assert stage["width"] * stage["height"] > 0.35 * width * height
        for selector in ("#save", '[data-command="skip"]', '.class-button[data-id="sound"]'):
            box = page.locator(selector).bounding_box()
            assert box is not None
            assert box["y"] + box["height"] <= height
            assert box["height"] >= 24
        before = labeller.shown
        page.click('.class-button[data-id="cracked"]')
        labeller.wait_left(before)
        labeller.wait_saved()
        assert made.classes(before) == ["cracked"]


def test_keys_of_one_character_can_be_switched_off(
    chromium: Chromium, site: MakeSite, cells: list[bytes]
) -> None:
    made = site()
    made.add(cells[:2])
    with chromium.page() as page:
        labeller = Labeller(page, made).open()
        labeller.press("?")
        page.get_by_label("keys of one character").uncheck()
        labeller.press("Escape")
        before = labeller.shown
        labeller.press("1", "s", "f")
        assert labeller.shown == before
        labeller.open()
        labeller.press("1")
        page.click('[data-command="help"]')
        page.get_by_label("keys of one character").check()
        labeller.press("Escape")
        before = labeller.decide("1")
        labeller.wait_saved()
    assert made.kinds(before) == ["label"]


def test_what_happens_is_said_aloud_and_focus_stays_with_the_image(
    chromium: Chromium, site: MakeSite, cells: list[bytes]
) -> None:
    made = site()
    made.add(cells[:4])
    with chromium.page() as page:
        labeller = Labeller(page, made).open()
        before = labeller.shown
        page.click('.class-button[data-id="sound"]')
        labeller.wait_left(before)
        assert labeller.text("#live") == "Saved: sound. Next image."
        assert page.evaluate("document.activeElement.id") == "stage"
        labeller.decide("s")
        assert labeller.text("#live") == "Skipped. Next image."
        said = page.locator("#live").text_content()
        labeller.decide("s")
        assert labeller.text("#live") == "Skipped. Next image."
        assert page.locator("#live").text_content() != said, "or it would not be read aloud again"
        # By Tab alone: the class's button keeps Enter for itself.
        before = labeller.shown
        page.focus('.class-button[data-id="cracked"]')
        labeller.press("Enter")
        labeller.wait_left(before)
        labeller.wait_saved()
        assert made.classes(before) == ["cracked"]

"""Nothing that was said is lost or stored twice: offline, killed server, reload, two people."""

import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Route, expect
from support.browser import Chromium
from support.labeling_server import running_labeling
from support.labelled_site import say
from support.labelling_page import Labeller, Site

pytestmark = pytest.mark.browser
MakeSite = Callable[..., Site]


def test_offline_the_work_goes_on_and_is_stored_later(
    chromium: Chromium, site: MakeSite, cells: list[bytes]
) -> None:
    made = site()
    made.add(cells[:6])
    with chromium.context() as context:
        labeller = Labeller(context.new_page(), made).open()
        labeller.page.wait_for_load_state("networkidle")  # the next images are here
        context.set_offline(True)
        said = [labeller.decide("1") for _ in range(3)]
        labeller.wait_phase("offline")
        assert labeller.text("#journal-text") == "3 labels not saved yet"
        assert [made.kinds(one) for one in said] == [[], [], []]
        context.set_offline(False)
        labeller.wait_saved()
    assert [made.kinds(one) for one in said] == [["label"]] * 3


def test_what_was_not_sent_is_sent_after_a_reload(
    chromium: Chromium, site: MakeSite, cells: list[bytes]
) -> None:
    made = site()
    made.add(cells[:6])
    with chromium.page() as page:
        page.route("**/events/batch", lambda route: route.abort())
        labeller = Labeller(page, made).open()
        first, second = labeller.decide("1"), labeller.decide("2")
        labeller.press("z")  # refers to an event that the service has not seen
        labeller.wait_shown(second)
        labeller.decide("1")
        labeller.wait_phase("offline")
        page.unroute_all()
        labeller.open()
        labeller.wait_saved()
    assert (made.kinds(first), made.classes(first)) == (["label"], ["sound"])
    assert (made.kinds(second), made.classes(second)) == (["label", "undo", "label"], ["sound"])


def test_an_answer_that_is_lost_stores_nothing_twice(
    chromium: Chromium, site: MakeSite, cells: list[bytes]
) -> None:
    made = site()
    made.add(cells[:4])
    lost: list[int] = []

    def lose(route: Route) -> None:
        lost.append(route.fetch().status)  # the service has done it
        route.abort()

    with chromium.page() as page:
        page.route("**/events/batch", lose, times=1)
        labeller = Labeller(page, made).open()
        said = [labeller.decide("1") for _ in range(3)]
        labeller.wait_saved()
    assert lost == [200]
    assert [made.kinds(one) for one in said] == [["label"]] * 3


def test_a_server_killed_while_it_saves_loses_and_doubles_nothing(
    chromium: Chromium, tmp_path: Path, cells: list[bytes]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = f"--http-port={free.getsockname()[1]}"
    with chromium.page() as page:
        with running_labeling(tmp_path, port) as first_server:
            made = Site(first_server, "cells", "classification", ["sound", "cracked"])
            made.add(cells[:20])
            labeller = Labeller(page, made).open()
            said = [labeller.decide("1") for _ in range(2)]
            with page.expect_request("**/events/batch"):
                said += [labeller.decide("2") for _ in range(2)]
            first_server.process.kill()  # in the middle of it, or just before or after
            first_server.process.wait()
            said += [labeller.decide("1") for _ in range(2)]  # nobody waits for it
            labeller.wait_phase("offline")
        with running_labeling(tmp_path, port) as made.server:
            labeller.wait_saved()
            assert [made.kinds(one) for one in said] == [["label"]] * 6
            classes = [made.classes(one) for one in said]
            assert classes == [["sound"]] * 2 + [["cracked"]] * 2 + [["sound"]] * 2
            # And the work goes on with the same page.
            said.append(labeller.decide("1"))
            labeller.wait_saved()
            assert made.kinds(said[-1]) == ["label"]
    assert len(set(said)) == 7


@pytest.mark.parametrize(("key", "classes"), [("k", ["cracked"]), ("t", ["sound"])])
def test_two_tabs_in_conflict_show_both_versions(
    chromium: Chromium, site: MakeSite, cells: list[bytes], key: str, classes: list[str]
) -> None:
    made = site()
    sha256, *_ = made.add(cells[:3])
    with chromium.page() as page, chromium.page() as other_page:
        mine = Labeller(page, made).open(image=sha256)
        theirs = Labeller(other_page, made).open(image=sha256)
        theirs.decide("1")
        theirs.wait_saved()
        mine.decide("2")  # goes on at once; the conflict waits
        page.wait_for_selector("#undecided:not([hidden])")
        mine.press("c")
        assert mine.text("#conflict-title") == "This image was labelled twice"
        versions = [one.strip() for one in page.locator(".version .strong").all_inner_texts()]
        assert versions == ["cracked", "sound"]
        mine.press(key)
        page.wait_for_selector("#conflict", state="hidden")
        mine.wait_saved()
        assert page.is_hidden("#undecided")
    assert made.classes(sha256) == classes
    assert len(made.history(sha256)) == (2 if key == "k" else 1)


def test_taking_back_means_what_was_said_before_the_key_was_pressed(
    chromium: Chromium, site: MakeSite, cells: list[bytes]
) -> None:
    """Also while the page still asks what that was."""
    made = site()
    made.add(cells[:6])
    held: list[Route] = []
    with chromium.page() as page:
        labeller = Labeller(page, made).open()
        first = labeller.decide("1")
        labeller.wait_saved()
        page.route(re.compile(r"/events\?"), lambda route: held.append(route))
        labeller.open()
        labeller.press("z")
        second = labeller.decide("2")
        held.pop().continue_()
        labeller.wait_shown(first)
        labeller.wait_saved()
    assert (made.kinds(first), made.kinds(second)) == (["label", "undo"], ["label"])


def test_taking_back_twice_takes_back_two_words(
    chromium: Chromium, site: MakeSite, cells: list[bytes]
) -> None:
    """Each its own, also while the page still asks what there is."""
    made = site()
    made.add(cells[:6])
    held: list[Route] = []
    with chromium.page() as page:
        labeller = Labeller(page, made).open()
        before, first, second = (labeller.decide("1") for _ in range(3))
        labeller.wait_saved()
        page.route(re.compile(r"/events\?"), lambda route: held.append(route))
        labeller.open()
        labeller.press("z", "z")
        held.pop().continue_()
        for image in (second, first):
            made.server.wait(lambda image=image: made.kinds(image) == ["label", "undo"])
        labeller.wait_saved()
    assert made.kinds(before) == ["label"]


def test_what_is_taken_back_together_comes_in_that_order(
    chromium: Chromium, site: MakeSite, cells: list[bytes]
) -> None:
    """However long each of the images is on its way."""
    made = site()
    made.add(cells[:6])
    held: list[Route] = []
    with chromium.page() as page:
        labeller = Labeller(page, made).open()
        first, second = (labeller.decide("1") for _ in range(2))
        labeller.wait_saved()
        page.route(f"**/images/{second}", lambda route: held.append(route))
        labeller.open()
        with page.expect_request(f"**/images/{second}"):
            labeller.press("z", "z")
        for image in (first, second):
            made.server.wait(lambda image=image: made.kinds(image) == ["label", "undo"])
        labeller.wait_saved()
        held.pop().continue_()
        expect(page.locator("#strip li")).to_have_count(3)
        assert labeller.shown == first
        labeller.decide("2")
        assert labeller.shown == second


def test_an_image_of_which_two_words_are_taken_back_comes_once(
    chromium: Chromium, site: MakeSite, cells: list[bytes]
) -> None:
    made = site()
    image, *_ = made.add(cells[:6])
    say(made, image, "sound")
    say(made, image, kind="flag")
    with chromium.page() as page:
        labeller = Labeller(page, made).open()
        labeller.press("z", "z")
        labeller.wait_shown(image)
        assert labeller.decide("2") == image
        labeller.wait_saved()
        labeller.decide("1")
        labeller.wait_saved()
    assert made.kinds(image) == ["label", "flag", "undo", "undo", "label"]
    assert made.classes(image) == ["cracked"]


def test_what_is_taken_back_of_the_image_on_screen_is_gone_from_it(
    chromium: Chromium, site: MakeSite, cells: list[bytes]
) -> None:
    """Also where it was said before this page was opened."""
    made = site()
    image, *_ = made.add(cells[:6])
    say(made, image, "sound")
    with chromium.page() as page:
        labeller = Labeller(page, made).open(image=image)
        pressed = page.locator("#classes [aria-pressed=true]")
        expect(pressed).to_have_count(1)
        labeller.press("z")
        expect(pressed).to_have_count(0)
        assert labeller.shown == image
        labeller.decide("2")
        labeller.wait_saved()
    assert made.classes(image) == ["cracked"]


def test_a_key_that_is_held_decides_one_conflict(
    chromium: Chromium, site: MakeSite, cells: list[bytes]
) -> None:
    made = site()
    images = made.add(cells[:2])
    with chromium.page() as page:
        labeller = Labeller(page, made).open()
        page.wait_for_load_state("networkidle")  # both images are here
        for image in images:
            say(made, image, "sound")
        first, second = labeller.decide("2"), labeller.decide("2")
        expect(page.locator("#undecided-text")).to_have_text("2 labels need a decision")
        labeller.press("c")
        page.keyboard.press("Control+k")
        for _ in range(3):
            page.keyboard.down("k")
        expect(page.locator("#undecided-text")).to_have_text("1 label needs a decision")
        for _ in range(3):
            page.keyboard.down("k")
        page.keyboard.up("k")
        labeller.wait_saved()
        expect(page.locator("#conflict")).to_be_visible()
    kinds = sorted([len(made.history(first)), len(made.history(second))])
    assert kinds == [1, 2]

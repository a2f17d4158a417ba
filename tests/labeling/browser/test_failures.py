"""The labelling page while something fails between it and the service: nothing is lost, and the
page says what happened. A real proxy stands between, and breaks what it is told to."""

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, expect
from support.axe import violations
from support.browser import Chromium
from support.faults import ALWAYS, Fault, FaultyProxy, Kind, faulty_proxy
from support.labeling_server import LabelingServer
from support.labelling_page import Labeller, Site

pytestmark = pytest.mark.browser
MakeSite = Callable[..., Site]
KEPT = "What you have said is kept on this device, also when this page is closed."


@pytest.fixture
def line(server: LabelingServer) -> Iterator[FaultyProxy]:
    """What the page has for its service."""
    with faulty_proxy(f"http://{server.http_address}") as proxy:
        yield proxy


def trouble(page: Page):
    """The bar that says what is wrong."""
    return page.locator("[data-trouble]")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        pytest.param("gone", "The service does not answer.", marks=pytest.mark.long),
        ("cut_body", "The service does not answer."),
        pytest.param("fail", "The service failed (500).", marks=pytest.mark.long),
        ("later", "The service failed (503)."),
        ("astray", "Something between this page and the service answered in its place."),
        ("portal", "Something between this page and the service answered in its place."),
    ],
)
def test_labels_wait_are_counted_and_go_when_it_is_over(
    chromium: Chromium, site: MakeSite, line: FaultyProxy, cells: list[bytes], kind: Kind, said: str
) -> None:
    made = site()
    made.add(cells[:4])
    with chromium.page() as page:
        labeller = Labeller(page, made, line.url).open()
        line.faults.append(Fault("POST", kind, ALWAYS, "/events/batch"))
        labels = [labeller.decide("1")]
        expect(trouble(page)).to_have_text(
            f"1 label not saved yet; trying again. {said} {KEPT}", use_inner_text=True
        )
        labels.append(labeller.decide("2"))
        expect(trouble(page)).to_contain_text("2 labels not saved yet; trying again.")
        assert labeller.text("#journal-text") == "2 labels not saved yet"
        assert labeller.text("#live") == "Kept here: cracked. Next image."
        assert violations(page) == []
        line.faults.clear()
        labeller.wait_saved()
        expect(trouble(page)).to_be_empty()
        assert labeller.text("#live") == "All saved."
    assert [made.kinds(one) for one in labels] == [["label"], ["label"]]
    assert [made.classes(one) for one in labels] == [["sound"], ["cracked"]]


def test_a_busy_service_is_left_alone_as_long_as_it_asks(
    chromium: Chromium, site: MakeSite, line: FaultyProxy, cells: list[bytes]
) -> None:
    made = site()
    made.add(cells[:5])
    with chromium.page() as page:
        labeller = Labeller(page, made, line.url).open()
        line.faults.append(Fault("POST", "much_later", 1, "/events/batch"))
        labeller.decide("1")
        labeller.wait_phase("busy")
        asked = sum("/events/batch" in one for one in line.requests)
        for _ in range(3):
            labeller.decide("1")  # none of them asks before the time is over
        assert sum("/events/batch" in one for one in line.requests) == asked
        labeller.wait_saved()


def test_the_browser_asks_before_unsent_labels_are_left(
    chromium: Chromium, site: MakeSite, line: FaultyProxy, cells: list[bytes]
) -> None:
    made = site()
    made.add(cells[:3])
    with chromium.page() as page:
        labeller = Labeller(page, made, line.url).open()
        line.faults.append(Fault("POST", "gone", ALWAYS, "/events/batch"))
        said = labeller.decide("1")
        expect(trouble(page)).to_contain_text("1 label not saved yet")
        with page.expect_event("dialog") as asked:
            page.once("dialog", lambda dialog: dialog.dismiss())
            page.evaluate("() => void (location.href = '/')")
        assert asked.value.type == "beforeunload"
        assert page.url.startswith(f"{line.url}/datasets/{made.dataset}/label")
        line.faults.clear()
        labeller.wait_saved()
        page.goto(f"{line.url}/")  # nobody is asked any more: the page would stay
        expect(page.locator("h1")).to_have_text("Datasets")
    assert made.kinds(said) == ["label"]


def test_other_pages_send_what_is_left_and_say_so(
    chromium: Chromium, site: MakeSite, line: FaultyProxy, cells: list[bytes]
) -> None:
    made = site()
    made.add(cells[:3])
    with chromium.page() as page:
        labeller = Labeller(page, made, line.url).open()
        line.faults.append(Fault("POST", "gone", ALWAYS, "/events/batch"))
        said = labeller.decide("1")
        expect(trouble(page)).to_contain_text("1 label not saved yet")
        page.goto(f"{line.url}/")  # and never back
        expect(trouble(page)).to_contain_text(
            f"1 label of {made.dataset} not saved yet; trying again."
        )
        line.faults.clear()
        expect(trouble(page)).to_be_empty()
    assert made.kinds(said) == ["label"]


def test_a_page_that_is_opened_too_early_begins_when_the_service_answers(
    chromium: Chromium, site: MakeSite, line: FaultyProxy, cells: list[bytes]
) -> None:
    made = site()
    image, _ = made.add(cells[:2])
    line.faults.append(Fault("GET", "fail", ALWAYS, "/v1/"))
    with chromium.page() as page:
        page.goto(f"{line.url}/datasets/{made.dataset}/label")
        expect(trouble(page)).to_have_text(
            "The service failed (500). This page tries again by itself.", use_inner_text=True
        )
        line.faults.clear()
        labeller = Labeller(page, made, line.url)
        assert labeller.shown == image
        expect(trouble(page)).to_be_empty()


def test_an_image_that_is_gone_is_said_to_be(
    chromium: Chromium, site: MakeSite, cells: list[bytes]
) -> None:
    made = site()
    (image,) = made.add(cells[:1])
    with chromium.page() as page:
        labeller = Labeller(page, made).open(image="0" * 64)
        assert labeller.shown == image
        expect(page.locator("#hint")).to_have_text(
            "The image that was asked for is not here any more."
        )


def test_nobody_labels_an_image_that_is_not_on_screen(
    chromium: Chromium, site: MakeSite, line: FaultyProxy, cells: list[bytes]
) -> None:
    made = site()
    first, second = made.add(cells[:2])
    line.faults.append(Fault("GET", "hang", ALWAYS, f"{second}/preview"))
    with chromium.page() as page:
        labeller = Labeller(page, made, line.url).open()
        # Twice at once, as of a worn key: the second one is not about the image that comes next.
        assert labeller.shown == first
        press = (
            "document.body.dispatchEvent(new KeyboardEvent('keydown', {key: '1', bubbles: true}))"
        )
        page.evaluate(f"() => {{ {press}; {press} }}")
        expect(page.locator("#layer.loading")).to_be_attached()
        labeller.wait_saved()
        labeller.press("1")
        expect(page.locator("#hint")).to_have_text("The image is not here yet.")
        labeller.wait_saved()
    assert (made.kinds(first), made.kinds(second)) == (["label"], [])


def test_a_class_that_is_retired_meanwhile_is_not_offered_and_its_label_is_not_lost(
    chromium: Chromium, site: MakeSite, cells: list[bytes]
) -> None:
    made = site(("sound", "cracked", "dark"))
    first, second, third = made.add(cells[:3])
    with chromium.page() as page:
        labeller = Labeller(page, made).open()
        made.ask("POST", f"{made.root}/classes/cracked/retire")
        made.ask("POST", f"{made.root}/classes", {"name": "dusty"})
        assert labeller.decide("2") == first
        expect(page.locator("#undecided-text")).to_have_text("1 label needs a decision")
        expect(page.locator('.class-button[data-id="cracked"]')).to_be_disabled()
        expect(page.locator("#classes-changed")).to_contain_text("There are new classes.")
        labeller.press("2")
        assert labeller.text("#hint") == "cracked is no longer offered; choose another class."
        assert labeller.decide("3") == second  # the keys of the others are what they were
        labeller.wait_saved()
        labeller.press("c")
        expect(page.locator("#conflict-body")).to_contain_text('class "cracked" was retired')
        assert violations(page) == []
        labeller.press("l")
        labeller.wait_shown(first)
        expect(page.locator("#undecided")).to_be_hidden()
        labeller.decide("1")
        labeller.wait_saved()
    assert [made.classes(one) for one in (first, second, third)] == [["sound"], ["dark"], None]


def test_an_undo_that_comes_too_late_is_told_and_changes_nothing(
    chromium: Chromium, site: MakeSite, line: FaultyProxy, cells: list[bytes]
) -> None:
    made = site()
    image, _ = made.add(cells[:2])
    with chromium.page() as page, chromium.page() as other_page:
        labeller = Labeller(page, made, line.url).open()
        assert labeller.decide("1") == image
        labeller.wait_saved()
        other = Labeller(other_page, made).open(image=image)
        line.faults.append(Fault("POST", "gone", ALWAYS, "/events/batch"))
        labeller.press("z")
        expect(trouble(page)).to_contain_text("1 label not saved yet")
        other.decide("2")
        other.wait_saved()
        line.faults.clear()
        labeller.wait_saved()
        labeller.press("c")
        assert labeller.text("#conflict-title") == "This could not be taken back"
        labeller.press("t")
        expect(page.locator("#undecided")).to_be_hidden()
    assert (made.kinds(image), made.classes(image)) == (["label", "label"], ["cracked"])

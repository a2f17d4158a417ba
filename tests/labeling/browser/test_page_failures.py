"""The pages beside labelling while something fails between them and the service: grid, review,
forms, imports. A real proxy stands between, and breaks what it is told to."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import Page, Route, expect
from support.axe import violations
from support.faults import ALWAYS, Fault, FaultyProxy, faulty_proxy
from support.labeling_server import LabelingServer
from support.labelled_site import disagree, predict, say
from support.labelling_page import Site

pytestmark = pytest.mark.browser
Open = Callable[[Site, str], Page]


@pytest.fixture
def line(server: LabelingServer) -> Iterator[FaultyProxy]:
    """What the pages have for their service."""
    with faulty_proxy(f"http://{server.http_address}") as proxy:
        yield proxy


@pytest.fixture
def visit(chromium, line: FaultyProxy) -> Iterator[Open]:
    with chromium.page() as page:

        def opened(site: Site, name: str) -> Page:
            page.goto(f"{line.url}/datasets/{site.dataset}/{name}")
            return page

        yield opened


def trouble(page: Page):
    return page.locator("[data-trouble]")


def test_a_round_of_the_grid_waits_for_its_answer_and_is_said_once(
    visit, line, site, cells
) -> None:
    made = site()
    images = made.add(cells[:6])
    predict(made, {one: {"sound": 0.9, "cracked": 0.1} for one in images})
    page = visit(made, "grid")
    accept = page.locator("#grid-accept")
    page.locator("#grid-tiles button").first.click()
    expect(accept).to_be_enabled()
    line.faults += [
        Fault("POST", "lose_answer", 1, "/events/batch"),  # the service has done it
        Fault("POST", "fail", ALWAYS, "/events/batch"),
    ]
    accept.click()
    expect(trouble(page)).to_contain_text("6 labels not saved yet; trying again.")
    expect(trouble(page)).to_contain_text("The service failed (500).")
    page.locator("#grid-tiles button").nth(1).click()  # too late: that is said already
    expect(page.locator("#grid-tiles button").nth(1)).to_have_attribute("aria-pressed", "false")
    assert violations(page) == []
    line.faults[:] = [Fault("GET", "gone", ALWAYS, "/images?")]
    expect(page.locator("#grid-said")).to_have_text("5 labelled sound, 1 otherwise.")
    expect(trouble(page)).to_contain_text("The service does not answer.")
    assert [made.kinds(one) for one in images] == [["label"]] * 6
    page.keyboard.press("z")  # while the next tiles are fetched: it has to wait, and is not lost
    line.faults[:] = [Fault("POST", "lose_answer", 1, "/events/batch")]
    expect(page.locator("#grid-said")).to_have_text("6 taken back.")
    expect(trouble(page)).to_be_empty()
    assert [made.kinds(one) for one in images] == [["label", "undo"]] * 6


def test_the_grid_says_why_labels_were_not_taken(visit, site, cells) -> None:
    made = site(("sound", "cracked", "dark"))
    images = made.add(cells[:3])
    predict(made, {one: {"sound": 0.9, "cracked": 0.1} for one in images})
    page = visit(made, "grid?predicted=sound")
    expect(page.locator("#grid-accept")).to_be_enabled()
    made.ask("POST", f"{made.root}/classes/sound/retire")
    page.locator("#grid-accept").click()
    said = page.locator("#grid-said")
    expect(said).to_contain_text('0 labelled sound. 3 not taken: class "sound" was retired')
    assert "somebody else" not in said.inner_text()
    assert [made.kinds(one) for one in images] == [[]] * 3


def test_the_grid_accepts_nothing_that_nobody_can_have_seen(visit, line, site, cells) -> None:
    made = site()
    images = made.add(cells[:4])
    predict(made, {one: {"sound": 0.9 - n / 100, "cracked": 0.1} for n, one in enumerate(images)})
    line.faults.append(Fault("GET", "fail", ALWAYS, f"{images[1]}/preview"))
    page = visit(made, "grid?size=12")
    accept = page.locator("#grid-accept")
    expect(page.locator("#grid-accept-text")).to_have_text("Accept 3, 1 not shown")
    expect(accept).to_be_enabled()
    accept.click()
    expect(page.locator("#grid-said")).to_have_text("3 labelled sound, 1 left for later.")
    assert [made.kinds(one) for one in images] == [["label"], [], ["label"], ["label"]]
    # Enter, pressed twice, means the tiles that were there, not the next ones.
    line.faults.clear()
    made = site()
    images = made.add(cells[:24])
    predict(made, {one: {"sound": 0.9 - n / 100, "cracked": 0.1} for n, one in enumerate(images)})
    page.clock.install()
    visit(made, "grid?size=12")
    expect(page.locator("#grid-title")).to_have_text("12 predicted sound")
    page.clock.fast_forward(1000)
    expect(accept).to_be_enabled()
    page.clock.pause_at(datetime.now(UTC) + timedelta(hours=1))
    page.keyboard.press("Enter")
    expect(page.locator("#grid-said")).to_have_text("12 labelled sound.")
    page.keyboard.press("Enter")
    expect(accept).to_be_disabled()
    page.clock.resume()
    expect(accept).to_be_enabled()
    assert [made.kinds(one) for one in images] == [["label"]] * 12 + [[]] * 12


def test_a_decision_waits_for_its_answer_and_is_made_once(visit, line, site, cells) -> None:
    made = site()
    first, second, third = made.add(cells[:3])
    for one in (first, second):
        say(made, one, "sound")
        disagree(made, one, "cracked")
    page = visit(made, "review")
    ready = page.locator("#review[aria-busy=false]")
    expect(ready).to_be_attached()
    line.faults += [
        Fault("POST", "lose_answer", 1, "/events"),
        Fault("POST", "gone", ALWAYS, "/events"),
    ]
    page.keyboard.press("2")
    expect(trouble(page)).to_have_text(
        "Decision not saved yet; trying again. The service does not answer. Leave this page open.",
        use_inner_text=True,
    )
    page.keyboard.press("1")  # it is on its way as it was said
    assert violations(page) == []
    line.faults.clear()
    expect(page.locator("#review-said")).to_have_text("Decided: cracked.")
    expect(ready).to_be_attached()
    assert (made.kinds(first), made.classes(first)) == (["label"] * 3, ["cracked"])
    line.faults.append(Fault("POST", "lose_answer", 1, "/events"))
    page.keyboard.press("z")
    expect(page.locator("#review-said")).to_have_text("Taken back.")
    assert made.kinds(first) == ["label"] * 3 + ["undo"]
    visit(made, f"review?image={second}")
    expect(ready).to_be_attached()
    line.faults.append(Fault("POST", "gone", ALWAYS, "/events"))
    page.keyboard.press("2")
    expect(trouble(page)).to_contain_text("Decision not saved yet")
    page.keyboard.press("z")  # it means the decision that is on its way
    line.faults.clear()
    expect(page.locator("#review-said")).to_have_text("Taken back.")
    assert made.kinds(second) == ["label"] * 3 + ["undo"]
    line.faults.append(Fault("GET", "fail", ALWAYS, "/preview"))
    page.goto(f"{line.url}/datasets/{made.dataset}/review?image={third}")
    expect(page.locator("#review-unseen")).to_be_visible()


def test_a_form_that_got_no_answer_is_sent_again_as_the_same(visit, line, site, cells) -> None:
    made = site()
    (image,) = made.add(cells[:1])
    page = visit(made, f"images/{image}")
    flag = page.get_by_role("button", name="Flag", exact=True)
    line.faults.append(Fault("POST", "lose_answer", ALWAYS, "/events"))
    flag.click()
    expect(page.locator(".form-error")).to_have_text(
        "The service does not answer. What you entered is still here: try again in a moment."
    )
    line.faults.clear()
    flag.click()
    expect(page.locator(".notice.warn")).to_contain_text("Flagged by local")
    assert made.kinds(image) == ["flag"]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (
            "fail",
            "The service failed (500). Whether it was done is not known: load this page again to "
            "see.",
        ),
        (
            "later",
            "The service failed (503). Whether it was done is not known: load this page again to "
            "see.",
        ),
        (
            "limit",
            "The service failed (429). What you entered is still here: try again in a moment.",
        ),
    ],
)
def test_a_form_says_whether_it_may_have_been_done(visit, line, site, kind, said) -> None:
    made = site()
    page = visit(made, "classes")
    page.fill("#name", "dusty")
    line.faults.append(Fault("POST", kind, 1, "/classes"))
    page.get_by_role("button", name="Add class").click()
    expect(page.locator(".form-error")).to_have_text(said)
    assert page.input_value("#name") == "dusty"
    assert violations(page) == []
    page.get_by_role("button", name="Add class").click()
    expect(page.locator("tbody tr", has_text="dusty")).to_be_visible()


def test_the_page_stays_until_all_that_was_pressed_is_done(visit, line, site) -> None:
    made = site()
    made.ask("POST", f"{made.root}/classes/cracked/retire")
    page = visit(made, "classes")
    dialogs: list[str] = []  # the browser asks before it breaks something off
    page.on("dialog", lambda dialog: (dialogs.append(dialog.type), dialog.accept()))
    page.fill("#name", "dusty")
    line.faults.append(Fault("POST", "slow", 1, "/classes"))
    page.get_by_role("button", name="Add class").click()
    page.get_by_role("button", name="Restore").click()
    expect(page.locator("tbody tr", has_text="cracked")).to_be_visible()
    expect(page.locator("tbody tr", has_text="dusty")).to_be_visible()
    assert dialogs == []


@pytest.mark.parametrize("refused_first", [True, False])
def test_what_is_done_while_something_else_is_refused_can_be_pressed_again(
    visit, line, site, refused_first: bool
) -> None:
    """The refusal is to be read on this page, so the page that comes next waits."""
    made = site()
    made.ask("POST", f"{made.root}/classes/cracked/retire")
    page = visit(made, "classes")
    add, restore = (page.get_by_role("button", name=name) for name in ("Add class", "Restore"))
    page.fill("#name", "sound")  # there is one
    slow, held = ("/restore", restore) if refused_first else ("/classes", add)
    line.faults.append(Fault("POST", "slow", 1, slow))
    held.click()
    (add if refused_first else restore).click()
    expect(page.locator(".form-error:visible")).to_contain_text("sound")
    expect(page.locator("[data-toasts]")).to_contain_text("cracked is offered again.")
    expect(restore).to_be_enabled()
    expect(add).to_be_enabled()
    page.fill("#name", "dusty")
    add.click()
    expect(page.locator("tbody tr", has_text="dusty")).to_be_visible()
    expect(page.locator("tbody tr", has_text="cracked")).to_be_visible()


def test_nothing_about_attributes_can_be_pressed_while_it_would_be_lost(visit, line, site) -> None:
    made = site()
    specs = [{"name": name, "kind": "colour", "detail": {}} for name in ("tint", "rim")]
    made.ask("PUT", f"{made.root}/attributes", specs)
    page = visit(made, "classes")
    line.faults.append(Fault("PUT", "fail", 1, "/attributes"))
    retire = page.get_by_role("button", name="Retire", exact=True)
    with page.expect_response("**/attributes"):
        retire.first.click()
    expect(page.get_by_text("The service failed (500).")).to_be_visible()
    line.faults.append(Fault("PUT", "slow", 1, "/attributes"))
    retire.first.click()
    expect(retire.last).to_be_disabled()
    expect(retire).to_have_count(1)
    retire.click()
    expect(retire).to_have_count(0)


def test_the_list_of_imports_is_not_renewed_under_somebodys_hands(chromium, site, cells) -> None:
    """He reached for it while the new one was on its way."""
    made = site()
    held: list[Route] = []

    def pass_on(route: Route) -> None:
        answer = route.fetch()
        running = answer.text().replace('id="jobs"', 'id="jobs" data-unfinished')
        route.fulfill(response=answer, body=running)

    with chromium.page() as page:
        address = f"http://{made.server.http_address}/datasets/{made.dataset}/imports"
        page.goto(address)
        file = {"name": "1.png", "mimeType": "image/png", "buffer": cells[0]}
        page.get_by_label("Files").set_input_files([file])
        page.locator("form button", has_text="Import").click()
        expect(page.locator("#jobs")).to_contain_text("1 accepted", timeout=60_000)
        page.route(
            address,
            lambda route: (
                pass_on(route) if route.request.is_navigation_request() else held.append(route)
            ),
        )
        with page.expect_request(
            lambda one: not one.is_navigation_request() and one.url == address
        ):
            page.goto(address)
        page.get_by_role("link", name="Receipts").focus()
        with page.expect_response(address):
            pass_on(held.pop())
        page.evaluate("() => new Promise(requestAnimationFrame)")
        expect(page.get_by_role("link", name="Receipts")).to_be_focused()


def test_an_attribute_that_a_colleague_has_added_stays(visit, site) -> None:
    made = site()
    page = visit(made, "classes")
    theirs = {"name": "tint", "kind": "colour", "detail": {}}
    made.ask("PUT", f"{made.root}/attributes", [theirs])
    page.locator("summary", has_text="Add an attribute").click()
    page.fill("#attribute-name", "light")
    page.fill("#attribute-choices", "day\nnight")
    page.get_by_role("button", name="Add attribute").click()
    expect(page.locator("#attributes ~ ul")).to_contain_text("choice: day, night")
    found = made.ask("GET", f"{made.root}/attributes")
    assert [(one["name"], one["retired"]) for one in found] == [("tint", False), ("light", False)]


def test_an_upload_that_breaks_off_is_sent_again_and_taken_once(visit, line, site, cells) -> None:
    made = site()
    page = visit(made, "imports")
    files = [
        {"name": f"{n}.png", "mimeType": "image/png", "buffer": one}
        for n, one in enumerate(cells[:20])
    ]
    page.get_by_label("Files").set_input_files(files)
    button = page.locator("form button", has_text="Import")
    for kind in ("gone", "lose_answer"):
        line.faults[:] = [Fault("POST", kind, ALWAYS, "/imports")]
        button.click()
        expect(page.locator(".form-error")).to_have_text(
            "The upload broke off. The files are still chosen; press Import to send them again. "
            "They are taken once.",
            timeout=60_000,
        )
        page.locator(".form-error").evaluate("one => (one.textContent = '')")
    line.faults.clear()
    button.click()
    expect(page.locator("#jobs article")).to_have_count(1)
    expect(page.locator("#jobs")).to_contain_text("20 accepted", timeout=60_000)
    assert made.ask("GET", f"{made.root}/overview")["images"] == 20


def test_the_way_back_shows_what_is_so_now(chromium, site) -> None:
    made = site()
    root = f"http://{made.server.http_address}/datasets/{made.dataset}"
    with chromium.remembering() as page:
        page.add_init_script(
            "addEventListener('pageshow', (event) => "
            "event.persisted && sessionStorage.setItem('kept', 'yes'))"
        )
        page.goto(f"{root}/classes")
        expect(page.locator("tbody tr", has_text="cracked")).to_be_visible()
        page.get_by_role("link", name="Snapshots").click()
        expect(page.locator("h1")).to_have_text("Snapshots")
        made.ask("POST", f"{made.root}/classes/cracked/retire")
        page.go_back(wait_until="commit")
        expect(page.locator("tbody tr", has_text="cracked")).to_have_count(0)
        assert page.evaluate("sessionStorage.getItem('kept')") == "yes"
        # What somebody has begun to write is not taken from under his hands.
        page.fill("#name", "dusty")
        page.get_by_role("link", name="Snapshots").click()
        expect(page.locator("h1")).to_have_text("Snapshots")
        page.go_back(wait_until="commit")
        assert page.input_value("#name") == "dusty"
        page.get_by_role("button", name="Add class").click()
        expect(page.locator("tbody tr", has_text="dusty")).to_be_visible()

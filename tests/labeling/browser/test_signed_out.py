"""A session that ends while somebody works: signed in again in place or beside it, nothing is lost,
and nothing is ever said in somebody else's name."""

import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from support.axe import violations
from support.browser import Chromium
from support.faults import ALWAYS, Fault, faulty_proxy
from support.labeling_server import LabelingServer, running_labeling
from support.labelled_site import predict
from support.labelling_page import Labeller, Site

from visionloop_labeling import account_commands

pytestmark = pytest.mark.browser
PASSWORD = "a long enough password"
MAX_IMPORT_BYTES = 300_000


class People:
    """A service with accounts: ada is an administrator, ben a labeller."""

    def __init__(self, server: LabelingServer) -> None:
        self.address = f"http://{server.http_address}"

    def sign_in(self, page: Page, name: str = "ada", then: str = "/") -> None:
        page.goto(f"{self.address}/login?next={then}")
        page.get_by_label("Name").fill(name)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(f"{self.address}{then}")

    def item(self, page: Page, site: Site, sha256: str) -> dict:
        """An image as it stands, as the page's person sees it."""
        return page.request.get(f"{self.address}{site.root}/images/{sha256}").json()


@pytest.fixture(scope="module")
def people(
    tmp_path_factory: pytest.TempPathFactory, cells: list[bytes]
) -> Iterator[Callable[[], tuple[People, Site, list[str]]]]:
    folder = tmp_path_factory.mktemp("people")
    made: list[tuple[Site, list[str]]] = []
    with running_labeling(folder) as server:
        for _ in range(9):
            site = Site(server, f"d{uuid.uuid4().hex[:12]}", "classification", ["sound", "cracked"])
            images = site.add(cells[:6])
            predict(site, {one: {"sound": 0.9, "cracked": 0.1} for one in images})
            made.append((site, images))
    password = folder / "password"
    password.write_text(f"{PASSWORD}\n")
    for name, role in (("ada", "admin"), ("ben", "labeller")):
        flags = [f"--role={role}", f"--password-file={password}", f"--database={server.database}"]
        account_commands.run(["add", name, *flags])
    flags = ("--accounts", f"--max-import-bytes={MAX_IMPORT_BYTES}")
    with running_labeling(folder, *flags) as server:

        def fresh() -> tuple[People, Site, list[str]]:
            site, images = made.pop()
            site.server = server
            return People(server), site, images

        yield fresh


def trouble(page: Page):
    return page.locator("[data-trouble]")


def sign_in_here(page: Page) -> None:
    """In the page's own dialog, wrongly first."""
    trouble(page).get_by_role("button", name="Sign in").click()
    dialog = page.locator("#sign-in-again")
    expect(dialog).to_contain_text("Sign in again as ada")
    assert violations(page) == []
    for tried in ("not this one", PASSWORD):
        dialog.get_by_label("Your password").fill(tried)
        dialog.get_by_role("button", name="Sign in").click()
        if tried != PASSWORD:
            expect(dialog.get_by_role("alert")).to_have_text("the name or the password is wrong")
    expect(dialog).to_be_hidden()
    expect(trouble(page)).to_be_empty()


def test_labels_go_on_after_signing_in_on_the_page_itself(people, chromium: Chromium) -> None:
    service, site, _ = people()
    with chromium.page() as page:
        service.sign_in(page)
        labeller = Labeller(page, site).open()
        said = [labeller.decide("1")]
        labeller.wait_saved()
        page.context.clear_cookies()
        said += [labeller.decide("2"), labeller.decide("1")]
        labeller.wait_phase("signed_out")
        expect(trouble(page)).to_contain_text(
            "2 labels not saved yet. You are signed out. Sign in again, and it goes on here"
        )
        shown = labeller.shown
        sign_in_here(page)
        labeller.wait_saved()
        assert labeller.shown == shown  # the page is the same one
        found = [service.item(page, site, one) for one in said]
    assert [one["annotation"]["classes"] for one in found] == [["sound"], ["cracked"], ["sound"]]
    assert {one["author"] for one in found} == {"ada"}


def test_labels_go_on_after_signing_in_in_another_tab(people, chromium: Chromium) -> None:
    service, site, _ = people()
    with chromium.page() as page:
        service.sign_in(page)
        labeller = Labeller(page, site).open()
        page.context.clear_cookies()
        said = labeller.decide("2")
        labeller.wait_phase("signed_out")
        other = page.context.new_page()
        service.sign_in(other)  # another session, another token for forms
        labeller.wait_saved()
        expect(trouble(page)).to_be_empty()
        assert service.item(page, site, said)["author"] == "ada"


def test_two_things_said_at_once_go_on_after_signing_in_in_another_tab(
    people, chromium: Chromium
) -> None:
    service, site, images = people()
    with chromium.page() as page:
        service.sign_in(page)
        page.goto(f"{service.address}/datasets/{site.dataset}/classes")
        page.context.clear_cookies()
        service.sign_in(page.context.new_page())
        answers = page.evaluate(
            """async ([path, sha256]) => {
                const loaded = performance.getEntriesByType("resource").map((one) => one.name);
                const { post } = await import(loaded.find((name) => name.endsWith("/http.js")));
                const twice = [post(path, { sha256 }), post(path, { sha256 })];
                return (await Promise.allSettled(twice)).map((one) => one.status);
            }""",
            [f"{site.root}/queue/release", images[:1]],
        )
    assert answers == ["fulfilled", "fulfilled"]


def test_nothing_is_refused_while_nobody_can_tell_who_is_signed_in(
    people, chromium: Chromium
) -> None:
    service, site, _ = people()
    with faulty_proxy(service.address) as line, chromium.page() as page:
        service.sign_in(page)  # a cookie knows no ports
        labeller = Labeller(page, site, line.url).open()
        line.faults.append(Fault("GET", "fail", ALWAYS, "/v1/session"))
        page.context.clear_cookies()
        said = labeller.decide("2")
        expect(trouble(page)).to_contain_text(
            "1 label not saved yet; trying again. The service failed (500)."
        )
        line.faults.clear()
        labeller.wait_phase("signed_out")
        sign_in_here(page)
        labeller.wait_saved()
        assert service.item(page, site, said)["author"] == "ada"


def test_nothing_is_said_in_the_name_of_whoever_signs_in_instead(
    people, chromium: Chromium
) -> None:
    service, site, _ = people()
    with chromium.page() as page:
        service.sign_in(page)
        labeller = Labeller(page, site).open()
        page.context.clear_cookies()
        said = labeller.decide("2")
        labeller.wait_phase("signed_out")
        other = page.context.new_page()
        service.sign_in(other, "ben", f"/datasets/{site.dataset}")
        expect(trouble(page)).to_contain_text(
            "1 label not saved yet. Ben is signed in here now, and this page is that of ada."
        )
        assert trouble(other).inner_text() == ""  # his page sends what is his
        assert service.item(other, site, said)["author"] is None
        other.context.clear_cookies()
        service.sign_in(other, "ada")
        labeller.wait_saved()
        assert service.item(page, site, said)["author"] == "ada"


def test_a_round_of_the_grid_and_a_form_go_on_as_well(people, chromium: Chromium) -> None:
    service, site, images = people()
    with chromium.page() as page:
        service.sign_in(page)
        page.goto(f"{service.address}/datasets/{site.dataset}/grid")
        expect(page.locator("#grid-accept")).to_be_enabled()
        page.locator("#grid-tiles button").first.click()
        page.context.clear_cookies()
        page.locator("#grid-accept").click()
        expect(trouble(page)).to_contain_text("6 labels not saved yet. You are signed out.")
        sign_in_here(page)
        expect(page.locator("#grid-said")).to_have_text("5 labelled sound, 1 otherwise.")
        found = [service.item(page, site, one) for one in images]
        assert (
            sorted(one["annotation"]["classes"] for one in found) == [["cracked"]] + [["sound"]] * 5
        )
        page.goto(f"{service.address}/datasets/{site.dataset}/classes")
        page.context.clear_cookies()
        page.fill("#name", "dusty")
        page.get_by_role("button", name="Add class").click()
        expect(trouble(page)).to_contain_text("You are signed out.")
        sign_in_here(page)
        expect(page.locator("tbody tr", has_text="dusty")).to_be_visible()


def test_more_images_lead_to_the_login_and_not_to_the_end(people, chromium: Chromium) -> None:
    service, site, _ = people()
    with chromium.page() as page:
        service.sign_in(page)
        page.goto(f"{service.address}/datasets/{site.dataset}/browse?limit=2")
        # Six images are one page: a link of the same kind stands for that to the second one.
        page.evaluate(
            """() => document.querySelector('.pages').insertAdjacentHTML(
                'beforeend', `<a data-next href="${location.pathname}?order=newest">More</a>`)"""
        )
        page.context.clear_cookies()
        page.locator("[data-next]").click()
        expect(page.get_by_label("Password")).to_be_visible()


def test_an_upload_that_is_too_large_or_comes_after_the_session(
    people, chromium: Chromium, cells: list[bytes], tmp_path: Path
) -> None:
    service, site, _ = people()
    large = tmp_path / "large.png"
    large.write_bytes(bytes(2 * MAX_IMPORT_BYTES))
    small = tmp_path / "small.png"
    small.write_bytes(cells[7])
    with chromium.page() as page:
        service.sign_in(page)
        page.goto(f"{service.address}/datasets/{site.dataset}/imports")
        page.get_by_label("Files").set_input_files(large)
        button = page.locator("form button", has_text="Import")
        button.click()
        expect(page.locator(".form-error")).to_have_text(
            "These are 0.6 MB, and an upload may have 0.3 MB: send them in parts."
        )
        page.get_by_label("Files").set_input_files(small)
        page.context.clear_cookies()
        button.click()
        expect(trouble(page)).to_contain_text("You are signed out.")
        sign_in_here(page)
        expect(page.locator("#jobs article")).to_have_count(1)
        page.context.clear_cookies()  # while the list follows the job
        page.evaluate("() => (document.querySelector('#jobs').dataset.unfinished = '')")
        expect(trouble(page)).to_contain_text("The imports below are as they were before.")
        expect(page.locator("#jobs article")).to_have_count(1)


def test_a_new_token_is_there_to_be_copied_whatever_else_was_pressed(
    people, chromium: Chromium
) -> None:
    """It is shown once: the page that would come next waits for it."""
    service, *_ = people()
    with faulty_proxy(service.address) as line, chromium.page() as page:
        service.address = line.url
        service.sign_in(page, then="/account")
        name, make = page.get_by_label("What it is for"), page.get_by_role("button", name="Make")
        name.fill("old")
        make.click()
        page.get_by_role("button", name="Done").click()
        name.fill("new")
        line.faults.append(Fault("POST", "slow", 1, "/tokens"))
        make.click()
        page.get_by_role("button", name="Revoke old").click()
        expect(page.locator("[data-toasts]")).to_contain_text("Revoked.")
        expect(page.locator("[data-made-token] code")).to_have_text(re.compile(r"\S{20,}"))
        page.get_by_role("button", name="Done").click()
        expect(page.get_by_role("button", name="Revoke")).to_have_count(1)

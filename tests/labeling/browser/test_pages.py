"""The pages beside labelling, over a real service in a real browser."""

import io
import uuid
import zipfile
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import FilePayload, Page, Route, expect
from support.axe import violations
from support.browser import Chromium
from support.labelled_site import disagree, predict, say
from support.labelling_page import Site
from support.photographs import photograph

pytestmark = pytest.mark.browser


class Visitor:
    """A browser's page on the pages of one dataset."""

    def __init__(self, page: Page, site: Site) -> None:
        self.page = page
        self.site = site

    def open(self, name: str = "") -> "Visitor":
        address = f"http://{self.site.server.http_address}/datasets/{self.site.dataset}"
        answer = self.page.goto(f"{address}/{name}" if name else address)
        assert answer is not None
        assert answer.status == 200, (name, answer.status)
        return self

    def text(self, selector: str) -> str:
        return self.page.inner_text(selector).strip()


@pytest.fixture
def visitor(chromium: Chromium) -> Iterator[Callable[[Site], Visitor]]:
    with chromium.page() as page:
        yield lambda site: Visitor(page, site)


def test_the_grid_accepts_what_is_not_marked_by_keys_alone(visitor, site, cells) -> None:
    made = site()
    images = made.add(cells[:14])
    sound, others = images[:12], images[12:]
    predict(made, {one: {"sound": 0.99 - n / 100, "cracked": 0.01} for n, one in enumerate(sound)})
    predict(made, {one: {"sound": 0.2, "cracked": 0.8} for one in others})
    page = visitor(made).open("grid?predicted=sound&size=12").page
    expect(page.locator("#grid-title")).to_have_text("12 predicted sound")
    tiles = page.locator("#grid-tiles button")
    expect(tiles.first).to_be_focused()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")  # wrong: with two classes it is the other one
    expect(tiles.nth(1)).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("2")  # the key of "cracked"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    page.keyboard.press("Space")  # no, it was right
    expect(page.locator("#grid-accept-text")).to_have_text("Accept 10, 2 wrong")
    expect(page.locator("#grid-accept")).to_be_enabled()
    page.keyboard.press("Enter")
    expect(page.locator("#grid-said")).to_have_text("10 labelled sound, 2 otherwise.")
    expect(page.locator("#grid-empty")).to_be_visible()
    said = {one: made.history(one)[-1] for one in sound}
    wrong = {one for one, event in said.items() if event["suggestion"] == "rejected"}
    assert wrong == set(sound[1:3])
    assert all(made.classes(one) == ["cracked" if one in wrong else "sound"] for one in sound)
    assert {event["suggested_by"] for event in said.values()} == {"cells:3"}
    assert all(made.classes(one) is None for one in others)
    page.keyboard.press("z")
    expect(page.locator("#grid-said")).to_have_text("12 taken back.")
    expect(page.locator("#grid-title")).to_have_text("12 predicted sound")
    assert all(made.item(one)["state"] == "open" for one in sound)


def test_the_grid_leaves_alone_what_somebody_labelled_meanwhile(visitor, site, cells) -> None:
    made = site(("sound", "cracked", "dirty"))
    images = made.add(cells[:4])
    predict(made, {one: {"sound": 0.9, "cracked": 0.1} for one in images})
    page = visitor(made).open("grid").page
    expect(page.locator("#grid-title")).to_have_text("4 predicted sound")
    say(made, images[0], "dirty")
    tiles = page.locator("#grid-tiles li")
    shown = page.locator("#grid-tiles img").nth(3).get_attribute("src")
    expect(tiles.locator("option")).to_have_count(0)  # of 500 classes in 48 tiles: 24,000
    tiles.nth(3).locator("button").click()
    tiles.nth(3).locator("select").select_option("dirty")
    page.click("#grid-accept")
    expect(page.locator("#grid-said")).to_contain_text("1 had been labelled by somebody else")
    assert made.classes(images[0]) == ["dirty"]
    other = next(one for one in images if one in str(shown))
    if other != images[0]:
        assert made.classes(other) == ["dirty"]
    assert sum(made.classes(one) == ["sound"] for one in images) == (2 if other != images[0] else 3)


def let_look(page: Page) -> None:
    """Keys count once somebody can have seen what they are about."""
    expect(page.locator("#review[aria-busy=false]")).to_be_attached()


def test_review_shows_both_sides_and_a_digit_decides(visitor, site, cells) -> None:
    made = site()
    first, second, third = made.add(cells[:3])
    say(made, first, "sound")
    disagree(made, first, "cracked")
    say(made, second, kind="flag", note="glare?")
    page = visitor(made).open("review").page
    sides = page.locator("#review-sides button")
    expect(sides).to_have_count(2)
    expect(sides.first).to_contain_text("sound")
    expect(sides.first).to_contain_text("counts now")
    expect(sides.nth(1)).to_contain_text("line-3 (app)")
    let_look(page)
    page.keyboard.press("2")
    expect(page.locator("#review-why")).to_have_text("Flagged by local: “glare?”")
    assert (made.classes(first), made.item(first)["state"]) == (["cracked"], "labelled")
    page.keyboard.press("z")
    expect(page.locator("#review-why")).to_have_text("Two things were said")
    assert (made.classes(first), made.item(first)["state"]) == (["sound"], "review")
    let_look(page)
    page.keyboard.press("1")
    expect(page.locator("#review-why")).to_have_text("Flagged by local: “glare?”")
    let_look(page)
    page.locator("#review-case summary").click()
    page.locator("#review-classes button", has_text="cracked").click()
    expect(page.locator("#review-empty")).to_be_visible()
    assert (made.classes(second), made.item(second)["state"]) == (["cracked"], "labelled")
    assert made.item(third)["state"] == "open"


def test_review_says_that_what_waits_is_open_elsewhere(visitor, site, cells) -> None:
    made = site()
    say(made, made.add(cells[:1])[0], kind="flag")
    made.ask("GET", f"{made.root}/queue?n=1&state=review")  # another window takes it
    page = visitor(made).open("review").page
    expect(page.locator("#review-none")).to_have_text("Nothing to review right now")
    expect(page.locator("#review-left")).to_have_text("1 image waits for a decision")
    expect(page.locator("#review-held")).to_be_visible()


def test_review_of_what_was_decided_meanwhile_is_shown_again(visitor, site, cells) -> None:
    made = site()
    image = made.add(cells[:1])[0]
    say(made, image, "sound")
    disagree(made, image, "cracked")
    page = visitor(made).open("review").page
    expect(page.locator("#review-sides button")).to_have_count(2)
    say(made, image, "cracked")  # a colleague, in another window
    let_look(page)
    page.keyboard.press("1")
    expect(page.locator("#review-said")).to_contain_text("Somebody decided meanwhile")
    expect(page.locator("#review-sides button").first).to_contain_text("cracked")
    assert made.classes(image) == ["cracked"]


def test_merging_says_what_it_concerns_and_restoring_takes_it_back(visitor, site, cells) -> None:
    made = site(("sound", "cracked", "broken"))
    images = made.add(cells[:5])
    for number, one in enumerate(images):
        say(made, one, ("sound", "cracked", "broken")[number % 3])
    page = visitor(made).open("classes?edit=broken").page
    page.locator("summary", has_text="Merge").click()
    page.select_option("#into", "cracked")
    button = page.locator("button", has_text="Merge")
    expect(button).to_have_text("Merge 1 image")
    button.click()
    expect(page.locator("[data-toasts]")).to_contain_text("Merged.")
    expect(page.locator("#gone + ul")).to_contain_text("merged into cracked")
    assert made.classes(images[2]) == ["cracked"]
    row = page.locator("tbody tr", has_text="cracked")
    expect(row.locator("td.number").first).to_have_text("3")
    page.locator("button", has_text="Restore").click()
    expect(page.locator("[data-toasts]")).to_contain_text("offered again")
    assert made.classes(images[2]) == ["broken"]


def test_class_forms_refuse_in_words_at_the_field(visitor, site) -> None:
    made = site()
    page = visitor(made).open("classes").page
    page.fill("#name", "dirty")
    page.fill("#hotkey", "s")
    page.locator("button", has_text="Add class").click()
    expect(page.locator(".form-error")).to_contain_text("hotkey 's' cannot be used")
    expect(page.locator("#hotkey")).to_be_focused()
    page.fill("#hotkey", "x")
    page.locator("button", has_text="Add class").click()
    expect(page.locator("tbody tr", has_text="dirty").locator("kbd")).to_have_text("X")
    page.locator("summary", has_text="Add an attribute").click()
    page.fill("#attribute-name", "light")
    page.fill("#attribute-choices", "day\nnight")
    page.locator("button", has_text="Add attribute").click()
    expect(page.locator("#attributes ~ ul")).to_contain_text("choice: day, night")
    assert [one["name"] for one in made.ask("GET", f"{made.root}/attributes")] == ["light"]


def test_overview_figures_equal_what_was_said(visitor, site, cells) -> None:
    made = site()
    images = made.add(cells[:10])
    for number, one in enumerate(images[:8]):
        say(made, one, "sound" if number < 6 else "cracked")
    disagree(made, images[0], "cracked")
    say(made, images[9], kind="skip")
    page = visitor(made).open().page
    states = page.locator("section[aria-labelledby=states] dd")
    expect(states).to_have_text(["7 70 %", "1 10 %", "1 10 %", "1 10 %"])
    rows = page.locator("section[aria-labelledby=balance] tbody tr")
    splits = {"sound": [0, 0, 0], "cracked": [0, 0, 0]}
    for one in images[:8]:
        item = made.item(one)
        splits[item["annotation"]["classes"][0]][["train", "val", "test"].index(item["split"])] += 1
    for name, counts in splits.items():
        cells_shown = rows.filter(has_text=name).locator("td.number").all_inner_texts()
        assert [int(cell) for cell in cells_shown] == [*counts, sum(counts)]
    page.locator("summary", has_text="As a table").click()
    expect(page.locator("section[aria-labelledby=days] tbody td")).to_have_text(["8", "1"])
    api = made.ask("GET", f"{made.root}/overview")
    assert (api["images"], api["labelled"], sum(api["splits"].values())) == (10, 8, 10)


def test_browsing_narrows_down_and_loads_further_pages(visitor, site, cells) -> None:
    made = site()
    images = made.add([*cells, *(photograph(name) for name in ("cat", "coffee", "china"))])
    for one in images[:5]:
        say(made, one, "cracked")
    page = visitor(made).open("browse").page
    expect(page.locator(".tile")).to_have_count(60)
    page.locator("[data-next]").click()
    expect(page.locator(".tile")).to_have_count(63)
    expect(page.locator("[data-next]")).to_have_count(0)
    expect(page.locator(".tile a").nth(60)).to_be_focused()
    page.select_option("#by-class_id", "cracked")
    expect(page.locator(".tile")).to_have_count(5)
    assert page.url.endswith("/browse?class_id=cracked")
    page.select_option("#by-state", "open")
    expect(page.locator(".empty")).to_contain_text("meets all of these conditions")


def test_an_image_tells_its_history_and_takes_back(visitor, site, cells) -> None:
    made = site()
    image = made.add([cells[0]])[0]
    say(made, image, "cracked")
    page = visitor(made).open(f"images/{image}").page
    page.locator("button", has_text="Flag").click()
    expect(page.locator(".notice.warn")).to_contain_text("Flagged by local")
    page.locator("button", has_text="Undo mine").click()
    expect(page.locator(".notice.warn")).to_have_count(0)
    expect(page.locator(".history li")).to_have_count(3)
    page.locator("button", has_text="Take label back").click()
    expect(page.locator(".history li")).to_have_count(4)
    assert made.classes(image) is None
    assert made.kinds(image) == ["label", "flag", "undo", "retract"]


def test_an_import_is_followed_to_its_end_and_a_snapshot_is_cut(visitor, site, cells) -> None:
    made = site()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as writer:
        for number, cell in enumerate(cells[:6]):
            writer.writestr(f"{('sound', 'cracked')[number % 2]}/{number}.png", cell)
        writer.writestr("sound/broken.png", cells[6][:2000])
    page = visitor(made).open("imports").page
    page.set_input_files(
        "#file", {"name": "cells.zip", "mimeType": "application/zip", "buffer": archive.getvalue()}
    )
    page.locator("form button", has_text="Import").click()
    job = page.locator("#jobs article")
    expect(job).to_contain_text("archive of folders: cells.zip", ignore_case=True)
    expect(job.locator(".badge").first).to_have_text("done", timeout=60_000)
    expect(job).to_contain_text("6 accepted")
    with page.expect_download() as receipts:
        job.locator("a", has_text="Receipts").click()
    assert receipts.value.path().read_text().count("accepted") == 6
    put_aside = Visitor(page, made).open("quarantine").page
    expect(put_aside.locator("li.card")).to_contain_text("sound/broken.png")
    put_aside.set_viewport_size({"width": 360, "height": 740})
    text = put_aside.locator("li.card .stack").bounding_box()
    button = put_aside.locator("li.card form.inline button").bounding_box()
    assert text["y"] + text["height"] <= button["y"]  # below it, where there is no room beside it
    put_aside.locator("summary", has_text="Throw away").click()
    put_aside.locator(".menu-panel button").click()
    expect(put_aside.locator(".empty")).to_contain_text("Nothing in quarantine")
    page = Visitor(page, made).open("snapshots").page
    page.locator("button", has_text="Cut").click()
    expect(page.locator("[data-toasts]")).to_contain_text("is cut.")
    page.locator("button", has_text="Cut").click()
    expect(page.locator("[data-toasts]")).to_contain_text("Nothing is new")
    with page.expect_download() as export:
        page.locator("#export ~ ul a", has_text="CSV").click()
    assert export.value.path().read_text().count("\n") >= 7


def chosen(cells: list[bytes]) -> list[FilePayload]:
    """Photographs as a browser has them once they are chosen; two have the same name."""
    return [
        {"name": f"line/{number // 2}.jpg", "mimeType": "image/jpeg", "buffer": cell}
        for number, cell in enumerate(cells)
    ]


def drop(page: Page, files: list[FilePayload]) -> None:
    """Drags these files over the page and lets go of them."""
    plain = [[one["name"], list(one["buffer"])] for one in files]
    held = page.evaluate_handle(
        """(files) => {
            const held = new DataTransfer();
            for (const [name, data] of files)
                held.items.add(new File([new Uint8Array(data)], name));
            return held;
        }""",
        plain,
    )
    page.dispatch_event("h1", "dragover", {"dataTransfer": held})
    expect(page.locator("form.dropping")).to_be_visible()
    page.dispatch_event("h1", "drop", {"dataTransfer": held})
    expect(page.locator("form.dropping")).to_have_count(0)


def test_images_are_chosen_or_dropped_and_get_a_class_or_none(visitor, site, cells) -> None:
    made = site()
    page = visitor(made).open("imports").page
    files = page.get_by_label("Files")
    files.set_input_files(chosen(cells[:4]))
    page.get_by_label("Class of all").fill("cracked")
    assert violations(page) == []
    page.locator("form button", has_text="Import").click()
    job = page.locator("#jobs article").first
    expect(job).to_contain_text("Images: 0.jpg and 3 more")
    expect(job.locator(".badge").first).to_have_text("done", timeout=60_000)
    expect(job).to_contain_text("4 accepted")
    page.get_by_label("COCO").check()
    drop(page, chosen(cells[4:7]))
    expect(page.get_by_label("One or many")).to_be_checked()
    expect(page.locator("[data-toasts]")).to_contain_text("Taken as: Images.")
    page.locator("form button", has_text="Import").click()
    expect(page.locator("#jobs article")).to_have_count(2)
    expect(job).to_contain_text("3 accepted", timeout=60_000)
    overview = made.ask("GET", f"{made.root}/overview")
    assert (overview["images"], overview["labelled"]) == (7, 4)
    page.get_by_label("COCO").check()
    drop(page, chosen(cells[:2]))
    page.get_by_label("CSV").check()
    page.locator("form button", has_text="Import").click()
    expect(page.locator(".form-error")).to_contain_text("Choose one file")
    expect(files).to_be_focused()


def test_a_dataset_is_made_without_scripts(chromium: Chromium, site) -> None:
    address = f"http://{site().server.http_address}/"
    name = f"made-{uuid.uuid4().hex[:8]}"
    with chromium.page(java_script_enabled=False) as page:
        page.goto(address)
        page.fill("#name", name)
        page.check("input[value=detection]")
        page.fill("#share-train", "50")
        page.click("button:has-text('Make dataset')")
        expect(page.locator(".notice.bad")).to_contain_text("sum")
        page.fill("#share-test", "40")
        page.click("button:has-text('Make dataset')")
        expect(page.locator("h1")).to_have_text(name)
        expect(page.locator(".head")).to_contain_text("Boxes")


def test_an_id_of_a_class_is_not_broken_into_letters_on_a_phone(visitor, site) -> None:
    page = visitor(site(("Café & Möbel, 50 %", "sound"))).open("classes").page
    page.set_viewport_size({"width": 360, "height": 740})
    key = page.locator("td.mono").first
    assert len(key.inner_text()) > 15
    assert key.bounding_box()["height"] < 140  # 20 lines of one letter have 400


def test_axe_finds_nothing_on_any_page(chromium: Chromium, site, cells) -> None:
    """Wide and light, narrow and dark; and no page is wider than its screen."""
    made = site(("sound", "cracked", *(f"fault-{number}" for number in range(10))))
    images = made.add(cells[:8])
    for one in images[:4]:
        say(made, one, "sound")
    made.ask("POST", f"{made.root}/snapshots")
    say(made, images[1], "cracked")
    say(made, images[4], "cracked")
    made.ask("POST", f"{made.root}/snapshots")
    disagree(made, images[0], "cracked")
    predict(made, {one: {"sound": 0.9, "cracked": 0.1} for one in images})
    made.ask("PUT", f"{made.root}/attributes", [
        {"name": "light", "kind": "choice", "detail": {"choices": ["even", "fading"]}},
        {"name": "cracks", "kind": "number", "detail": {"minimum": 0, "maximum": 20}},
        {"name": "tint", "kind": "colour", "detail": {}},
    ])  # fmt: skip
    made.ask("PUT", f"{made.root}/preferences", {"instructions": "Scratches do not count."})
    first, second = made.ask("GET", f"{made.root}/snapshots")
    names = (
        *("", "label", "label?state=review", "browse", "browse?state=skipped", "grid", "review"),
        *("classes", "classes?edit=sound", "imports", "snapshots", "quarantine"),
        *(f"snapshots?from={first['id']}&to={second['id']}", f"images/{images[0]}", "../.."),
    )
    found: dict[tuple[str, str], list[str]] = {}
    for scheme, width in (("light", 1440), ("dark", 360)):
        size = {"width": width, "height": 800}
        with chromium.page(viewport=size, color_scheme=scheme) as page:
            here = Visitor(page, made)
            for name in names:
                here.open(name)
                page.wait_for_function("() => !document.querySelector('[aria-busy=true]')")
                if name.startswith("label"):
                    page.wait_for_selector("#layer:not([hidden]) #picture img")
                if wrong := violations(page):
                    found[name, scheme] = wrong
                assert page.evaluate("document.documentElement.scrollWidth") <= width, name
    assert found == {}


def test_nothing_can_be_entered_that_would_go_with_the_page_once_the_upload_is_done(
    visitor, site, cells
) -> None:
    made = site()
    page = visitor(made).open("imports").page
    page.get_by_label("Files").set_input_files(chosen(cells[:1]))
    held: list[Route] = []
    page.route("**/imports", lambda route: held.append(route))
    page.locator("form button", has_text="Import").click()
    expect(page.get_by_label("Class of all")).to_be_disabled()
    drop(page, chosen(cells[1:3]))
    expect(page.locator(".form-error")).to_contain_text("drop these when they are there")
    held.pop().abort()
    expect(page.get_by_label("Class of all")).to_be_enabled()
    drop(page, chosen(cells[1:3]))
    page.unroute_all()
    page.locator("form button", has_text="Import").click()
    expect(page.locator("#jobs")).to_contain_text("2 accepted", timeout=60_000)


def test_a_class_that_is_called_by_one_long_word_widens_no_page(chromium, site, cells) -> None:
    made = site(("x" * 200, "y" * 200))
    image, *more = made.add(cells[:3])
    ids = [one["id"] for one in made.ask("GET", f"{made.root}/classes")]
    predict(made, {one: {ids[0]: 0.9, ids[1]: 0.1} for one in more})
    say(made, image, ids[0])
    names = ("grid", "browse", f"images/{image}", f"classes?edit={ids[0]}", f"label?image={image}")
    with chromium.page(viewport={"width": 360, "height": 740}) as page:
        wide = {}
        for name in names:
            page.goto(f"http://{made.server.http_address}/datasets/{made.dataset}/{name}")
            page.wait_for_load_state("networkidle")
            page.evaluate(
                "document.querySelectorAll('details').forEach((one) => (one.open = true))"
            )
            wide[name] = page.evaluate("document.documentElement.scrollWidth")
        assert wide == dict.fromkeys(names, 360)

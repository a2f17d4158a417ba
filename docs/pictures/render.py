"""The pictures of docs/labeling.md, taken from a running service: `make pictures`.

Starts labeling-ingest with accounts, fills it (`staging`), signs in and photographs every view.
`python -m docs.pictures.render --all FOLDER` takes each view light and dark, wide and narrow, for
looking at while working on the pages. Needs Chromium and the `dev` extra; about a minute. Pictures
have a palette of 256 colours, so that they stay small in the repository.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Page, StorageState, sync_playwright

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parents[1] / "tests"))

from support.browser import ARGUMENTS, program  # noqa: E402

from docs.pictures.staging import PASSWORD, Stage  # noqa: E402 - finds tests/support

WIDE, NARROW = (1280, 832), (360, 740)
MOST_BYTES = 150_000


@dataclass(frozen=True, slots=True)
class View:
    """A page and what is done there before its picture is taken."""

    name: str
    path: str
    does: Callable[[Page], None] | None = None
    whole: bool = False  # also what lies below the fold
    signed_in: bool = True


@dataclass(frozen=True, slots=True)
class Look:
    """How a view is looked at."""

    ending: str
    size: tuple[int, int]
    scheme: str


LIGHT = Look("", WIDE, "light")
DARK = Look("-dark", WIDE, "dark")
PHONE = Look("-phone", NARROW, "light")
LOOKS = (LIGHT, DARK, PHONE, Look("-phone-dark", NARROW, "dark"))


def views(stage: Stage) -> list[View]:
    """Every view."""
    cells = "/datasets/solar-cells"
    disputed = stage.images("solar-cells", state="review", class_id="cracked")[0]["sha256"]
    boxed = next(one for one in stage.images("workshop") if one["source"].endswith("coffee.png"))
    undrawn = next(one for one in stage.images("workshop") if "motorcycle" in one["source"])
    return [
        View("login", "/login", signed_in=False),
        View("start", "/"),
        View("overview", cells, whole=True),
        View("label", f"{cells}/label", _await_image),
        View("boxes", f"/datasets/workshop/label?image={undrawn['sha256']}", _draw),
        View("grid", f"{cells}/grid?predicted=sound", _mark),
        View("review", f"{cells}/review?image={disputed}", _await_sides),
        View("browse", f"{cells}/browse"),
        View("browse-boxes", "/datasets/workshop/browse"),
        View("image", f"{cells}/images/{disputed}"),
        View("image-boxes", f"/datasets/workshop/images/{boxed['sha256']}"),
        View("classes", f"{cells}/classes?edit=cracked", _open_merge),
        View("snapshots", f"{cells}/snapshots"),
        View("changes", f"{cells}/snapshots?from={_first(stage)}&to=latest"),
        View("imports", f"{cells}/imports"),
        View("quarantine", f"{cells}/quarantine"),
        View("accounts", "/accounts"),
        View("account", "/account"),
        View("nothing", "/datasets/nothing"),
    ]


# What docs/labeling.md shows, beside the light and wide picture of every view in this table.
SHOWN = {
    "start": (), "overview": (), "label": (DARK, PHONE), "boxes": (), "grid": (),
    "review": (), "browse": (), "image": (), "classes": (), "snapshots": (), "imports": (),
    "accounts": (),
}  # fmt: skip


def shown_files() -> set[str]:
    """The names of the pictures that the pages of docs show."""
    return {f"{name}{look.ending}.png" for name, looks in SHOWN.items() for look in (LIGHT, *looks)}


def _await_image(page: Page) -> None:
    page.wait_for_selector("#layer:not([hidden]) #picture img")


def _draw(page: Page) -> None:
    """A box around the motorcycle, with the mouse."""
    _await_image(page)
    page.wait_for_timeout(300)  # the image is fitted to its stage
    page.locator(".class-button", has_text="motorcycle").click()
    box = page.locator("#layer").bounding_box()
    if box is None:
        raise RuntimeError("the image is not shown")
    (left, top), (right, bottom) = (
        (box["x"] + x * box["width"], box["y"] + y * box["height"])
        for x, y in ((0.16, 0.14), (0.92, 0.91))
    )
    page.mouse.move(left, top)
    page.mouse.down()
    page.mouse.move(right, bottom, steps=8)
    page.mouse.up()


def _mark(page: Page) -> None:
    page.wait_for_selector("#grid-tiles button")
    for number in (2, 9):
        page.locator("#grid-tiles button").nth(number).click()
    page.locator("#grid-tiles select:visible").first.select_option("cracked")


def _await_sides(page: Page) -> None:
    page.wait_for_selector("#review-sides button")


def _open_merge(page: Page) -> None:
    page.locator("summary", has_text="Merge").click()


def _first(stage: Stage) -> str:
    found = stage.ask("ada", "GET", "/v1/datasets/solar-cells/snapshots")
    return min(found, key=lambda one: one["label_sequence"])["id"]


def sign_in(browser: Browser, stage: Stage, who: str) -> StorageState:
    """The cookies of somebody who has signed in."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{stage.address}/login")
    page.fill("#name", who)
    page.fill("#password", PASSWORD)
    page.click("form.sign-in button")
    page.wait_for_url(f"{stage.address}/")
    cookies = context.storage_state()
    context.close()
    return cookies


def photograph(
    browser: Browser, stage: Stage, view: View, look: Look, cookies: StorageState
) -> bytes:
    """The view as PNG."""
    width, height = look.size
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=look.scheme,  # type: ignore[arg-type]  # playwright's own words
        reduced_motion="reduce",
        locale="en-GB",
        storage_state=cookies if view.signed_in else None,
    )
    page = context.new_page()
    page.goto(f"{stage.address}{view.path}")
    if view.does is not None:
        view.does(page)
    page.wait_for_load_state("networkidle")
    picture = page.screenshot(full_page=view.whole, animations="disabled")
    context.close()
    return _small(picture)


def _small(picture: bytes) -> bytes:
    """The picture with as many colours of a palette as keep it below MOST_BYTES."""
    image = Image.open(BytesIO(picture)).convert("RGB")
    colours = 256
    while True:
        small = BytesIO()
        palette = _palette(image, colours)
        reduced = image.quantize(palette=palette, dither=Image.Dither.NONE)
        reduced.save(small, "PNG", optimize=True)
        if small.tell() <= MOST_BYTES or colours <= 32:
            return small.getvalue()
        colours = colours * 3 // 4


def _palette(image: Image.Image, colours: int) -> Image.Image:
    """A third of the colours for what is colourful: a page of gray photographs has red frames."""
    pixels = np.asarray(image).reshape(-1, 3)  # (n, 3)
    colourful = np.ptp(pixels, axis=1) > 40
    parts = [(pixels[~colourful], colours - colours // 3), (pixels[colourful], colours // 3)]
    found: list[int] = []
    for part, share in parts:
        if len(part):
            strip = Image.fromarray(part[None])  # (1, n, 3)
            found += (strip.quantize(share, method=Image.Quantize.MEDIANCUT).getpalette() or [])[
                : 3 * share
            ]
    palette = Image.new("P", (1, 1))
    palette.putpalette(found + found[:3] * (256 - len(found) // 3))
    return palette


@contextmanager
def _chromium() -> Iterator[Browser]:
    path = program()
    if path is None:
        sys.exit("needs Chromium (Debian: chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


def main() -> None:
    """Takes the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", type=Path, metavar="FOLDER", help="every view in every look")
    parser.add_argument("--only", default="", help="the views whose names begin so")
    options = parser.parse_args()
    folder = options.all or FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as files, _chromium() as browser:
        stage = Stage(Path(files))
        try:
            stage.set()
            cookies = sign_in(browser, stage, "ada")
            found = views(stage)
            if unknown := SHOWN.keys() - {view.name for view in found}:
                sys.exit(f"no view is named {', '.join(sorted(unknown))}")
            for view in found:
                looks = LOOKS if options.all else (LIGHT, *SHOWN.get(view.name, ()))
                wanted = options.all or view.name in SHOWN
                if not (wanted and view.name.startswith(options.only)):
                    continue
                for look in looks:
                    picture = photograph(browser, stage, view, look, cookies)
                    (folder / f"{view.name}{look.ending}.png").write_bytes(picture)
        finally:
            stage.close()


if __name__ == "__main__":
    main()

"""Boxes as they are drawn, against the pixels that are stored."""

import io
import uuid
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Page
from support.browser import Chromium
from support.labelling_page import Labeller, Site
from support.photographs import photograph
from support.pictures import encoded

from visionloop.images import Limits, decode

pytestmark = pytest.mark.browser
MakeSite = Callable[..., Site]
# x, y, width, height in the upright image; even, because previews keep colour in pairs of pixels
MARK = (232, 96, 40, 26)
MAGENTA = (255, 0, 255)


def marked_photograph(orientation: int) -> bytes:
    """A real photograph with a rectangle at MARK, stored turned as a camera does."""
    upright = Image.open(io.BytesIO(photograph("china"))).convert("RGB")
    x, y, width, height = MARK
    upright.paste(MAGENTA, (x, y, x + width, y + height))
    if orientation == 1:
        return encoded(upright, "PNG")
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees to the right
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    return encoded(stored, "PNG", exif=exif)


def on_screen(page: Page) -> tuple[float, float, float, float]:
    """Where the rectangle is on the screen: left, top, right, bottom, by its colour."""
    frame = page.locator("#stage").bounding_box()
    assert frame is not None
    picture = Image.open(io.BytesIO(page.screenshot(clip=frame))).convert("RGB")
    rows, columns = np.nonzero(magenta(np.asarray(picture)))
    left, top = frame["x"] + float(columns.min()), frame["y"] + float(rows.min())
    return left, top, left + float(np.ptp(columns)) + 1, top + float(np.ptp(rows)) + 1


def magenta(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(height, width, 3) → where it is about that colour."""
    return np.abs(pixels.astype(int) - MAGENTA).max(axis=2) < 90


def drag(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
    page.mouse.move(*end)
    page.mouse.up()


def boxes_of(made: Site, sha256: str) -> list[tuple[str, float, float, float, float]]:
    return [
        (box["class_id"], box["x"], box["y"], box["width"], box["height"])
        for box in made.item(sha256)["annotation"]["boxes"]
    ]


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_box_drawn_at_zoom_is_stored_in_the_upright_images_pixels(
    chromium: Chromium, site: MakeSite, orientation: int
) -> None:
    made = site(("roof", "sky"), "detection")
    data = marked_photograph(orientation)
    (sha256,) = made.add([data])
    with chromium.page() as page:
        labeller = Labeller(page, made).open()
        left, top, right, bottom = on_screen(page)
        page.mouse.move((left + right) / 2, (top + bottom) / 2)
        for _ in range(4):
            page.mouse.wheel(0, -200)
        page.wait_for_selector(".stage.zoomed .layer.sharp")
        left, top, right, bottom = on_screen(page)
        assert right - left > 4 * MARK[2]  # well above one pixel of the screen for one of the image
        drag(page, (left, top), (right, bottom))
        labeller.decide("Enter")
        labeller.wait_saved()
    assert boxes_of(made, sha256) == [("roof", *MARK)]
    pixels = decode(data, Limits())  # as training and serving decode it
    x, y, width, height = MARK
    inside = magenta(pixels)
    assert inside[y : y + height, x : x + width].mean() > 0.99
    assert inside.sum() < 1.01 * width * height


@pytest.mark.parametrize("way", ["space", "middle button"])
def test_a_zoomed_image_is_moved_and_nothing_is_drawn(
    chromium: Chromium, site: MakeSite, way: str
) -> None:
    made = site(("roof", "sky"), "detection")
    (sha256,) = made.add([marked_photograph(1)])
    with chromium.page() as page:
        labeller = Labeller(page, made).open()
        left, top, right, bottom = on_screen(page)
        page.mouse.move((left + right) / 2, (top + bottom) / 2)
        for _ in range(3):
            page.mouse.wheel(0, -200)
        page.wait_for_selector(".stage.zoomed")
        before = on_screen(page)
        start = (before[0] + 20, before[1] + 20)
        if way == "space":
            page.keyboard.down("Space")
        button = "left" if way == "space" else "middle"
        page.mouse.move(*start)
        page.mouse.down(button=button)
        page.mouse.move(start[0] + 30, start[1] + 10)
        page.mouse.move(start[0] + 60, start[1] + 35)
        page.mouse.up(button=button)
        if way == "space":
            page.keyboard.up("Space")
        after = on_screen(page)
        moved = [now - then for now, then in zip(after, before, strict=True)]
        assert moved == pytest.approx([60, 35, 60, 35], abs=1.5)
        labeller.decide("Enter")  # nothing was drawn: nothing is there
        labeller.wait_saved()
    assert boxes_of(made, sha256) == []


def test_boxes_are_edited_by_keys_and_handles(chromium: Chromium, site: MakeSite) -> None:
    made = site(("roof", "sky"), "detection")
    (sha256,) = made.add([photograph("china")])
    with chromium.page() as page:
        labeller = Labeller(page, made).open()
        layer = page.locator("#layer").bounding_box()
        assert layer is not None
        scale = layer["width"] / 640

        def at(x: float, y: float) -> tuple[float, float]:
            return layer["x"] + x * scale, layer["y"] + y * scale

        drag(page, at(100, 80), at(200, 160))
        labeller.press("2", "ArrowRight", "Shift+ArrowDown", "ArrowUp")  # sky 101, 89
        drag(page, at(201, 169), at(231, 189))  # its corner
        labeller.press("d")
        labeller.press(*["Shift+ArrowRight"] * 3, "1")  # a copy, further right, roof
        drag(page, at(400, 300), at(401, 301))  # a slip: no box
        drag(page, at(600, 400), at(700, 500))  # over the edge: cut off there
        labeller.press("Tab", "Delete")  # from the last to the first: sky goes
        assert page.locator(".box-row").count() == 2
        labeller.press("z")
        assert page.locator(".box-row").count() == 3
        labeller.press("h")
        assert page.locator("[data-box]").count() == 0
        labeller.press("h")
        assert labeller.text("#save-text") == "Save 3 boxes"
        labeller.decide("Enter")
        labeller.wait_saved()
    first, copy, last = boxes_of(made, sha256)
    assert first == ("sky", 101, 89, 130, 100)
    assert copy[0] == "roof"
    assert copy[3:] == (130, 100)
    assert copy[1] - first[1] > 30
    assert last == ("roof", 600, 400, 40, 27)


def test_nothing_there_is_said_and_not_left_open(chromium: Chromium, site: MakeSite) -> None:
    made = site(("roof",), "detection")
    (sha256,) = made.add([photograph("flower")])
    with chromium.page() as page:
        labeller = Labeller(page, made).open()
        assert labeller.text("#save-text") == "Nothing there"
        labeller.decide("Enter")
        labeller.wait_saved()
    assert made.item(sha256)["annotation"] == {"boxes": []}
    assert made.item(sha256)["state"] == "labelled"


def test_two_fingers_zoom_and_one_draws(chromium: Chromium, site: MakeSite) -> None:
    made = site(("roof",), "detection")
    (sha256,) = made.add([photograph("china")])
    phone = {"viewport": {"width": 390, "height": 800}, "has_touch": True, "is_mobile": True}
    with chromium.page(**phone) as page:
        labeller = Labeller(page, made).open()
        before = page.locator("#layer").bounding_box()
        assert before is not None
        middle = (before["x"] + before["width"] / 2, before["y"] + before["height"] / 2)
        touch(page, [[(-20, 0), (20, 0)], [(-30, 0), (30, 0)], [(-60, 0), (60, 0)]], middle)
        after = page.locator("#layer").bounding_box()
        assert after is not None
        assert after["width"] == pytest.approx(3 * before["width"], rel=0.02)
        touch(page, [[(-40, -40)], [(0, 0)], [(40, 40)]], middle)
        labeller.decide("Enter")
        labeller.wait_saved()
    ((_, x, y, width, height),) = boxes_of(made, sha256)
    scale = after["width"] / 640
    assert (width, height) == (pytest.approx(80 / scale, abs=1), pytest.approx(80 / scale, abs=1))
    assert x + width / 2 == pytest.approx((middle[0] - after["x"]) / scale, abs=1)
    assert y + height / 2 == pytest.approx((middle[1] - after["y"]) / scale, abs=1)


def touch(page: Page, steps: list[list[tuple[float, float]]], middle: tuple[float, float]) -> None:
    """Fingers down at the first step, moved along the others, lifted."""
    session = page.context.new_cdp_session(page)
    for number, places in enumerate(steps):
        points = [
            {"x": middle[0] + x, "y": middle[1] + y, "id": finger}
            for finger, (x, y) in enumerate(places)
        ]
        kind = "touchMove" if number else "touchStart"
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    session.detach()


def test_masks_and_polygons_are_shown_where_they_are_and_passed_on(
    chromium: Chromium, site: MakeSite
) -> None:
    made = site(("roof", "sky"), "detection")
    (sha256,) = made.add([photograph("china")])
    mask = np.zeros((427, 640), np.bool_)
    mask[100:180, 50:90] = mask[300:301, 639:] = True
    shapes = [
        {"kind": "mask", "class_id": "sky", "counts": run_lengths(mask), "size": [427, 640]},
        {"kind": "polygon", "class_id": "roof", "points": [[10, 10], [60.5, 12], [40, 80]]},
    ]
    event = {"event_id": str(uuid.uuid4()), "sha256": sha256, "annotation": {"shapes": shapes}}
    made.ask("POST", f"{made.root}/events", event)
    with chromium.page() as page:
        labeller = Labeller(page, made).open(image=sha256)
        shown = page.evaluate(
            "() => { const canvas = document.querySelector('#masks'); const { width, height } ="
            " canvas; return [...canvas.getContext('2d').getImageData(0, 0, width, height).data]"
            ".filter((_, place) => place % 4 === 3).map(Boolean) }"
        )
        assert np.array_equal(np.reshape(shown, mask.shape), mask)
        assert page.get_attribute("#shapes polygon", "points") == "10,10 60.5,12 40,80"
        labeller.decide("Enter")
        labeller.wait_saved()
    assert made.item(sha256)["annotation"] == {"boxes": [], "shapes": shapes}


def run_lengths(mask: NDArray[np.bool_]) -> list[int]:
    """As COCO counts: down the columns, zeros first."""
    flat = mask.T.reshape(-1)
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return [0, *counts] if flat[0] else counts

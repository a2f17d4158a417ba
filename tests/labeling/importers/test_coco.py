"""What COCO files become: boxes, polygons, masks and classes in oriented pixels, or a refusal."""

import json
from typing import Any

import numpy as np
import pytest
from support.imports import drafts, exif_photo, picture, refusal, taken, zipped

from visionloop.images import decode
from visionloop_labeling.importers.entries import Entry
from visionloop_labeling.importers.frames import decoded, encoded
from visionloop_labeling.importers.masks import unpacked


def coco(*annotations: dict[str, Any], width: int = 32, height: int = 24, **image: Any) -> bytes:
    return json.dumps(
        {
            "images": [{"id": 7, "file_name": "a.png", "width": width, "height": height, **image}],
            "categories": [{"id": 3, "name": "dog"}, {"id": 5, "name": "cat"}],
            "annotations": [{"image_id": 7, "category_id": 3, **one} for one in annotations],
        }
    ).encode()


def coco_archive(table: bytes, image: bytes | None = None) -> bytes:
    return zipped({"images/a.png": image or picture(1), "annotations/instances.json": table})


def test_boxes_polygons_masks_and_classes_are_all_kept() -> None:
    table = coco(
        {"bbox": [1, 2, 10.5, 4], "attributes": {"occluded": True, "score": 2}},
        {"category_id": 5, "bbox": [0, 0, 4, 4], "segmentation": [[0, 0, 4, 0, 4, 4]]},
        {"segmentation": {"size": [24, 32], "counts": [10, 5, 753]}},
        {"category_id": 5},
    )
    assert drafts(taken("coco", coco_archive(table))) == [
        {
            "classes": ["cat"],
            "boxes": [
                {"class_name": "dog", "x": 1.0, "y": 2.0, "width": 10.5, "height": 4.0,
                 "attributes": {"occluded": "true", "score": 2.0}},
                {"class_name": "cat", "x": 0.0, "y": 0.0, "width": 4.0, "height": 4.0,
                 "attributes": {}},
            ],
            "shapes": [
                {"class_name": "cat", "kind": "polygon",
                 "points": [[0.0, 0.0], [4.0, 0.0], [4.0, 4.0]]},
                {"class_name": "dog", "kind": "mask", "counts": [10, 5, 753], "size": [24, 32]},
            ],
        }
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        ({"bbox": [30, 0, 10, 4]}, "outside_image", "annotations.0.bbox reaches (40, 4)"),
        ({"bbox": [1, 1, 0, 4]}, "bad_box", "0 x 4 pixels"),
        ({"bbox": [1, 1, "x", 4]}, "invalid_row", "annotations.0.bbox"),
        ({"bbox": [1, 1, 4]}, "invalid_row", "a list of 4 numbers"),
        ({"bbox": [float("nan"), 1, 4, 4]}, "invalid_row", "a number"),
        ({"attributes": {str(n): 1 for n in range(40)}}, "invalid_row", "at most 32"),
        ({"category_id": 9, "bbox": [1, 1, 4, 4]}, "invalid_row", "the id of a category"),
        ({"segmentation": [[1, 1, 2, 2]]}, "bad_polygon", "2 points"),
        ({"segmentation": [[1, 1, 2, 2, 3]]}, "invalid_row", "even count"),
        ({"segmentation": {"size": [24, 32], "counts": [5]}}, "bad_mask", "768"),
        ({"segmentation": {"size": [2, 2], "counts": [4]}}, "size_mismatch", "2 x 2"),
        ({"segmentation": {"size": [24, 32], "counts": "~~"}}, "bad_mask", "packed"),
    ],
)
def test_a_wrong_annotation_is_refused_with_its_values(
    change: dict[str, Any], reason: str, words: str
) -> None:
    table = coco({"bbox": [1, 1, 4, 4], **change} if "segmentation" not in change else change)
    found = refusal(taken("coco", coco_archive(table)))
    assert (found.reason, words in str(found)) == (reason, True), str(found)


def test_a_box_that_hangs_over_by_rounding_is_cut_off() -> None:
    [draft] = drafts(taken("coco", coco_archive(coco({"bbox": [-0.6, 0, 33.2, 24.9]}))))
    [box] = draft["boxes"]
    assert (box["x"], box["y"], box["width"], box["height"]) == (0.0, 0.0, 32.0, 24.0)


@pytest.mark.parametrize("orientation", [2, 3, 4, 5, 6, 7, 8])
def test_coordinates_of_a_tool_that_ignored_exif_are_turned_with_the_image(
    orientation: int,
) -> None:
    """A white rectangle on black, its box as a tool saw it that did not turn the image."""
    x, y, width, height = 4, 9, 10, 6
    stored = np.zeros((24, 32, 3), np.uint8)
    stored[y : y + height, x : x + width] = 255
    image = exif_photo(stored, orientation)
    mask = np.zeros((24, 32), np.uint8)
    mask[y : y + height, x : x + width] = 1
    corners = [x, y, x + width, y, x + width, y + height, x, y + height]
    table = coco(
        {"bbox": [x, y, width, height], "segmentation": [corners]},
        {"segmentation": {"size": [24, 32], "counts": encoded(mask)}},
    )
    found = taken("coco", coco_archive(table, image))
    if orientation < 5:
        # Both frames have one size: which one is meant cannot be seen, and oriented is the rule.
        assert isinstance(found[0], Entry)
        assert found[0].remark == ""
        return
    [draft] = drafts(found)
    assert isinstance(found[0], Entry)
    assert f"EXIF orientation {orientation}" in found[0].remark
    bright = decode(image)[:, :, 0] > 127
    rows, columns = np.nonzero(bright)
    box = draft["boxes"][0]
    assert (box["x"], box["y"]) == (columns.min(), rows.min())
    assert (box["width"], box["height"]) == (np.ptp(columns) + 1, np.ptp(rows) + 1)
    polygon, turned = draft["shapes"]
    assert {tuple(point) for point in polygon["points"]} == {
        (px, py)
        for px in (box["x"], box["x"] + box["width"])
        for py in (box["y"], box["y"] + box["height"])
    }
    assert turned["size"] == list(bright.shape)
    assert (decoded(turned["counts"], tuple(turned["size"])) == bright).all()


def test_sizes_of_another_image_are_refused() -> None:
    found = refusal(taken("coco", coco_archive(coco({"bbox": [1, 1, 4, 4]}, width=640))))
    assert found.reason == "size_mismatch"
    assert "640 x 24" in str(found)


def test_runs_that_are_packed_as_text_are_read() -> None:
    """A 10 x 10 mask, rows 2 to 4 of the columns 3 to 5."""
    mask = np.zeros((10, 10), np.uint8)
    mask[2:5, 3:6] = 1
    runs = encoded(mask)
    assert runs == [32, 3, 7, 3, 7, 3, 45]
    assert unpacked(_packed(runs), "x") == runs


def _packed(runs: list[int]) -> str:
    """As COCO's own library packs runs (maskApi.c, rleToString)."""
    text = ""
    for place, run in enumerate(runs):
        value, more = run - (runs[place - 2] if place > 2 else 0), True
        while more:
            code, value = value & 0x1F, value >> 5
            more = value != -1 if code & 0x10 else value != 0
            text += chr((code | 0x20 if more else code) + 48)
    return text


def test_without_an_archive_a_digest_names_an_image_that_is_there() -> None:
    digest = "ab" * 32
    table = coco({"bbox": [1, 1, 4, 4]}, file_name=f"images/{digest}.jpg")
    [entry] = taken("coco", table, known=(32, 24))
    assert isinstance(entry, Entry)
    assert (entry.sha256, entry.image) == (digest, b"")
    assert "came without its image" in str(refusal(taken("coco", coco())))


def test_images_are_found_by_the_end_of_their_path() -> None:
    table = coco({"bbox": [1, 1, 4, 4]}, file_name="C:/data/train2017/a.png")
    files = {"x/train2017/a.png": picture(1), "x/val2017/a.png": picture(2), "c.json": table}
    [entry] = taken("coco", zipped(files))
    assert isinstance(entry, Entry)
    assert entry.image == picture(1)
    both = {**files, "c.json": coco(file_name="a.png")}
    assert refusal(taken("coco", zipped(both))).reason == "ambiguous_name"

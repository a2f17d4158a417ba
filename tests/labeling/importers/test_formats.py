"""What files of each format become: classes, boxes, shapes in oriented pixels, or words why not."""

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from support.imports import exif_photo, picture, taken, tarred, zipped

from visionloop.errors import InvalidInputError
from visionloop.images import decode
from visionloop_labeling.annotation import Draft
from visionloop_labeling.importers.entries import Entry, SourceError
from visionloop_labeling.importers.frames import Frame, decoded, encoded
from visionloop_labeling.importers.masks import unpacked


def drafts(found: list[Entry | InvalidInputError]) -> list[dict[str, Any] | None]:
    """The annotations; a refused row is a failure that says why."""
    stored = []
    for one in found:
        assert isinstance(one, Entry), str(one)
        stored.append(None if one.annotation is None else one.annotation.stored())
    return stored


def refusal(found: list[Entry | InvalidInputError], row: int = 0) -> InvalidInputError:
    one = found[row]
    assert isinstance(one, InvalidInputError)
    return one


# --- COCO


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


def test_coco_boxes_polygons_masks_and_classes() -> None:
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
def test_a_coco_row_that_cannot_be_is_refused_with_its_values(
    change: dict[str, Any], reason: str, words: str
) -> None:
    table = coco({"bbox": [1, 1, 4, 4], **change} if "segmentation" not in change else change)
    found = refusal(taken("coco", coco_archive(table)))
    assert (found.reason, words in str(found)) == (reason, True), str(found)


def test_a_coco_box_that_hangs_over_by_rounding_is_cut_off() -> None:
    [draft] = drafts(taken("coco", coco_archive(coco({"bbox": [-0.6, 0, 33.2, 24.9]}))))
    [box] = draft["boxes"]
    assert (box["x"], box["y"], box["width"], box["height"]) == (0.0, 0.0, 32.0, 24.0)


@pytest.mark.parametrize("orientation", [2, 3, 4, 5, 6, 7, 8])
def test_coco_of_a_tool_that_ignored_exif_is_turned_with_the_image(orientation: int) -> None:
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


def test_coco_of_another_image_is_refused() -> None:
    found = refusal(taken("coco", coco_archive(coco({"bbox": [1, 1, 4, 4]}, width=640))))
    assert found.reason == "size_mismatch"
    assert "640 x 24" in str(found)


def test_coco_packed_runs() -> None:
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


def test_coco_without_images_names_urls_or_images_that_are_there() -> None:
    digest = "ab" * 32
    table = coco({"bbox": [1, 1, 4, 4]}, file_name=f"images/{digest}.jpg")
    [entry] = taken("coco", table, known=(32, 24))
    assert isinstance(entry, Entry)
    assert (entry.sha256, entry.image) == (digest, b"")
    assert "came without its image" in str(refusal(taken("coco", coco())))


def test_coco_images_are_found_by_the_end_of_their_path() -> None:
    table = coco({"bbox": [1, 1, 4, 4]}, file_name="C:/data/train2017/a.png")
    files = {"x/train2017/a.png": picture(1), "x/val2017/a.png": picture(2), "c.json": table}
    [entry] = taken("coco", zipped(files))
    assert isinstance(entry, Entry)
    assert entry.image == picture(1)
    both = {**files, "c.json": coco(file_name="a.png")}
    assert refusal(taken("coco", zipped(both))).reason == "ambiguous_name"


# --- YOLO


def yolo(text: str, **files: bytes) -> bytes:
    return tarred(
        {
            "data.yaml": b"train: images/train\nnames: [dog, cat]\n",
            "images/train/a.png": picture(1),
            "labels/train/a.txt": text.encode(),
            **files,
        }
    )


def test_yolo_boxes_and_polygons() -> None:
    [draft] = drafts(taken("yolo", yolo("0 0.5 0.5 0.25 0.5\n\n1 0 0 1 0 1 1\n")))
    assert draft == {
        "boxes": [
            {"class_name": "dog", "x": 12.0, "y": 6.0, "width": 8.0, "height": 12.0,
             "attributes": {}}
        ],
        "shapes": [
            {"class_name": "cat", "kind": "polygon",
             "points": [[0.0, 0.0], [32.0, 0.0], [32.0, 24.0]]}
        ],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("2 0.5 0.5 0.1 0.1", 'labels/train/a.txt:2: class "2" has no name; the archive names'),
        ("dog 0.5 0.5 0.1 0.1", 'class "dog" has no name'),
        ("0 0.5 0.5 0.1", "labels/train/a.txt:2 has 3 numbers"),
        ("0 0.5 0.5 0.1 0.1 0.9", "labels/train/a.txt:2 has 5 numbers"),
        ("0 0.5 0.5 x 0.1", "labels/train/a.txt:2 is"),
        ("0 0.5 0.5 inf 0.1", "must be a number"),
        ("0 12 6 8 12", "labels/train/a.txt:2 reaches"),
    ],
)
def test_a_yolo_line_is_refused_with_its_place(line: str, words: str) -> None:
    found = refusal(taken("yolo", yolo(f"0 0.5 0.5 0.1 0.1\n{line}")))
    assert words in str(found)


@pytest.mark.parametrize("name", [".", "./.", "..", "/"])
def test_a_yolo_entry_without_a_usable_name_is_refused_alone(name: str) -> None:
    found = taken("yolo", yolo("0 0.5 0.5 0.1 0.1", **{name: b"x"}))
    assert isinstance(found[0], Entry)
    assert refusal(found, row=1).reason == "unsafe_name"


def test_yolo_images_without_a_file_wait_and_with_an_empty_one_show_nothing() -> None:
    data = yolo("", **{"images/train/b.png": picture(2)})
    assert drafts(taken("yolo", data)) == [{"boxes": []}, None]
    assert drafts(taken("yolo", data, unannotated="empty")) == [{"boxes": []}, {"boxes": []}]


@pytest.mark.parametrize(
    "naming",
    [
        {"classes.txt": b"dog\ncat\n"},
        {"obj.names": b"dog\r\ncat\r\n"},
        {"x/data.yml": b"names:\n  0: dog\n  1: cat\n"},
    ],
)
def test_yolo_classes_are_named_in_several_ways(naming: dict[str, bytes]) -> None:
    files = {"a.png": picture(1), "a.txt": b"1 0.5 0.5 1 1", **naming}
    [draft] = drafts(taken("yolo", zipped(files)))
    assert draft["boxes"][0]["class_name"] == "cat"


@pytest.mark.parametrize(
    ("naming", "words"),
    [
        ({}, "does not name its classes"),
        ({"data.yaml": b"names: {a: b}"}, "not the number of a class"),
        ({"data.yaml": b"names: ["}, "is not YAML"),
        ({"data.yaml": b"a: &a [1]\nb:\n  <<: *a\n"}, "merges"),
        ({"classes.txt": b"\xff\xfe"}, "not UTF-8"),
    ],
)
def test_yolo_without_classes_is_refused(naming: dict[str, bytes], words: str) -> None:
    with pytest.raises(SourceError, match=words):
        taken("yolo", zipped({"a.png": picture(1), "a.txt": b"0 0 0 1 1", **naming}))


# --- Label Studio


def task(*results: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "data": {"image": "/data/upload/3/0a1b2c3d-a.png"},
        "annotations": [{"result": list(results)}],
        **more,
    }


def label_studio(*tasks: dict[str, Any]) -> bytes:
    return zipped({"a.png": picture(1, 200, 100), "export.json": json.dumps(tasks).encode()})


RECTANGLE = {
    "type": "rectanglelabels", "from_name": "label", "original_width": 200,
    "value": {"x": 10, "y": 20, "width": 50, "height": 30, "rotation": 0,
              "rectanglelabels": ["dog"]},
}  # fmt: skip


def turned(degrees: float, **value: float) -> dict[str, Any]:
    return {**RECTANGLE, "value": {**RECTANGLE["value"], "rotation": degrees, **value}}


def test_label_studio_results() -> None:
    said = task(
        RECTANGLE,
        {"type": "choices", "value": {"choices": ["indoor"]}},
        {"type": "polygonlabels",
         "value": {"points": [[0, 0], [100, 0], [50, 100]], "polygonlabels": ["cat"]}},
        {"type": "textarea", "value": {"text": ["looks odd"]}},
        {"type": "number", "from_name": "age", "value": {"number": 3}},
    )  # fmt: skip
    assert drafts(taken("label-studio", label_studio(said))) == [
        {
            "classes": ["indoor"],
            "boxes": [
                {"class_name": "dog", "x": 20.0, "y": 20.0, "width": 100.0, "height": 30.0,
                 "attributes": {}}
            ],
            "shapes": [
                {"class_name": "cat", "kind": "polygon",
                 "points": [[0.0, 0.0], [200.0, 0.0], [100.0, 100.0]]}
            ],
            "attributes": {"age": 3.0},
            "note": "looks odd",
        }
    ]  # fmt: skip


def test_a_rotated_rectangle_becomes_its_corners() -> None:
    """A quarter turn about the upper left corner, in pixels and not in percent."""
    [entry] = taken("label-studio", label_studio(task(turned(90, x=50, width=20, height=40))))
    assert isinstance(entry, Entry)
    assert isinstance(entry.annotation, Draft)
    assert "rotated rectangle" in entry.remark
    [shape] = entry.annotation.shapes
    assert [tuple(round(v, 6) for v in point) for point in shape.points or ()] == [
        (100.0, 20.0), (100.0, 60.0), (60.0, 60.0), (60.0, 20.0),
    ]  # fmt: skip


def test_label_studio_takes_the_latest_annotation_that_was_not_skipped() -> None:
    def annotation(name: str, at: str, **more: Any) -> dict[str, Any]:
        result = {"type": "choices", "value": {"choices": [name]}}
        return {"result": [result], "updated_at": at, **more}

    several = task(
        annotations=[
            annotation("old", "2026-01-01T00:00:00Z"),
            annotation("new", "2026-02-01T00:00:00Z"),
            annotation("skipped", "2026-03-01T00:00:00Z", was_cancelled=True),
        ]
    )
    skipped = task(annotations=[annotation("x", "", was_cancelled=True)])
    found = taken("label-studio", label_studio(several, skipped))
    assert drafts(found) == [{"classes": ["new"]}, None]
    assert isinstance(found[0], Entry)
    assert "latest of 2" in found[0].remark


def brush(mask: np.ndarray, *, literal: bool = False, **change: Any) -> dict[str, Any]:
    """As Label Studio packs a drawing: painted pixels are 255 in all four samples."""
    samples = np.repeat(mask.reshape(-1) * 255, 4)
    bits = f"{len(samples):032b}" + f"{7:05b}" + "".join(f"{n:04b}" for n in (2, 3, 7, 15))
    if literal:
        for start in range(0, len(samples), 256):
            some = samples[start : start + 256]
            bits += "0" + "10" + f"{len(some) - 1:08b}" + "".join(f"{n:08b}" for n in some)
    else:
        edges = [0, *(np.flatnonzero(np.diff(samples.astype(int))) + 1), len(samples)]
        for start, end in pairwise(edges):
            bits += "1" + "11" + f"{end - start - 1:016b}" + f"{samples[start]:08b}"
    bits += "0" * (-len(bits) % 8)
    packed = [int(bits[n : n + 8], 2) for n in range(0, len(bits), 8)]
    height, width = mask.shape
    value = {"format": "rle", "brushlabels": ["dog"], "rle": packed}
    result = {"type": "brushlabels", "original_width": width, "original_height": height}
    return {**result, "value": {**value, **change}}


@pytest.mark.parametrize("literal", [False, True])
def test_a_brush_becomes_a_mask(literal: bool) -> None:
    mask = np.zeros((100, 200), np.uint8)
    mask[10:40, 50:70] = 1
    mask[99, 199] = 1
    found = taken("label-studio", label_studio(task(brush(mask, literal=literal))))
    [draft] = drafts(found)
    [shape] = draft["shapes"]
    assert shape["size"] == [100, 200]
    assert (decoded(shape["counts"], (100, 200)) == mask).all()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (brush(np.ones((50, 50), np.uint8)), "a brush of 50 x 50"),
        (brush(np.ones((100, 200), np.uint8), format="png"), "in the format"),
        (brush(np.ones((100, 200), np.uint8), rle=[0, 1, 56, 128, 59]), "ends too early"),
        (brush(np.ones((100, 200), np.uint8), rle=[0, 0, 0, 9, 59]), "has 9 samples"),
        (brush(np.ones((100, 200), np.uint8), rle=[300]), "must be bytes"),
        (brush(np.ones((100, 200), np.uint8), rle="x"), "must be packed bytes"),
    ],
)
def test_a_brush_that_cannot_be_is_refused(said: dict[str, Any], words: str) -> None:
    assert words in str(refusal(taken("label-studio", label_studio(task(said)))))


def test_label_studio_says_what_it_does_not_take() -> None:
    points = {"type": "KeyPointLabels", "value": {"x": 1, "y": 1}}
    found = refusal(taken("label-studio", label_studio(task(RECTANGLE, points))))
    assert '"KeyPointLabels", which is not taken' in str(found)
    data = label_studio(task(RECTANGLE, points))
    [entry] = taken("label-studio", data, pass_over=["keypointlabels"])
    assert isinstance(entry, Entry)
    assert "passed over" in entry.remark
    with pytest.raises(SourceError, match="not as JSON-MIN"):
        taken("label-studio", zipped({"a.json": b'[{"image": "a.png", "choice": "x"}]'}))
    outside = taken("label-studio", label_studio(task(turned(0, x=80))))
    assert refusal(outside).reason == "outside_image"


# --- CSV


def table(text: str, **said: Any) -> list[Entry | InvalidInputError]:
    files = {"set/t.csv": text.encode(), "set/1.png": picture(1), "set/b/2.png": picture(2)}
    return taken("csv", zipped(files), **said)


def test_csv_rows_with_images_beside_it() -> None:
    found = table(
        "path,label,site,line\n1.png,cat,x,3\nb/2.png,,y,\n",
        group_column="site",
        attribute_columns=("line",),
    )
    first, second = found
    assert isinstance(first, Entry)
    assert isinstance(second, Entry)
    assert (first.label, first.group, first.attributes) == ("cat", "x", {"line": "3"})
    assert (second.label, second.group, second.attributes) == (None, "y", {})
    assert (first.image, second.image) == (picture(1), picture(2))


def test_csv_cells_with_several_classes_and_cells_made_text() -> None:
    [entry] = table("path,label\n1.png,'=b; a;'+c\n".replace("'+c", "+c"), label_separator=";")
    assert drafts([entry]) == [{"classes": ["=b", "a", "+c"]}]


def test_an_empty_csv_cell_leaves_the_image_open_or_says_none_of_the_classes() -> None:
    rows = "path,label\n1.png,\nb/2.png,a\n"
    assert drafts(table(rows, label_separator=";")) == [None, {"classes": ["a"]}]
    found = table(rows, label_separator=";", unannotated="empty")
    assert drafts(found) == [{"classes": []}, {"classes": ["a"]}]


def test_csv_names_images_that_are_there() -> None:
    [entry] = taken("csv", f"sha256,label\n{'ab' * 32},cat\n".encode())
    assert isinstance(entry, Entry)
    assert (entry.sha256, entry.image, entry.label) == ("ab" * 32, b"", "cat")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("1.png,a,b", "line 3 has 3 cells and the header 2"),
        ("1.png", "line 3 has 1 cells"),
        (",a", "line 3 names no image"),
        ("nope.png,a", '"nope.png" is not in the archive'),
        ("../../etc/passwd,a", "is not in the archive"),
        ("http://127.0.0.1/x.png,a", "is not a public address"),
    ],
)
def test_a_csv_row_is_refused_alone(row: str, words: str) -> None:
    found = table(f"path,label\n1.png,a\n{row}\nb/2.png,b\n")
    assert isinstance(found[0], Entry)
    assert words in str(refusal(found, 1))
    assert isinstance(found[2], Entry)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "has no column"),
        (b"path,label\n", "no rows"),
        (b"file,label\n1,a\n", "has no column path or url or sha256"),
        (b"path;label\n1;a\n", "semicolons"),
        (b"path,path\n1,a\n", "twice"),
        (b"path,label\n\xff\xfe,a\n", "not UTF-8"),
        ("path,label\n".encode("utf-16"), "UTF-16"),
        (b'path,label\n"1.png,a\n', "not a CSV table"),
        (b"path,label\n" + b"x" * 200_000, "a line has more than"),
    ],
)
def test_a_table_that_is_none_is_refused(text: bytes, words: str) -> None:
    with pytest.raises(SourceError, match=words):
        taken("csv", text)


# --- frames


@pytest.mark.parametrize("orientation", range(1, 9))
def test_points_turn_as_pixels_do(orientation: int) -> None:
    stored = np.zeros((24, 32, 3), np.uint8)
    stored[5, 20] = 255
    image = exif_photo(stored, orientation, "PNG")
    pixels = decode(image)
    height, width = pixels.shape[:2]
    frame = Frame(width, height, orientation)
    assert frame.stored_size == (32, 24)
    x, y = frame.from_stored((20.5, 5.5))
    assert pixels[int(y), int(x), 0] == 255

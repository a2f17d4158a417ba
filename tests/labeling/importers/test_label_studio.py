"""What Label Studio's exports become: pixels from percent, masks from brushes, one annotation."""

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from support.imports import drafts, picture, refusal, taken, zipped

from visionloop_labeling.annotation import Draft
from visionloop_labeling.importers.entries import Entry, SourceError
from visionloop_labeling.importers.frames import decoded


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


def test_results_of_every_kind_become_one_annotation() -> None:
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


def test_the_latest_annotation_that_was_not_skipped_counts() -> None:
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
def test_a_brush_of_another_size_or_form_is_refused(said: dict[str, Any], words: str) -> None:
    assert words in str(refusal(taken("label-studio", label_studio(task(said)))))


def test_a_result_of_an_unknown_type_is_refused_unless_it_is_passed_over() -> None:
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

"""Annotations: what is canonical, what is cut off, what is refused."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visionloop.errors import InvalidInputError
from visionloop_labeling.annotation import (
    Annotation,
    Box,
    Draft,
    Task,
    describe,
    fitted,
    parse_draft,
)

SIZE = (40, 30)
TASKS = ("classification", "multi_label", "detection")
coordinate = st.floats(-200, 200, allow_nan=False, allow_infinity=False)
extent = st.floats(0.01, 300, allow_nan=False, allow_infinity=False)


def box(**fields: object) -> dict[str, object]:
    """A box of a draft, as JSON has it."""
    return {"class_name": "a", "x": 1, "y": 2, "width": 3, "height": 4, **fields}


BOX = Box(class_id="a", x=1, y=2, width=3, height=4)


@settings(deadline=None)
@given(coordinate, coordinate, extent, extent)
def test_boxes_are_cut_off_at_the_image_or_lie_beside_it(x, y, width, height) -> None:
    said = Annotation(boxes=(Box(class_id="a", x=x, y=y, width=width, height=height),))
    beside = x >= SIZE[0] or y >= SIZE[1] or x + width <= 0 or y + height <= 0
    try:
        (fit,) = fitted(said, "detection", SIZE).boxes or ()
    except InvalidInputError:
        # Beside it, or a hair's breadth within.
        assert beside or min(SIZE[0] - x, SIZE[1] - y, x + width, y + height) < 0.001
        return
    assert not beside
    assert fit.x >= 0
    assert fit.y >= 0
    assert fit.x + fit.width <= SIZE[0] + 0.002
    assert fit.y + fit.height <= SIZE[1] + 0.002
    inside = x >= 0 and y >= 0 and x + width <= SIZE[0] and y + height <= SIZE[1]
    if inside:
        assert abs(fit.x - x) + abs(fit.width - width) < 0.002


@settings(deadline=None)
@given(st.lists(st.sampled_from("cba")), st.sampled_from(TASKS))
def test_the_canonical_form_is_its_own(classes, task) -> None:
    said = Annotation(classes=tuple(classes), boxes=(BOX,))
    if task == "classification":
        said = said.model_copy(update={"classes": tuple(classes[:1])})
    once = fitted(said, task, SIZE)
    assert fitted(once, task, SIZE) == once
    stored = json.loads(json.dumps(once.stored()))
    assert Annotation.model_validate(stored) == once
    assert Annotation.model_validate(stored).stored() == stored


def test_only_what_says_something_is_stored() -> None:
    said = parse_draft({"classes": ["b", "a", "b"]})
    assert fitted(said, "multi_label", SIZE).stored() == {"classes": ["a", "b"]}
    nothing_there = parse_draft({"classes": [], "boxes": []})
    assert fitted(nothing_there, "detection", SIZE).stored() == {"boxes": []}
    assert fitted(nothing_there, "multi_label", SIZE).stored() == {"classes": []}
    with pytest.raises(InvalidInputError, match="says nothing"):
        fitted(nothing_there, "classification", SIZE)
    with pytest.raises(InvalidInputError, match="says nothing"):
        fitted(parse_draft({"note": "?"}), "multi_label", SIZE)


def test_classification_takes_one_class() -> None:
    with pytest.raises(InvalidInputError, match=r"2 classes.*multi_label") as refusal:
        fitted(parse_draft({"classes": ["a", "b"]}), "classification", SIZE)
    assert refusal.value.field == "annotation.classes"


MASK = {"kind": "mask", "class_name": "a", "counts": [1200], "size": [30, 40]}
POLYGON = {"kind": "polygon", "class_name": "a", "points": [[0, 0], [50, 0], [50, 50]]}


def test_polygons_and_masks_are_kept() -> None:
    said = fitted(parse_draft({"shapes": [POLYGON, MASK]}), "detection", SIZE)
    polygon, mask = said.stored()["shapes"]
    assert polygon["points"] == [[0, 0], [40, 0], [40, 30]]
    assert mask == MASK


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"boxes": [box(), box(x="one")]}, "annotation.boxes.1.x"),
        ({"boxes": [box(x=float("nan"))]}, "annotation.boxes.0.x"),
        ({"boxes": [box(x=float("inf"))]}, "annotation.boxes.0.x"),
        ({"boxes": [box(width=0)]}, "annotation.boxes.0.width"),
        ({"boxes": [box(colour="red")]}, "annotation.boxes.0.colour"),
        ({"boxes": [box(class_name="")]}, "annotation.boxes.0.class_name"),
        ({"classes": "a"}, "annotation.classes"),
        ({"attributes": {"a": True}}, "annotation.attributes.a"),
        ({"shapes": [{**POLYGON, "points": [[0, 0], [1, 1]]}]}, "annotation.shapes.0"),
        ({"shapes": [{**POLYGON, "counts": [1]}]}, "annotation.shapes.0"),
        ({"shapes": [{**MASK, "size": None}]}, "annotation.shapes.0"),
        ({"shapes": [{**MASK, "counts": [-1]}]}, "annotation.shapes.0.counts.0"),
        ({"what": 1}, "annotation.what"),
    ],
)
def test_malformed_values_are_named(values, field: str) -> None:
    with pytest.raises(InvalidInputError) as refusal:
        parse_draft(values)
    assert refusal.value.field.startswith(field)


@pytest.mark.parametrize(
    "values",
    [
        {"boxes": [box(x=40)]},
        {"boxes": [box(x=-10)]},
        {"boxes": [box(y=0.5, height=0.0001)]},
        {"shapes": [{**POLYGON, "points": [[50, 0], [60, 1], [60, 9]]}]},
        {"shapes": [{**MASK, "counts": [1199]}]},
        {"shapes": [{**MASK, "size": [40, 30]}]},
    ],
)
def test_what_belongs_to_another_image_is_refused(values) -> None:
    with pytest.raises(InvalidInputError, match=r"upright") as refusal:
        fitted(parse_draft(values), "detection", SIZE)
    assert refusal.value.field.split(".")[1] == next(iter(values))


def test_a_draft_becomes_an_annotation_when_its_names_have_ids() -> None:
    draft = parse_draft(
        {
            "classes": ["Cat"],
            "boxes": [box(class_name="Dog")],
            "attributes": {"tone": "red"},
        }
    )
    assert draft.class_names() == ("Cat", "Dog")
    said = draft.annotation(str.lower)
    assert said.class_ids() == ("cat", "dog")
    assert said.stored()["boxes"][0]["class_id"] == "dog"
    assert said.attributes == {"tone": "red"}
    assert describe(said, str.upper) == '"CAT", 1 box'
    assert describe(Annotation(boxes=()), str) == "nothing there"


def test_merging_joins_what_became_the_same() -> None:
    said = Annotation(classes=("a", "b"), boxes=(BOX,))
    merged = said.with_classes(lambda key: "c")
    assert merged.classes == ("c",)
    assert merged.class_ids() == ("c",)


def test_a_soft_label_adds_up_to_1_and_names_the_class_it_counts_as() -> None:
    said = Draft(probabilities={"b": 0.33, "a": 0.66, "c": 0.0}, weight=0.0)
    fit = fitted(said, "classification", SIZE)
    assert fit.classes == ("a",)
    assert fit.probabilities == {"a": 0.666667, "b": 0.333333}
    assert fit.stored()["weight"] == 0.0
    assert fitted(fit, "classification", SIZE) == fit
    named = Draft(classes=("b",), probabilities={"a": 0.5, "b": 0.5})
    assert fitted(named, "classification", SIZE).classes == ("b",)
    assert set(said.class_names()) == {"a", "b", "c"}
    ids = fit.annotation({"a": "1", "b": "1"}.__getitem__)
    assert ids.probabilities == {"1": 1.0}  # two names of one class
    assert ids.class_ids() == ("1",)


@pytest.mark.parametrize(
    ("probabilities", "task", "words"),
    [
        ({"a": 0.5, "b": 0.5}, "classification", "are the highest alike"),
        ({"a": 0.5, "b": 0.4}, "classification", "add up to 0.9"),
        ({"a": 1.0}, "multi_label", "this dataset's task is multi_label"),
    ],
)
def test_a_soft_label_that_says_nothing_clear_is_refused(
    probabilities: dict[str, float], task: Task, words: str
) -> None:
    with pytest.raises(InvalidInputError, match=words):
        fitted(Draft(probabilities=probabilities), task, SIZE)

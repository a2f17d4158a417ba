"""Labels that rows bring: boxes that decide splits, boxes that do not fit, attributes to learn."""

import pytest
from sqlalchemy import select
from support.label_events import do, shown
from support.pictures import noise

from visionloop.errors import InvalidInputError
from visionloop_labeling.annotation import Annotation, Draft, DraftBox
from visionloop_labeling.datasets import DatasetSettings
from visionloop_labeling.schema import Item, LabelAttribute, LabelClass, LabelHead, SplitCount


def test_rows_bring_boxes_and_a_class_of_the_rarest_decides_the_split(core) -> None:
    core.create("boxes", DatasetSettings(task="detection"))
    corner = {"x": 1.0, "y": 1.0, "width": 5.0, "height": 5.0}

    def add(number: int, *names: str):
        said = Draft(boxes=tuple(DraftBox(class_name=name, **corner) for name in names))
        receipt = core.add(noise(number), dataset="boxes", annotation=said)
        assert receipt.outcome == "accepted", receipt.message
        return receipt.sha256

    first = add(1, "car")
    both = add(2, "car", "bus")  # the first bus: to train, though car lacks a test image
    nothing = add(3)
    labelled = core.labels("boxes")
    assert labelled[first].split == labelled[both].split == "train"
    assert labelled[nothing].split in ("train", "val", "test")
    with core.database.read() as session:
        names = {one.id: one.name for one in session.scalars(select(LabelClass))}
        counted = {names[c.class_id]: c.images for c in session.scalars(select(SplitCount))}
        stored = session.scalars(select(LabelHead.annotation)).all()
    assert counted == {"car": 2, "bus": 1}
    assert {"boxes": []} in stored  # nothing there is something said


def test_a_row_whose_boxes_do_not_fit_is_refused_and_adds_nothing(core) -> None:
    beside = DraftBox(class_name="car", x=100, y=0, width=5, height=5)
    receipt = core.add(noise(1), annotation=Draft(boxes=(beside,)))
    assert (receipt.outcome, receipt.field) == ("rejected", "annotation.boxes.0")
    with core.database.read() as session:
        assert session.scalars(select(Item)).all() == []
        assert session.scalars(select(LabelClass)).all() == []
    both = core.add(noise(1), "a", annotation=Draft(classes=("b",)))
    assert (both.outcome, both.field) == ("rejected", "annotation")


def test_attributes_are_learned_from_rows_and_asked_of_people(core) -> None:
    said = Draft(classes=("a",), attributes={"line": "north", "volts": 3.5})
    sha256 = core.add(noise(1), annotation=said).sha256
    mine = Annotation(classes=("a",), attributes={"line": "north", "volts": "4"})
    do(core, sha256, "label", annotation=mine)
    annotation = shown(core, sha256).annotation
    assert annotation == {"classes": ["a"], "attributes": {"line": "north", "volts": 4.0}}
    for wrong, words in (
        ({"line": "south"}, "choose one of north"),
        ({"volts": "many"}, "no number"),
        ({"colour": "red"}, "it has line, volts"),
    ):
        with pytest.raises(InvalidInputError, match=words) as refusal:
            do(core, sha256, "label", annotation=Annotation(classes=("a",), attributes=wrong))
        assert refusal.value.field == "annotation.attributes"


def test_one_label_makes_no_more_attributes_than_there_may_be(core) -> None:
    """Those of the image and of all its boxes together, whoever sends them."""
    core.create("boxes", DatasetSettings(task="detection"))
    place = {"class_name": "a", "x": 1, "y": 1, "width": 3, "height": 3}
    boxes = [{**place, "attributes": {f"a{n}_{one}": 1.0 for n in range(30)}} for one in range(3)]
    refused = core.add(noise(1), annotation=Draft(boxes=boxes), dataset="boxes")
    assert (refused.outcome, refused.field) == ("rejected", "annotation.attributes")
    assert "the limit is 64" in refused.message
    assert core.add(noise(1), annotation=Draft(boxes=boxes[:2]), dataset="boxes").outcome == (
        "accepted"
    )
    with core.database.read() as session:
        assert len(session.scalars(select(LabelAttribute)).all()) == 60

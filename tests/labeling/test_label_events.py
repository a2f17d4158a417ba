"""Undo, retract, skip, flag: what each does to the image, who may, and what a repeated one gets."""

import uuid

import pytest
from sqlalchemy import select
from support.label_events import call_it, do, history, shown, standing
from support.pictures import noise

from visionloop.errors import ConflictError, InvalidInputError, PermissionDeniedError
from visionloop_labeling import datasets
from visionloop_labeling.annotation import Annotation
from visionloop_labeling.history import recent
from visionloop_labeling.labels import StaleLabelError
from visionloop_labeling.schema import SplitCount
from visionloop_labeling.taxonomy import Taxonomy


def test_undo_goes_back_step_by_step(core) -> None:
    sha256 = core.add(noise(1), "a").sha256
    call_it(core, sha256, "b")
    do(core, sha256, "flag", note="really?")
    assert standing(core, sha256) == ("b", "review", False)
    undone = do(core, sha256, "undo")
    assert (undone.applied, undone.label_sequence, undone.state) == (True, 2, "labelled")
    assert standing(core, sha256) == ("b", "labelled", False)
    do(core, sha256, "undo")
    assert standing(core, sha256) == ("a", "labelled", False)
    assert core.labels()[sha256].author_kind == "import"
    with pytest.raises(StaleLabelError, match='"ann" has said nothing'):
        do(core, sha256, "undo")
    call_it(core, sha256, "c")
    assert standing(core, sha256) == ("c", "labelled", False)
    entries = history(core, sha256)
    assert [entry.kind for entry in entries] == ["label", "label", "flag", "undo", "undo", "label"]
    assert [entry.undone for entry in entries] == [False, True, True, False, False, False]
    assert [entry.undoes for entry in entries] == [None, None, None, 3, 2, None]
    assert entries[2].note == "really?"


def test_undo_takes_back_ones_own_last_word_only(core) -> None:
    sha256 = core.add(noise(1)).sha256
    first = call_it(core, sha256, "a", "ann")
    call_it(core, sha256, "b", "bob")
    with pytest.raises(StaleLabelError, match="has said nothing"):
        do(core, sha256, "undo", "cid")
    with pytest.raises(StaleLabelError, match=r"not the last word of \"ann\".*event 1"):
        do(core, sha256, "undo", "ann", undoes=2)
    with pytest.raises(StaleLabelError, match="base_sequence=2"):
        do(core, sha256, "undo", "ann", base_sequence=first.sequence)
    undone = do(core, sha256, "undo", "ann", undoes=1)
    assert undone.applied is False  # bob's label stands as it did
    assert standing(core, sha256) == ("b", "labelled", False)
    do(core, sha256, "undo", "bob")
    assert standing(core, sha256) == ("", "open", False)
    assert shown(core, sha256).why == {"reason": "label_taken_back"}


def test_the_split_of_a_group_stays_when_its_label_is_undone(core) -> None:
    sha256 = core.add(noise(1)).sha256
    call_it(core, sha256, "a")
    do(core, sha256, "undo")
    assert shown(core, sha256).split == "train"
    with core.database.read() as session:
        assert [count.images for count in session.scalars(select(SplitCount))] == [0]


def test_a_retracted_label_is_not_brought_back_by_those_below(core) -> None:
    sha256 = core.add(noise(1), "wrong").sha256
    assert do(core, sha256, "retract").applied
    assert standing(core, sha256) == ("", "open", False)
    again = core.add(noise(1), "wrong")  # the same file, imported again
    assert (again.outcome, again.reason) == ("duplicate", "")
    assert standing(core, sha256) == ("", "open", False)
    call_it(core, sha256, "right")
    assert standing(core, sha256) == ("right", "labelled", False)


def test_an_app_that_takes_away_a_persons_label_is_a_dispute(core) -> None:
    sha256 = core.add(noise(1)).sha256
    call_it(core, sha256, "a")
    assert not do(core, sha256, "retract", "camera", by="app").applied
    assert standing(core, sha256) == ("a", "review", True)
    assert shown(core, sha256).why == {"reason": "disputed"}
    call_it(core, sha256, "a", "rae")  # somebody looks, and says it again
    assert standing(core, sha256) == ("a", "labelled", False)
    assert shown(core, sha256).why == {}


@pytest.mark.parametrize("way_out", ["unflag", "label", "retract"])
def test_a_flag_asks_for_a_second_look(core, way_out: str) -> None:
    sha256 = core.add(noise(1), "a").sha256
    do(core, sha256, "flag", note="is this one?")
    why = shown(core, sha256).why
    assert why == {"reason": "flagged", "by": "ann", "note": "is this one?", "sequence": 2}
    core.say(sha256, "b", "import")  # no row decides it
    assert standing(core, sha256)[1] == "review"
    if way_out == "label":
        call_it(core, sha256, "b", "rae")
    else:
        do(core, sha256, way_out, "rae")
    assert standing(core, sha256)[1] == ("open" if way_out == "retract" else "labelled")


def test_labellers_decide_their_own_flags_and_no_others(core) -> None:
    sha256 = core.add(noise(1), "a").sha256
    do(core, sha256, "flag", "ann")
    for kind in ("unflag", "retract"):
        with pytest.raises(PermissionDeniedError, match="reviewer"):
            do(core, sha256, kind, "bob", may_review=False)
    with pytest.raises(PermissionDeniedError, match=r"in review \(flagged\)"):
        call_it(core, sha256, "b", "bob", may_review=False)
    do(core, sha256, "skip", "bob", may_review=False)
    call_it(core, sha256, "b", "ann", may_review=False)
    assert standing(core, sha256) == ("b", "labelled", False)


def test_skipped_images_wait_apart_until_somebody_knows(core) -> None:
    sha256 = core.add(noise(1), "a", author_kind="model").sha256
    do(core, sha256, "skip", note="blurred")
    assert standing(core, sha256) == ("a", "skipped", False)
    core.say(sha256, "b", "app")
    assert standing(core, sha256) == ("b", "skipped", False)
    call_it(core, sha256, "b")
    assert standing(core, sha256) == ("b", "labelled", False)


def test_an_event_without_what_it_needs_is_refused(core) -> None:
    sha256 = core.add(noise(1), "a").sha256
    with pytest.raises(InvalidInputError, match="needs an annotation"):
        do(core, sha256, "label")
    with pytest.raises(InvalidInputError, match="has no annotation"):
        do(core, sha256, "skip", annotation=Annotation(classes=("a",)))
    with pytest.raises(InvalidInputError, match="no class of dataset"):
        do(core, sha256, "label", annotation=Annotation(classes=("zebra\0",)))
    assert len(history(core, sha256)) == 1


@pytest.mark.parametrize("kind", ["label", "undo", "flag"])
def test_a_resent_event_gets_its_first_answer_whatever_came_since(core, kind: str) -> None:
    sha256 = core.add(noise(1)).sha256
    call_it(core, sha256, "a")
    fields = {"event_id": str(uuid.uuid4())}
    if kind == "label":
        fields["annotation"] = Annotation(classes=("a",), attributes={})
        fields["base_sequence"] = 1
    first = do(core, sha256, kind, **fields)
    with core.database.write() as session:
        classes = Taxonomy(session, datasets.find(session, "cells", lock=True), "rae")
        one = classes.existing("a")
        classes.rename(one, "alpha")
        classes.merge(one, classes.add("beta"))
    call_it(core, sha256, "beta", "bob")
    again = do(core, sha256, kind, **fields)
    assert again.replayed
    assert (again.sequence, again.applied) == (first.sequence, first.applied)
    if kind != "label":
        with pytest.raises(ConflictError, match="new UUID"):
            do(core, sha256, kind, note="other", **fields)


def test_the_last_events_of_an_author_come_newest_first(core) -> None:
    digests = [core.add(noise(n)).sha256 for n in range(3)]
    for sha256 in digests:
        call_it(core, sha256, "a", "ann")
    call_it(core, digests[0], "b", "bob")
    do(core, digests[2], "undo", "ann")
    with core.database.read() as session:
        found = recent(session, datasets.find(session, "cells"), author="ann", limit=3)
    assert [(e.kind, e.sha256, e.undone) for e in found] == [
        ("undo", digests[2], False),
        ("label", digests[2], True),
        ("label", digests[1], False),
    ]

"""The label log: who may replace whom, once-only events, undo, review, and what follows from it."""

import os
import uuid
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from support.label_tables import make_images, tables
from support.pictures import noise

from visionloop.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    PermissionDeniedError,
    VisionloopError,
)
from visionloop.telemetry import metrics
from visionloop_labeling import datasets, labels
from visionloop_labeling.annotation import Annotation, Draft, DraftBox
from visionloop_labeling.datasets import DatasetSettings
from visionloop_labeling.fold import fold
from visionloop_labeling.history import of_image, recent
from visionloop_labeling.labels import (
    AuthorKind,
    EventKind,
    LabelLog,
    StaleLabelError,
    Statement,
)
from visionloop_labeling.queue import item_outs
from visionloop_labeling.rebuild import rebuild
from visionloop_labeling.schema import (
    ImageGroup,
    Item,
    LabelAttribute,
    LabelClass,
    LabelEvent,
    LabelHead,
    Prediction,
    SplitCount,
)
from visionloop_labeling.taxonomy import Taxonomy

KINDS = [kind.value for kind in AuthorKind]


def history(core, sha256: str):
    with core.database.read() as session:
        return of_image(session, "cells", sha256)


@pytest.mark.parametrize("before", KINDS)
@pytest.mark.parametrize("now", KINDS)
def test_a_lower_rank_never_replaces_a_higher_one(core, before: str, now: str) -> None:
    sha256 = core.add(noise(1)).sha256
    core.say(sha256, "old", before)
    recorded = core.say(sha256, "new", now)
    replaces = AuthorKind(now).rank >= AuthorKind(before).rank
    assert recorded.applied is replaces
    label = core.labels()[sha256]
    assert label.class_name == ("new" if replaces else "old")
    assert label.disputed is not replaces
    assert [entry.class_name for entry in history(core, sha256)] == ["old", "new"]
    assert [entry.current for entry in history(core, sha256)] == [not replaces, replaces]


def test_repeating_the_current_label_changes_nothing(core) -> None:
    sha256 = core.add(noise(1), "a").sha256
    recorded = core.say(sha256, "a", "import")
    assert (recorded.applied, recorded.sequence) == (False, 2)
    assert core.labels()[sha256].sequence == 1


def test_a_person_confirms_an_apps_label_and_stands_behind_it(core) -> None:
    sha256 = core.add(noise(1), "a", author_kind="app").sha256
    assert core.labels()[sha256].split == ""
    assert core.say(sha256, "a").applied
    label = core.labels()[sha256]
    assert (label.author_kind, label.split) == ("human", "train")


def test_the_same_event_is_recorded_once(core) -> None:
    sha256 = core.add(noise(1), "a").sha256
    event = str(uuid.uuid4())
    first = core.say(sha256, "b", event_id=event)
    core.say(sha256, "c")
    again = core.say(sha256, "b", event_id=event.upper())
    assert again.replayed
    assert (again.sequence, again.applied) == (first.sequence, True)
    assert core.labels()[sha256].class_name == "c"


def test_an_event_id_is_not_for_another_statement(core) -> None:
    sha256, other = core.add(noise(1), "a").sha256, core.add(noise(2), "a").sha256
    event = str(uuid.uuid4())
    core.say(sha256, "b", event_id=event)
    with pytest.raises(ConflictError, match="new UUID"):
        core.say(sha256, "c", event_id=event)
    with pytest.raises(ConflictError, match="new UUID"):
        core.say(other, "b", event_id=event)


def test_a_label_since_the_one_that_was_seen_is_a_conflict(core) -> None:
    sha256 = core.add(noise(1)).sha256
    first = core.say(sha256, "a", base_sequence=0)
    core.say(sha256, "b", base_sequence=first.sequence)
    with pytest.raises(ConflictError, match=r'saw label 1 .* label 2, "b" .*base_sequence=2'):
        core.say(sha256, "c", base_sequence=first.sequence)
    with pytest.raises(ConflictError, match="saw no label"):
        core.say(sha256, "c", base_sequence=0)
    assert core.say(sha256, "c", base_sequence=2).applied


def test_a_resent_correction_is_answered_although_its_base_is_stale(core) -> None:
    sha256 = core.add(noise(1), "a").sha256
    event = str(uuid.uuid4())
    first = core.say(sha256, "b", event_id=event, base_sequence=1)
    again = core.say(sha256, "b", event_id=event, base_sequence=1)
    assert (again.sequence, again.applied) == (first.sequence, first.applied)


def test_unknown_images_and_datasets_are_named(core) -> None:
    with pytest.raises(NotFoundError, match="submit the image first"):
        core.say("0" * 64, "a")
    with pytest.raises(InvalidInputError, match="64 hex digits"):
        core.say("xyz", "a")
    with pytest.raises(InvalidInputError, match="not a UUID"):
        core.say("0" * 64, "a", event_id="17")


def do(core, sha256: str, kind: str, author: str = "ann", by: str = "human", **fields: object):
    """An event of any kind."""
    statement = Statement(AuthorKind(by), author, EventKind(kind), **fields)
    return labels.submit(core.database, "cells", sha256, statement)


def call_it(core, sha256: str, name: str, author: str = "ann", **fields: object):
    return do(core, sha256, "label", author, annotation=Draft(classes=(name,)), **fields)


def shown(core, sha256: str):
    with core.database.read() as session:
        dataset = datasets.find(session, "cells")
        item = labels.find_item(session, dataset, sha256)
        return item_outs(session, dataset, [item])[0]


def standing(core, sha256: str) -> tuple[str, str, bool]:
    """The image's class, its place in the work, whether it is disputed."""
    one = shown(core, sha256)
    name = "" if one.annotation is None else ",".join(one.annotation.get("classes", ()))
    return name, str(one.state), one.disputed


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


def say_in_memory(events: list[LabelEvent], class_name: str, kind: str) -> None:
    event = LabelEvent(
        id=len(events) + 1,
        sequence=len(events) + 1,
        kind="label",
        from_row=False,
        annotation={"classes": [class_name]},
        author_kind=kind,
        author=kind,
    )
    events.append(event)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(KINDS)), max_size=30))
def test_the_current_label_is_the_last_of_the_highest_rank_that_said_anything_new(said) -> None:
    events: list[LabelEvent] = []
    current: tuple[int, str, int] | None = None  # rank, class, sequence
    for class_name, kind in said:
        say_in_memory(events, class_name, kind)
        rank = AuthorKind(kind).rank
        if (
            current is None
            or rank > current[0]
            or (rank == current[0] and class_name != current[1])
        ):
            current = (rank, class_name, len(events))
        assert fold(events).sequence == (0 if current is None else current[2])


EXAMPLES = int(os.environ.get("FOLD_EXAMPLES", "20"))  # 500 take a minute on each database
CLASSES = ("a", "b", "c", "d")
IMAGES = 4
AUTHORS = st.sampled_from(["ann", "bob"])
_image = st.integers(0, IMAGES - 1)
_class = st.sampled_from(CLASSES)
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("label"),
            _image,
            AUTHORS,
            st.sampled_from(KINDS),
            st.lists(_class, max_size=3),
            st.lists(_class, max_size=2),
            st.booleans(),
        ),
        st.tuples(st.sampled_from(["retract", "skip", "flag", "unflag"]), _image, AUTHORS),
        st.tuples(st.just("undo"), _image, AUTHORS, st.sampled_from(KINDS)),
        st.tuples(st.just("merge"), _class, _class),
        st.tuples(st.just("split"), _class, _class, _class),
        st.tuples(st.just("restore"), _class),
        st.tuples(st.just("retire"), _class),
    ),
    max_size=30,
)


def take(session, dataset, items, step) -> None:
    """One step of the machine."""
    name, subject, *rest = step
    if name in ("merge", "split", "retire", "restore"):
        classes = Taxonomy(session, dataset, "rae")
        one = classes.existing(subject)
        if name == "merge":
            classes.merge(one, classes.existing(rest[0]))
        elif name == "split":
            classes.split(one, rest)
        else:
            getattr(classes, name)(one)
        return
    kind = AuthorKind(rest[1]) if name in ("label", "undo") else AuthorKind.HUMAN
    annotation = None
    if name == "label":
        boxes = tuple(DraftBox(class_name=c, x=0, y=0, width=9, height=9) for c in rest[3])
        annotation = Draft(classes=tuple(rest[2]), boxes=boxes)
    from_row = name == "label" and rest[4]
    statement = Statement(kind, rest[0], EventKind(name), annotation, from_row=from_row)
    LabelLog(session, dataset).record(items[subject], statement)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=STEPS)
def test_whatever_is_said_and_done_the_tables_are_what_the_log_gives(core, steps) -> None:
    """Events, undo and changes of classes in any order: the same tables as from a rebuild.

    What is refused leaves nothing behind. One transaction, rolled back, so that it is quick.
    """
    name = f"m-{uuid.uuid4().hex}"
    with core.database.write() as session:
        dataset = datasets.create(session, name, DatasetSettings(task="multi_label"))
        items = make_images(session, dataset, IMAGES)
        for one in CLASSES:
            Taxonomy(session, dataset, "rae").add(one)
        splits: dict[str, str] = {}
        for step in steps:
            try:
                take(session, dataset, items, step)
            except VisionloopError:
                assert not session.dirty
                assert not session.new
            session.flush()
            session.expire_all()  # as if each step were a transaction of its own
            now = dict(_splits(session, dataset).all())
            assert splits.items() <= now.items()  # given once, never moved
            splits = now
        before = tables(session, dataset)
        session.expunge_all()
        dataset = datasets.find(session, name, lock=True)
        assert rebuild(session, dataset).differing == 0
        assert tables(session, dataset) == before
        session.rollback()


def _splits(session, dataset):
    return session.execute(
        select(Item.sha256, ImageGroup.split)
        .join(ImageGroup, ImageGroup.id == Item.group_id)
        .where(Item.dataset_id == dataset.id, ImageGroup.split.is_not(None))
    ).tuples()


def test_only_suggestions_of_ours_are_series_in_the_metrics(core) -> None:
    sha256 = core.add(noise(1)).sha256
    with core.database.write() as session:
        dataset = datasets.find(session, "cells", lock=True)
        log = LabelLog(session, dataset)
        draft = Draft(classes=("a",))
        said = Statement(
            annotation=draft,
            author_kind=AuthorKind.HUMAN,
            author="ada",
            suggested_by="whatever a caller writes:1",
            suggestion="accepted",
        )
        log.record(labels.find_item(session, dataset, sha256), said)
    before = counted("other")
    log.measure()
    assert counted("other") == before + 1
    assert counted("whatever a caller writes:1") == 0


def test_agreement_is_counted_with_the_suggestion_in_view_and_without(core) -> None:
    """Once an image, by the first person's label; what a class means now counts."""
    digests = [core.add(noise(n)).sha256 for n in range(4)]
    core.say(core.add(noise(9)).sha256, "dog")
    core.say(core.add(noise(8)).sha256, "cat")
    with core.database.write() as session:
        dataset = datasets.find(session, "cells", lock=True)
        keys = {one.name: one for one in session.scalars(select(LabelClass))}
        keys["cat"].merged_into_id, keys["cat"].state = keys["dog"].id, "merged"
        items = [labels.find_item(session, dataset, digest) for digest in digests]
        for item in items:
            item.why = {"model": "m:3", "blind": True}
            session.add(
                Prediction(
                    item_id=item.id, model="m", version=3, scores=[[keys["cat"].key, 0.9]],
                    class_id=keys["cat"].id, probability=0.9, margin=0.9, sure=True,
                    at=datetime(2026, 1, 1, tzinfo=UTC),
                )
            )  # fmt: skip
        items[0].why = items[1].why = {"model": "m:3"}
        session.flush()
        log = LabelLog(session, dataset)
        agreed = agreement("m:3")
        for item, name, shown in (
            (items[0], "dog", "accepted"),
            (items[1], "bird", "rejected"),
            (items[1], "dog", "accepted"),  # a change of mind
            (items[2], "dog", ""),
            (items[3], "bird", ""),
        ):
            said = Statement(
                annotation=Draft(classes=(name,)),
                author_kind=AuthorKind.HUMAN,
                author="ada",
                suggested_by="m:3" if shown else "",
                suggestion=shown,
            )
            log.record(item, said)
        log.record(items[2], Statement(AuthorKind.HUMAN, "ada", EventKind.SKIP))
    assert agreement("m:3") == agreed
    log.measure()
    for arm in (("yes", "yes"), ("yes", "no"), ("no", "yes"), ("no", "no")):
        assert agreement("m:3")[arm] == agreed[arm] + 1, arm


def agreement(model: str) -> dict[tuple[str, str], float]:
    """Labels by whether the suggestion was shown, and whether they agreed."""
    found = metrics.values()["visionloop_suggestion_agreement_total"]
    arms = [(shown, agreed) for shown in ("yes", "no") for agreed in ("yes", "no")]
    return {arm: found.get((model, *arm), [0.0])[0] for arm in arms}


def counted(model: str) -> float:
    found = metrics.values()["visionloop_suggestion_outcomes_total"]
    return found.get((model, "accepted"), [0.0])[0]

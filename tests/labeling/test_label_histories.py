"""Random histories: what the log says is what the tables hold, whatever was said in what order."""

import os
import uuid
from datetime import UTC, datetime, timedelta

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from support.label_tables import make_images, tables

from visionloop.errors import VisionloopError
from visionloop_labeling import datasets
from visionloop_labeling.annotation import Draft, DraftBox
from visionloop_labeling.datasets import DatasetSettings
from visionloop_labeling.fold import fold
from visionloop_labeling.labels import AuthorKind, EventKind, LabelLog, Statement
from visionloop_labeling.rebuild import rebuild
from visionloop_labeling.schema import ImageGroup, Item, LabelEvent
from visionloop_labeling.taxonomy import Taxonomy

KINDS = [kind.value for kind in AuthorKind]
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def say_in_memory(events: list[LabelEvent], class_name: str, kind: str) -> None:
    event = LabelEvent(
        id=len(events) + 1,
        sequence=len(events) + 1,
        kind="label",
        from_row=False,
        annotation={"classes": [class_name]},
        author_kind=kind,
        author=kind,
        at=BEGIN + timedelta(hours=1, minutes=len(events)),
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


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(["app", "human"]), st.integers(0, 30)),
        max_size=12,
        unique_by=lambda one: one[2],
    )
)
def test_what_had_to_wait_counts_as_of_the_time_when_it_was_said(said) -> None:
    """Apps' words come in any order and count in that of their times; people never wait."""
    events: list[LabelEvent] = []
    for class_name, kind, minute in said:
        say_in_memory(events, class_name, kind)
        if kind == "app":
            events[-1].said_at = BEGIN + timedelta(minutes=minute)
    standing = fold(events)
    by_people = [class_name for class_name, kind, _ in said if kind == "human"]
    in_order = [class_name for class_name, _, _ in sorted(said, key=lambda one: one[2])]
    expected = (by_people or in_order)[-1:]
    found = [] if standing.label is None else standing.label.annotation["classes"]
    assert found == expected
    assert standing.disputed == contradicted(said)


def contradicted(said) -> bool:
    """Whether an app says otherwise after the last word of a person."""
    *_, last = [-1, *(place for place, (_, kind, _) in enumerate(said) if kind == "human")]
    return last >= 0 and any(class_name != said[last][0] for class_name, _, _ in said[last + 1 :])


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

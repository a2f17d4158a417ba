"""The label log: who may replace whom, once-only events, base sequences, split counts."""

import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select
from support.pictures import noise

from visionloop.errors import ConflictError, InvalidInputError, NotFoundError
from visionloop_labeling import labels
from visionloop_labeling.history import of_image
from visionloop_labeling.labels import AuthorKind
from visionloop_labeling.schema import (
    Dataset,
    ImageGroup,
    Item,
    LabelEvent,
    LabelHead,
    SplitCount,
)

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


STATEMENTS = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from("abc"), st.sampled_from(KINDS)), max_size=40
)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(statements=STATEMENTS)
def test_the_fold_agrees_with_the_log(core, statements) -> None:
    """Whatever is said by whom: heads, counts and splits are what the events give, step by step."""
    name = f"fold-{uuid.uuid4().hex}"
    core.create(name)
    digests = [core.add(noise(n), dataset=name).sha256 for n in range(6)]
    splits_before: dict[int, str] = {}
    for number, class_name, kind in statements:
        statement = labels.statement(
            event_id="", class_name=class_name, author_kind=kind, author=""
        )
        labels.submit(core.database, name, digests[number], statement)
        with core.database.read() as session:
            found = session.execute(
                select(ImageGroup.id, ImageGroup.split).where(ImageGroup.split.is_not(None))
            )
            splits = dict(found.tuples().all())
        assert splits_before.items() <= splits.items()  # given once, never moved
        splits_before = splits
    _check_fold(core, name)


def _check_fold(core, name: str) -> None:
    with core.database.read() as session:
        dataset = session.scalars(select(Dataset).where(Dataset.name == name)).one()
        query = (
            select(LabelEvent)
            .where(LabelEvent.dataset_id == dataset.id)
            .order_by(LabelEvent.sequence)
        )
        events = list(session.scalars(query))
        assert [event.sequence for event in events] == list(range(1, dataset.last_sequence + 1))
        current: dict[int, LabelEvent] = {}
        for event in events:
            held = current.get(event.item_id)
            now = (AuthorKind(event.author_kind).rank, event.class_id)
            before = (
                (-1, -1) if held is None else (AuthorKind(held.author_kind).rank, held.class_id)
            )
            if now[0] >= before[0] and now != before:
                current[event.item_id] = event
        heads = session.execute(
            select(LabelHead, Item, ImageGroup)
            .join(Item, Item.id == LabelHead.item_id)
            .join(ImageGroup, ImageGroup.id == Item.group_id)
            .where(Item.dataset_id == dataset.id)
        ).all()
        assert {head.item_id: head.event_row_id for head, _, _ in heads} == {
            item: event.id for item, event in current.items()
        }
        assert dataset.labelled == len(heads)
        counted: dict[tuple[int, str], int] = {}
        for head, _, group in heads:
            if AuthorKind(head.author_kind).accepted:
                key = (head.class_id, group.split)
                counted[key] = counted.get(key, 0) + 1
        stored = session.scalars(
            select(SplitCount).where(
                SplitCount.class_id.in_(
                    select(LabelEvent.class_id).where(LabelEvent.dataset_id == dataset.id)
                )
            )
        )
        assert {(s.class_id, s.split): s.images for s in stored if s.images} == counted
        assert session.scalar(select(func.count()).select_from(LabelEvent)) >= len(events)

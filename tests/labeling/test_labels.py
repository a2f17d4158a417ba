"""The label log: who may replace whom, events that count once, labels given on stale knowledge."""

import uuid

import pytest
from support.label_events import history
from support.pictures import noise

from visionloop.errors import ConflictError, InvalidInputError, NotFoundError
from visionloop_labeling.labels import AuthorKind

KINDS = [kind.value for kind in AuthorKind]


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

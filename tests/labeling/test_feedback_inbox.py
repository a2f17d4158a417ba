"""Feedback on predictions: into the right dataset, once, and what cannot be used is kept aside."""

import hashlib
import json
import shutil
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select
from support.bundles import encoded, of_several, publish_bundle

from visionloop.errors import NotFoundError, RefusedError, UnavailableError
from visionloop.feedback import (
    FOLDER,
    Feedback,
    FeedbackHeader,
    FeedbackImage,
    feedback_key,
    store_feedback,
)
from visionloop.objectstore import StoredObject, open_store
from visionloop.prediction_id import PredictionId
from visionloop.record import record_bytes
from visionloop.repository import ModelRepository
from visionloop.telemetry import labeling as metrics
from visionloop.telemetry.metrics import values
from visionloop_labeling import (
    datasets,
    feedback_classes,
    feedback_effect,
    feedback_retaking,
    history,
    labels,
    refused_feedback,
)
from visionloop_labeling import feedback_inbox as module
from visionloop_labeling.annotation import Draft
from visionloop_labeling.classes import ClassBook
from visionloop_labeling.datasets import DatasetSettings
from visionloop_labeling.feedback_classes import Offered
from visionloop_labeling.feedback_effect import FeedbackEffect
from visionloop_labeling.feedback_inbox import FeedbackInbox
from visionloop_labeling.feedback_retaking import Naming, Retaken, Retaking
from visionloop_labeling.fold import CLOCKS_APART, AuthorKind, EventKind
from visionloop_labeling.grpc_messages import event_message
from visionloop_labeling.refused_feedback import REFUSED, RefusedFeedback
from visionloop_labeling.schema import Item, LabelEvent
from visionloop_labeling.statements import Statement

DATASET = "test"  # the one that the test bundles say they were trained on
MODEL = "cells"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `models` of a store with one version of one model."""
    folder = tmp_path_factory.mktemp("models")
    publish_bundle(ModelRepository(open_store(f"file://{folder}")), MODEL, golden=4)
    return folder / "models"


@pytest.fixture
def inbox(core, models: Path, tmp_path: Path) -> FeedbackInbox:
    """Of a dataset with the model's classes, each on one image: 0 cat, 1 coffee, 2 rocket."""
    shutil.copytree(models, tmp_path / "store" / "models")
    core.create(DATASET)
    for number, name in enumerate(("cat", "coffee", "rocket")):
        core.add(encoded(number), name, dataset=DATASET)
    return inbox_of(core)


def inbox_of(core) -> FeedbackInbox:
    return FeedbackInbox(core.store, FeedbackEffect(core.database, core.store, core.ingest))


@pytest.fixture
def retaking(core) -> Retaking:
    """Of what the inbox put aside."""
    return Retaking(core.store, FeedbackEffect(core.database, core.store, core.ingest))


def sha256_of(number: int) -> str:
    return hashlib.sha256(encoded(number)).hexdigest()


def feedback(
    number: int, class_id: str | None = None, *, inline: bool = True, **fields
) -> Feedback:
    """On a prediction for the number-th image."""
    image = encoded(number)
    sha256 = hashlib.sha256(image).hexdigest()
    model, version = fields.pop("model", MODEL), fields.pop("version", 1)
    values = {
        "id": str(uuid.uuid4()),
        "prediction_id": str(PredictionId.new(model, version, sha256)),
        "verdict": "wrong" if class_id is None else "class",
        "class_id": class_id,
        "image": FeedbackImage(sha256=sha256, size=len(image) if inline else None, inline=inline),
        "caller": "inspection-line-3",
        "received": datetime.now(UTC),
        **fields,
    }
    return Feedback(FeedbackHeader(**values), image if inline else None)


def leave(core, *feedbacks: Feedback) -> None:
    for one in feedbacks:
        store_feedback(core.store, one)


def waiting(core) -> list[str]:
    return [stat.key for stat in core.store.list(FOLDER)]


def item_of(core, number: int) -> Item:
    with core.database.read() as session:
        return session.scalars(select(Item).where(Item.sha256 == sha256_of(number))).one()


def events_of(core, number: int) -> list[LabelEvent]:
    with core.database.read() as session:
        query = select(LabelEvent).where(LabelEvent.item_id == item_of(core, number).id)
        return list(session.scalars(query.order_by(LabelEvent.sequence)))


def accepted_by_feedback() -> float:
    found = values()[metrics.INGEST_IMAGES.metric.name]
    return found.get(("feedback", "accepted"), [0.0])[0]


def listed(core) -> list[RefusedFeedback]:
    return refused_feedback.page(core.store)[0]


def refusal(core, one: Feedback) -> str:
    """The reason that stands beside a refused feedback, whose bytes are kept."""
    key = REFUSED + one.header.id
    assert core.store.get(key).data == one.to_bytes()
    said = json.loads(core.store.get(f"{key}.json").data)
    assert said["key"] == feedback_key(one.header.id)
    assert said["message"]
    return said["reason"]


def test_a_correction_becomes_an_apps_label_on_the_image_it_brought(core, inbox) -> None:
    said = feedback(9, "rocket", note="seen by hand")
    leave(core, said)
    before = accepted_by_feedback()
    assert inbox.drain() is False
    assert accepted_by_feedback() == before + 1
    label = core.labels(DATASET)[sha256_of(9)]
    assert (label.class_key, label.author_kind, label.author) == (
        "rocket",
        "app",
        "inspection-line-3",
    )
    (event,) = events_of(core, 9)
    assert (event.event_id, event.suggested_by) == (said.header.id, "cells:1")
    assert event.note == "seen by hand"
    assert item_of(core, 9).state == "open", "an app's word waits for a person's"
    assert waiting(core) == []


@pytest.mark.parametrize("class_ids", [("cat", "rocket"), ("coffee",), ()])
def test_all_that_an_image_shows_becomes_a_label_of_several(
    core, models: Path, tmp_path: Path, class_ids: tuple[str, ...]
) -> None:
    shutil.copytree(models, tmp_path / "store" / "models")
    several = of_several(ModelRepository(core.store).read(MODEL, 1))
    core.store.put(f"models/{MODEL}/versions/1/bundle.json", record_bytes(several))
    core.create(DATASET, DatasetSettings(task="multi_label"))
    for number, name in enumerate(("cat", "coffee", "rocket")):
        core.add(encoded(number), name, dataset=DATASET)
    one = feedback(8, "cat")
    leave(core, feedback(9, verdict="classes", class_ids=class_ids), one)
    inbox_of(core).drain()
    label = core.labels(DATASET)[sha256_of(9)]
    assert (label.annotation.classes, label.author_kind) == (class_ids, "app")
    assert refusal(core, one) == "one_class"
    assert waiting(core) == []


@pytest.mark.parametrize("class_ids", [("cat", "rocket"), ("cat",), ()])
def test_several_classes_are_put_aside_where_an_image_has_one(
    core, inbox, class_ids: tuple[str, ...]
) -> None:
    several = feedback(1, verdict="classes", class_ids=class_ids)
    leave(core, several)
    inbox.drain()
    assert refusal(core, several) == "several_classes"
    assert len(events_of(core, 1)) == 1, "the import's own"


def test_an_image_that_is_there_is_named_by_its_digest(core, inbox) -> None:
    leave(core, feedback(1, "coffee", inline=False))
    inbox.drain()
    assert [event.author_kind for event in events_of(core, 1)] == ["import", "app"]


def test_an_image_of_another_dataset_is_taken_from_the_store(core, inbox) -> None:
    core.add(encoded(5))  # into the other dataset
    leave(core, feedback(5, "cat", inline=False))
    inbox.drain()
    assert core.labels(DATASET)[sha256_of(5)].class_key == "cat"


def test_a_prediction_called_wrong_sends_the_image_to_review(core, inbox) -> None:
    leave(core, feedback(2, note="that is no rocket"))
    inbox.drain()
    item = item_of(core, 2)
    assert item.state == "review"
    assert (item.why["reason"], item.why["by"]) == ("flagged", "inspection-line-3")
    assert item.why["note"] == "that is no rocket"
    assert core.labels(DATASET)[sha256_of(2)].class_key == "rocket", "nobody said what it is"


def test_an_app_never_replaces_a_persons_label_but_has_it_reviewed(core, inbox) -> None:
    leave(core, feedback(0, "coffee"))
    inbox.drain()
    assert core.labels(DATASET)[sha256_of(0)].class_key == "cat"
    assert item_of(core, 0).state == "review"


def test_what_cannot_be_used_is_kept_with_its_reason_and_holds_up_nothing(core, inbox) -> None:
    core.store.put("blobs/decoy", b"")
    broken = encoded(7)[:400]
    sha256 = hashlib.sha256(broken).hexdigest()
    torn_image = replace(
        feedback(
            7,
            "cat",
            prediction_id=str(PredictionId.new(MODEL, 1, sha256)),
            image=FeedbackImage(sha256=sha256, size=len(broken), inline=True),
        ),
        image=broken,
    )
    refused = {
        "unknown_model": feedback(3, "cat", model="nobody-made-it"),
        "unknown_class": feedback(3, "teapot"),
        "other_image": feedback(3, prediction_id=str(PredictionId.new(MODEL, 1, "0" * 64))),
        "unknown_image": feedback(
            8, "cat", inline=False, received=datetime.now(UTC) - timedelta(hours=2)
        ),
        "truncated": torn_image,
    }
    good = [feedback(20 + number, "cat") for number in range(3)]
    leave(core, *refused.values(), *good)
    core.store.put(f"{FOLDER}not-a-uuid", b"not ours")
    assert inbox.drain() is False
    assert waiting(core) == []
    assert {refusal(core, one): reason for reason, one in refused.items()} == {
        reason: reason for reason in refused
    }
    assert core.store.get(f"{REFUSED}not-a-uuid").data == b"not ours"
    assert json.loads(core.store.get(f"{REFUSED}not-a-uuid.json").data)["reason"] == "corrupt"
    assert all(len(events_of(core, 20 + number)) == 1 for number in range(3))


def test_refused_feedback_is_counted_listed_and_taken_once_its_cause_is_gone(
    core, inbox, retaking
) -> None:
    before = refused_by_reason("unknown_class")
    teapot, other = feedback(1, "teapot", note="see the handle"), feedback(2, "teapot")
    unknown = feedback(3, "cat", model="nobody-made-it")
    leave(core, teapot, other, unknown)
    inbox.drain()
    assert refused_by_reason("unknown_class") == before + 2
    found = {one.name: one for one in listed(core)}
    assert set(found) == {one.header.id for one in (teapot, other, unknown)}
    one = found[teapot.header.id]
    assert (one.reason, one.dataset, one.header) == ("unknown_class", DATASET, teapot.header)
    assert "teapot" in one.message
    assert found[unknown.header.id].dataset == ""
    (first,), following = refused_feedback.page(core.store, limit=1)
    rest, end = refused_feedback.page(core.store, after=following)
    assert [first.name, *(one.name for one in rest)] == sorted(found)
    assert end == ""
    with pytest.raises(RefusedError, match="has no class 'teapot'"):
        retaking.retry(teapot.header.id)
    core.add(encoded(11), "teapot", dataset=DATASET)  # a row brings the class
    assert retaking.retry(teapot.header.id) == "labelled"
    assert [event.author_kind for event in events_of(core, 1)] == ["import", "app"]
    with pytest.raises(NotFoundError, match="was refused, or it was taken again"):
        retaking.retry(teapot.header.id)
    refused_feedback.remove(core.store, other.header.id)
    assert [one.name for one in listed(core)] == [unknown.header.id]
    assert waiting(core) == []


NOW = datetime.now(UTC)


@pytest.mark.parametrize("first", ["older", "newer"])
def test_of_two_corrections_the_one_that_was_said_last_counts(core, inbox, first: str) -> None:
    """The inbox lists them by their UUIDs, and one may wait for longer than the other."""
    said = {
        "older": feedback(9, "cat", received=NOW - timedelta(minutes=9)),
        "newer": feedback(9, "rocket", received=NOW - timedelta(minutes=1)),
    }
    for name in (first, *(said.keys() - {first})):
        leave(core, said[name])
        inbox.drain()
    assert core.labels(DATASET)[sha256_of(9)].class_key == "rocket"
    applied = {event.event_id: event.applied for event in events_of(core, 9)}
    assert applied == {
        said["older"].header.id: first == "older",
        said["newer"].header.id: True,
    }
    assert item_of(core, 9).state == "open", "no dispute: the same app changed its mind"


def test_what_is_taken_again_replaces_nothing_that_was_said_since(core, inbox, retaking) -> None:
    old = feedback(9, "teapot", received=NOW - timedelta(days=3))
    leave(core, old, feedback(9, "rocket", received=NOW - timedelta(days=1)))
    inbox.drain()
    core.add(encoded(11), "teapot", dataset=DATASET)
    before = drained("outdated")
    assert retaking.retry(old.header.id) == "outdated"
    assert drained("outdated") == before + 1
    assert core.labels(DATASET)[sha256_of(9)].class_key == "rocket"
    assert item_of(core, 9).state == "open"
    late = events_of(core, 9)[-1]
    assert (late.event_id, late.applied) == (old.header.id, False)
    assert late.said_at == old.header.received
    assert listed(core) == []


def test_the_history_tells_by_grpc_too_when_it_was_said(core, inbox) -> None:
    leave(core, said := feedback(0, "coffee", received=NOW - timedelta(days=3)))
    inbox.drain()
    with core.database.read() as session:
        entries = history.of_image(session, DATASET, sha256_of(0))
    imported, late = map(event_message, entries)
    assert not imported.HasField("said_at")
    assert late.said_at.ToDatetime(UTC) == said.header.received


def test_what_is_taken_again_after_a_person_spoke_has_the_image_reviewed(
    core, inbox, retaking
) -> None:
    """The person had not seen it."""
    leave(core, old := feedback(0, "teapot", received=NOW - timedelta(days=3)))
    inbox.drain()
    core.add(encoded(11), "teapot", dataset=DATASET)
    assert retaking.retry(old.header.id) == "labelled"
    assert core.labels(DATASET)[sha256_of(0)].class_key == "cat"
    assert item_of(core, 0).state == "review"


@pytest.mark.parametrize("kind", [EventKind.LABEL, EventKind.RETRACT, EventKind.UNFLAG, None])
def test_a_verdict_that_waited_flags_no_image_that_a_person_has_decided_since(
    core, inbox, kind: EventKind | None
) -> None:
    """What an import says is no answer to it: that may be what the model has learned."""
    leave(core, feedback(0))
    inbox.drain()
    if kind is not None:
        person = Statement(
            author_kind=AuthorKind.HUMAN,
            author="ada",
            kind=kind,
            annotation=Draft(classes=("cat",)) if kind is EventKind.LABEL else None,
        )
        labels.submit(core.database, DATASET, sha256_of(0), person)
    before = drained("outdated")
    leave(core, feedback(0, received=NOW - timedelta(days=3)))
    inbox.drain()
    assert item_of(core, 0).state == ("review" if kind is None else item_state(kind))
    assert drained("outdated") == before + (kind is not None)
    assert events_of(core, 0)[-1].applied == (kind is None)
    leave(core, feedback(0))
    inbox.drain()
    assert item_of(core, 0).state == "review", "that is said of what the person decided"


def item_state(kind: EventKind) -> str:
    return "open" if kind is EventKind.RETRACT else "labelled"


def test_a_clock_that_is_ahead_does_not_shut_out_what_is_said_later(core, inbox) -> None:
    leave(core, feedback(9, "cat", received=datetime.now(UTC) + timedelta(hours=5)))
    inbox.drain()
    leave(core, feedback(9, "rocket", received=datetime.now(UTC) + timedelta(hours=5)))
    inbox.drain()
    assert core.labels(DATASET)[sha256_of(9)].class_key == "rocket"


def test_a_clock_that_is_ahead_keeps_the_order_in_which_things_were_said(
    core, inbox, retaking
) -> None:
    ahead = datetime.now(UTC) + CLOCKS_APART
    leave(core, old := feedback(9, "teapot", received=ahead - timedelta(seconds=120)))
    inbox.drain()
    leave(core, feedback(9, "rocket", received=ahead - timedelta(seconds=60)))
    inbox.drain()
    core.add(encoded(11), "teapot", dataset=DATASET)
    assert retaking.retry(old.header.id) == "outdated"
    assert core.labels(DATASET)[sha256_of(9)].class_key == "rocket"


def test_a_clock_that_is_behind_loses_no_verdict_on_what_a_person_decided(core, inbox) -> None:
    person = Statement(
        author_kind=AuthorKind.HUMAN, author="ada", annotation=Draft(classes=("cat",))
    )
    labels.submit(core.database, DATASET, sha256_of(0), person)
    leave(core, feedback(0, received=datetime.now(UTC) - CLOCKS_APART + timedelta(minutes=1)))
    inbox.drain()
    assert item_of(core, 0).state == "review"


def test_taking_again_does_not_count_as_a_slow_inbox(core, inbox, retaking) -> None:
    leave(core, old := feedback(9, "teapot", received=NOW - timedelta(days=3)))
    inbox.drain()
    core.add(encoded(11), "teapot", dataset=DATASET)
    before = values()[metrics.FEEDBACK_LAG.metric.name]
    retaking.retry(old.header.id)
    assert values()[metrics.FEEDBACK_LAG.metric.name] == before


def test_a_class_is_found_by_the_name_that_people_gave_it(core, inbox) -> None:
    core.add(encoded(11), "Tea pot", dataset=DATASET)  # its id is none that an app could guess
    leave(core, feedback(9, "Tea pot"))
    inbox.drain()
    (event,) = events_of(core, 9)
    assert core.labels(DATASET)[sha256_of(9)].class_key.startswith("tea-pot-")
    assert event.annotation == {"classes": [core.labels(DATASET)[sha256_of(11)].class_key]}


@pytest.mark.parametrize("meant", ["rocket", "Rocket"])
def test_a_person_may_say_which_class_is_meant(core, inbox, retaking, meant: str) -> None:
    core.add(encoded(11), "Rocket", dataset=DATASET)  # beside the one whose id is rocket
    odd = "r\u00f6cket\n\x00"  # nothing that a class can be called
    leave(core, said := feedback(9, odd))
    inbox.drain()
    assert refusal(core, said) == "unknown_class"
    with pytest.raises(RefusedError, match="has no class 'rokcet', by id or by name"):
        retaking.retry(said.header.id, {odd: "rokcet"})
    assert retaking.retry(said.header.id, {odd: meant, "other": "cat"}) == "labelled"
    key = {"rocket": "rocket", "Rocket": core.labels(DATASET)[sha256_of(11)].class_key}[meant]
    assert core.labels(DATASET)[sha256_of(9)].class_key == key
    before = drained("repeated")
    leave(core, said)  # its app sends it once more
    inbox.drain()
    assert (drained("repeated"), listed(core)) == (before + 1, [])
    leave(core, other := feedback(9, odd, id=said.header.id, note="that is another one"))
    inbox.drain()
    assert refusal(core, other) == "unknown_class"
    assert len(events_of(core, 9)) == 1


def test_every_class_that_is_offered_is_found_by_the_word_for_it(core, inbox) -> None:
    """Also one whose name is the id of another: "cat" would be the one that is called dog now."""
    with core.database.write() as session:
        book = ClassBook(session, datasets.find(session, DATASET, lock=True))
        book.renamed(dog := book.get("cat"), "dog")
        cat, plus = book.add("cat"), book.add("+")
        offered = Offered(book)
        found = [feedback_classes.find(book, word) for word in offered.words]
        assert found == book.all()
        assert {dog, cat, plus} < set(found)
        assert "cat" not in offered.words
        assert [offered.alike(said) for said in ("Cat!", "DOG", "!")] == [cat.key, "dog", ""]


def drained(outcome: str) -> float:
    return values()[metrics.FEEDBACK_DRAINED.metric.name].get((outcome,), [0.0])[0]


def test_all_of_it_is_taken_again_once_the_class_is_there(core, inbox, retaking) -> None:
    corrections = [feedback(number, "teapot") for number in range(3)]
    unknown = feedback(3, "cat", model="nobody-made-it")
    leave(core, *corrections, unknown)
    inbox.drain()
    assert retaking.retry_all() == Retaken(0, 4, next="")
    core.add(encoded(11), "teapot", dataset=DATASET)
    assert retaking.retry_all() == Retaken(3, 1, next="")
    assert [len(events_of(core, number)) for number in range(3)] == [2, 2, 2]
    assert [one.name for one in listed(core)] == [unknown.header.id]


def test_all_that_names_the_same_is_taken_for_the_class_that_is_meant(
    core, inbox, retaking
) -> None:
    alike = [feedback(number, "Tea pot") for number in range(2)]
    others = [feedback(2, "Kettle"), feedback(3, "Tea pot", model="nobody-made-it")]
    leave(core, *alike, *others)
    inbox.drain()
    core.add(encoded(11), "teapot", dataset=DATASET)
    tea_pot = Naming(DATASET, "Tea pot")
    assert retaking.retry_all("", tea_pot, "tipot") == Retaken(0, 2, next="")
    assert retaking.retry_all("", tea_pot, "teapot") == Retaken(2, 0, next="")
    taken = [one.header.id for one in alike]
    assert [events_of(core, number)[-1].event_id for number in range(2)] == taken
    assert {one.name for one in listed(core)} == {one.header.id for one in others}


def test_all_that_names_the_same_is_thrown_away_and_nothing_else(core, inbox, retaking) -> None:
    others = [feedback(2, "kettle"), feedback(3, "craack", model="nobody-made-it")]
    leave(core, *(feedback(number, "craack") for number in range(2)), *others)
    inbox.drain()
    assert retaking.throw_away_all(Naming("other", "craack")) == Retaken(0, 0, next="")
    assert retaking.throw_away_all(Naming(DATASET, "craack")) == Retaken(2, 0, next="")
    assert {one.name for one in listed(core)} == {one.header.id for one in others}
    assert len(list(core.store.list(REFUSED))) == 4, "each with its reason"


def test_what_an_app_sends_anew_while_it_is_taken_again_is_looked_at(core, inbox, retaking) -> None:
    """It may be something else under the same UUID."""
    leave(core, old := feedback(9, "teapot"))
    inbox.drain()
    core.add(encoded(11), "teapot", dataset=DATASET)
    leave(core, other := feedback(0, "cat", id=old.header.id))
    assert retaking.retry(old.header.id) == "labelled"
    inbox.drain()
    assert refusal(core, other) == "conflict"


def test_what_cannot_be_taken_does_not_keep_back_those_behind_it(
    core, inbox, retaking, monkeypatch
) -> None:
    """Neither by the time it takes nor by a fault of ours."""
    ids = sorted(str(uuid.uuid4()) for _ in range(4))
    leave(
        core,
        feedback(0, "cat", id=ids[0], model="nobody-made-it"),
        *(feedback(number, "teapot", id=ids[number]) for number in (1, 2, 3)),
    )
    inbox.drain()
    core.add(encoded(11), "teapot", dataset=DATASET)
    monkeypatch.setattr(feedback_retaking, "RETAKE_SECONDS", 0.0)
    assert retaking.retry_all() == Retaken(0, 1, next=ids[0])
    assert retaking.retry_all(ids[0]) == Retaken(1, 0, next=ids[1])
    statement = feedback_effect._statement

    def stumbles(one: Feedback, shown):
        if one.header.id == ids[2]:
            raise ZeroDivisionError
        return statement(one, shown)

    monkeypatch.setattr(feedback_retaking, "RETAKE_SECONDS", 60.0)
    monkeypatch.setattr(feedback_effect, "_statement", stumbles)
    assert retaking.retry_all(ids[1]) == Retaken(1, 1, next="")
    assert [one.name for one in listed(core)] == [ids[0], ids[2]]


def test_refused_feedback_survives_a_store_that_fails_while_it_is_taken(
    core, inbox, retaking, monkeypatch
) -> None:
    leave(core, said := feedback(1, "teapot"))
    inbox.drain()
    core.add(encoded(11), "teapot", dataset=DATASET)

    def away(key: str) -> None:
        raise UnavailableError("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(core.store, "delete", away)
        with pytest.raises(UnavailableError):
            retaking.retry(said.header.id)
    assert refusal(core, said) == "unknown_class"
    assert retaking.retry(said.header.id) == "repeated"
    assert len(events_of(core, 1)) == 2


def test_what_is_thrown_away_is_never_left_in_the_list_without_its_content(
    core, inbox, monkeypatch
) -> None:
    leave(core, said := feedback(1, "teapot"))
    inbox.drain()
    delete, deleted = core.store.delete, []

    def breaks_off(key: str) -> None:
        if deleted:
            raise UnavailableError("the store is away")
        deleted.append(key)
        delete(key)

    with monkeypatch.context() as patch:
        patch.setattr(core.store, "delete", breaks_off)
        with pytest.raises(UnavailableError):
            refused_feedback.remove(core.store, said.header.id)
    assert listed(core) == []
    refused_feedback.remove(core.store, said.header.id)
    assert list(core.store.list(REFUSED)) == []


def test_what_is_taken_while_a_page_is_read_does_not_end_the_list(core, inbox, monkeypatch) -> None:
    leave(core, *(feedback(number, "teapot") for number in range(3)))
    inbox.drain()
    first, second, third = (one.name for one in listed(core))
    get = core.store.get

    def gone(key: str) -> StoredObject:
        if key == f"{REFUSED}{second}.json":
            raise NotFoundError("taken by another replica")
        return get(key)

    with monkeypatch.context() as patch:
        patch.setattr(core.store, "get", gone)
        found, following = refused_feedback.page(core.store, limit=2)
    assert ([one.name for one in found], following) == ([first], second)
    found, following = refused_feedback.page(core.store, after=following, limit=2)
    assert ([one.name for one in found], following) == ([third], "")


def test_what_is_no_feedback_by_its_name_is_listed_and_thrown_away_as_well(core, inbox) -> None:
    core.store.put(f"{FOLDER}notes.v1.txt", b"left by hand")
    inbox.drain()
    assert [(one.name, one.reason) for one in listed(core)] == [("notes.v1.txt", "corrupt")]
    refused_feedback.remove(core.store, "notes.v1.txt")
    assert listed(core) == []


@pytest.mark.parametrize("name", ["..", "a/b", "%2e", "", "x" * 300])
def test_only_names_of_feedback_lead_to_feedback(core, inbox, retaking, name: str) -> None:
    with pytest.raises(NotFoundError):
        retaking.retry(name)
    with pytest.raises(NotFoundError):
        refused_feedback.remove(core.store, name)


def refused_by_reason(reason: str) -> float:
    found = values()[metrics.FEEDBACK_REFUSED.metric.name]
    return found.get((reason,), [0.0])[0]


def test_an_unknown_version_or_dataset_is_refused(core, inbox) -> None:
    core.store.put("models/cells/versions/2/claim.json", b"{}")  # claimed, never published
    leave(core, unpublished := feedback(3, "cat", version=2))
    inbox.drain()
    assert refusal(core, unpublished) == "unknown_model"
    publish_bundle(ModelRepository(core.store), "elsewhere", golden=4, before_ready=1)
    effect = FeedbackEffect(core.database, core.store, core.ingest)
    bundle = effect._models.read("elsewhere", 1)
    effect._models = _OneBundle(
        bundle.model_copy(
            update={"provenance": bundle.provenance.model_copy(update={"dataset": "gone"})}
        )
    )
    leave(core, homeless := feedback(3, "cat", model="elsewhere"))
    FeedbackInbox(core.store, effect).drain()
    assert refusal(core, homeless) == "unknown_dataset"


class _OneBundle:
    def __init__(self, bundle) -> None:
        self._bundle = bundle

    def read(self, model: str, version: int):
        return self._bundle


def test_a_uuid_that_means_something_else_already_is_refused(core, inbox) -> None:
    first = feedback(0, "cat")
    leave(core, first)
    inbox.drain()
    leave(core, again := feedback(1, "coffee", id=first.header.id))
    inbox.drain()
    assert refusal(core, again) == "conflict"
    assert len(events_of(core, 0)) == 2


def test_the_same_feedback_again_changes_nothing(core, inbox) -> None:
    said = feedback(4, "cat")
    for _ in range(3):
        leave(core, said)
        inbox.drain()
    assert len(events_of(core, 4)) == 1
    assert waiting(core) == []


def test_an_image_that_is_on_its_way_is_waited_for(core, inbox, monkeypatch) -> None:
    leave(core, feedback(6, "cat", inline=False), feedback(0, "cat"))
    inbox.drain()
    assert len(waiting(core)) == 1, "the other one did not wait"
    core.add(encoded(6), dataset=DATASET)
    inbox.drain()
    assert len(waiting(core)) == 1, "it is not asked for all the time"
    monkeypatch.setattr(module.time, "monotonic", lambda: 1e9)
    inbox.drain()
    assert waiting(core) == []
    assert core.labels(DATASET)[sha256_of(6)].class_key == "cat"


def test_more_than_a_turn_takes_is_said(core, inbox, monkeypatch) -> None:
    monkeypatch.setattr(module, "GROUP", 2)
    leave(core, *(feedback(number, "cat") for number in range(3)))
    assert inbox.drain() is True
    assert inbox.drain() is False
    assert waiting(core) == []


def test_a_store_that_fails_midway_loses_nothing(core, inbox, monkeypatch) -> None:
    leave(core, feedback(4, "cat"))

    def away(key: str) -> None:
        raise UnavailableError("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(core.store, "delete", away)
        with pytest.raises(UnavailableError):
            inbox.drain()
    assert len(waiting(core)) == 1
    inbox.drain()
    assert waiting(core) == []
    assert len(events_of(core, 4)) == 1


def test_a_fault_of_ours_leaves_one_and_takes_the_others(core, inbox, monkeypatch, caplog) -> None:
    unlucky = feedback(4, "cat", note="unlucky")
    leave(core, unlucky, feedback(5, "cat"))
    statement = feedback_effect._statement

    def stumbles(one: Feedback, shown):
        if one.header.note == "unlucky":
            raise ZeroDivisionError
        return statement(one, shown)

    monkeypatch.setattr(feedback_effect, "_statement", stumbles)
    inbox.drain()
    assert waiting(core) == [feedback_key(unlucky.header.id)]
    assert len(events_of(core, 5)) == 1
    assert "could not be taken" in caplog.text

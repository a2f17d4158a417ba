"""Feedback objects: the format, and writing them once, in both kinds of store."""

import hashlib
import json
import uuid
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visionloop.errors import (
    ConflictError,
    CorruptError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
)
from visionloop.feedback import (
    FOLDER,
    LARGEST_HEADER,
    LONGEST_CLASS_ID,
    LONGEST_NOTE,
    MOST_CLASS_IDS,
    Feedback,
    FeedbackHeader,
    FeedbackImage,
    check_id,
    feedback_key,
    parse_feedback,
    store_feedback,
)
from visionloop.objectstore import ObjectStore
from visionloop.prediction_id import PredictionId
from visionloop.record import Record

IMAGE = b"\xff\xd8 not a whole image, but bytes \n with line ends \n"


def feedback(
    image: bytes | None = IMAGE, *, feedback_id: str | None = None, note: str = "", hour: int = 1
) -> Feedback:
    digest = hashlib.sha256(image or IMAGE).hexdigest()
    header = FeedbackHeader(
        id=feedback_id or str(uuid.uuid4()),
        prediction_id=str(PredictionId.new("cells", 7, digest)),
        verdict="class",
        class_id="cat",
        image=FeedbackImage(sha256=digest, size=len(image) if image else None, inline=bool(image)),
        note=note,
        caller="line-3",
        received=datetime(2026, 1, 1, hour, tzinfo=UTC),
    )
    return Feedback(header, image)


def of_several(written: Feedback, *class_ids: str) -> Feedback:
    """The same, of a model of any number of classes."""
    fields = written.header.model_dump(exclude={"verdict", "class_id"})
    header = FeedbackHeader(**fields, verdict="classes", class_ids=class_ids)
    return Feedback(header, written.image)


def altered(record: Record, **changes: object) -> dict[str, object]:
    return {**json.loads(record.model_dump_json()), **changes}


@given(image=st.none() | st.binary(min_size=1), note=st.text(max_size=LONGEST_NOTE))
def test_what_is_written_is_read(image: bytes | None, note: str) -> None:
    written = feedback(image, note=note)
    data = written.to_bytes()
    assert parse_feedback(data, "x") == written
    assert json.loads(data.partition(b"\n")[0])["note"] == note


@pytest.mark.parametrize("class_ids", [(), ("cat",), ("rocket", "cat")])
def test_all_that_an_image_shows_is_written_and_read(class_ids: tuple[str, ...]) -> None:
    one = feedback()
    several = of_several(one, *class_ids)
    assert parse_feedback(several.to_bytes(), "x") == several
    assert several.header.shown == class_ids
    assert one.header.shown == ("cat",)
    assert b"class_ids" not in one.to_bytes(), "readers from before know no such field"
    assert not several.same_as(one)


def test_the_longest_header_fits() -> None:
    names = [f"{n:02}" + "\x00" * (LONGEST_CLASS_ID - 2) for n in range(MOST_CLASS_IDS)]
    written = of_several(feedback(None, note="\x00" * LONGEST_NOTE), *names)
    assert len(written.to_bytes()) < LARGEST_HEADER
    assert parse_feedback(written.to_bytes(), "x") == written


def test_torn_and_altered_objects_are_refused() -> None:
    data = feedback().to_bytes()
    changed = bytearray(data)
    changed[-1] ^= 1
    for wrong, said in (
        (b"", "does not begin with a line of JSON"),
        (data[:50], "does not begin with a line of JSON"),
        (b"x" * (LARGEST_HEADER + 1) + b"\n", "does not begin with a line of JSON"),
        (data[:-1], "bytes follow its header"),
        (data + b"x", "bytes follow its header"),
        (bytes(changed), "does not agree with the sha256"),
        (b"[]\n", "torn or not ours"),
        (b'{"kind": "other"}\n', "torn or not ours"),
        (b"[" * 100_000 + b"\n", "torn or not ours"),  # deeper than a parser may call itself
    ):
        with pytest.raises(CorruptError, match=said):
            parse_feedback(wrong, "inbox/feedback/x")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format_version": 2}, "format version 2, this program knows 1"),
        ({"kind": "visionloop.other"}, "kind"),
        ({"verdict": "wrong"}, "class_id belongs to the verdict class"),
        ({"class_id": None}, "class_id belongs to the verdict class"),
        ({"prediction_id": "../../etc"}, "prediction_id"),
        ({"id": "../../etc"}, "must be a UUID"),
        ({"unknown": 1}, "unknown"),
        ({"received": "2026-01-01T10:00:00"}, "received"),  # of which place?
        ({"image": {"sha256": "a" * 64, "inline": True}}, "size is that of the bytes"),
    ],
)
def test_headers_that_are_not_understood_are_refused(changes: dict[str, object], said: str) -> None:
    line = json.dumps(altered(feedback().header, **changes)).encode()
    with pytest.raises(CorruptError, match=said):
        parse_feedback(line + b"\n" + IMAGE, "inbox/feedback/x")


def test_it_is_stored_once(store: ObjectStore) -> None:
    first = feedback(hour=1)
    assert store_feedback(store, first)
    again = Feedback(
        FeedbackHeader(**altered(first.header, received=datetime(2026, 1, 2, tzinfo=UTC))), IMAGE
    )
    assert not store_feedback(store, again)
    key = f"{FOLDER}{first.header.id}"
    assert parse_feedback(store.get(key).data, key) == first
    other = feedback(feedback_id=first.header.id, note="another")
    with pytest.raises(ConflictError, match="sent before with other content"):
        store_feedback(store, other)
    assert parse_feedback(store.get(key).data, key) == first
    assert [stat.key for stat in store.list(FOLDER)] == [key]


def test_the_same_header_with_another_image_is_other_content(store: ObjectStore) -> None:
    first = feedback(b"a")
    store_feedback(store, first)
    with pytest.raises(ConflictError):
        store_feedback(store, feedback(b"b", feedback_id=first.header.id))


class DrainedMeanwhile:
    """A store whose inbox is drained between the write that is refused and the look."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def put_if_absent(self, key: str, data: bytes) -> str:
        return self._store.put_if_absent(key, data)

    def get(self, key: str):
        self._store.delete(key)
        return self._store.get(key)


def test_a_drain_in_between_loses_nothing(file_store: ObjectStore) -> None:
    first = feedback()
    store_feedback(file_store, first)
    assert store_feedback(DrainedMeanwhile(file_store), first)  # type: ignore[arg-type]
    assert file_store.get(feedback_key(first.header.id)).data == first.to_bytes()


class Contradicting(DrainedMeanwhile):
    """A store that has an object for whoever writes it and none for whoever reads it."""

    url = "s3://odd"

    def put_if_absent(self, key: str, data: bytes) -> str:
        raise ConflictError("exists already")


def test_a_store_that_contradicts_itself_is_not_asked_for_ever(file_store: ObjectStore) -> None:
    with pytest.raises(UnavailableError, match=r"s3://odd/inbox/feedback/.* not there to whoever"):
        store_feedback(Contradicting(file_store), feedback())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    ["", "x", "../up", "123E4567-E89B-42D3-A456-426614174000", "123e4567e89b42d3a456426614174000"],
)
def test_ids_are_uuids_in_their_usual_form(text: str) -> None:
    with pytest.raises(InvalidInputError, match="must be a UUID"):
        check_id(text)
    with pytest.raises(InvalidInputError):
        feedback_key(text)


def test_nothing_is_there_before(store: ObjectStore) -> None:
    with pytest.raises(NotFoundError):
        store.get(feedback_key(str(uuid.uuid4())))

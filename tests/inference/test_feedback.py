"""SubmitFeedback: what is checked, what is stored, and a store that is away."""

import asyncio
import hashlib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.bundles import build_bundle, encoded

from visionloop.bundle import Bundle, BundleLabel, ClassificationBundle
from visionloop.errors import (
    ConflictError,
    ImageError,
    InvalidInputError,
    OverloadedError,
    PermissionDeniedError,
    UnavailableError,
)
from visionloop.feedback import FOLDER, parse_feedback
from visionloop.images import Limits
from visionloop.objectstore import ObjectStore, open_store
from visionloop.prediction_id import PredictionId
from visionloop.proto.v1 import recognition_pb2 as pb
from visionloop_inference import feedback as module
from visionloop_inference.feedback import FeedbackInbox, FindBundles

PICTURE = encoded(1)


def request(**changes: Any) -> pb.SubmitFeedbackRequest:
    digest = hashlib.sha256(PICTURE).hexdigest()
    fields: dict[str, Any] = {
        "id": str(uuid.uuid4()),
        "prediction_id": str(PredictionId.new("cells", 1, digest)),
        "class_id": "cat",
        "image": PICTURE,
        **changes,
    }
    return pb.SubmitFeedbackRequest(**{k: v for k, v in fields.items() if v is not None})


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return build_bundle(tmp_path_factory.mktemp("bundle"), golden=4)


@pytest.fixture
def find(bundle: Bundle) -> FindBundles:
    return lambda model: {1: bundle} if model == "cells" else {}


@pytest.fixture
def inbox(store_url: str, find: FindBundles) -> Iterator[FeedbackInbox]:
    inbox = FeedbackInbox(store_url, find)
    yield inbox
    inbox.close()


def submit(inbox: FeedbackInbox, sent: pb.SubmitFeedbackRequest, caller: str = "") -> bool:
    answer = asyncio.run(inbox.submit(sent, caller))
    assert answer.id == sent.id
    return answer.created


def test_it_is_in_the_store_when_it_is_acknowledged(inbox: FeedbackInbox, store_url: str) -> None:
    sent = request(note="a scratch, not a crack")
    assert submit(inbox, sent, "line-3")
    store = open_store(store_url)
    (stat,) = store.list(FOLDER)
    assert stat.key == f"{FOLDER}{sent.id}"
    found = parse_feedback(store.get(stat.key).data, stat.key)
    assert found.image == PICTURE
    assert found.header.verdict == "class"
    assert found.header.class_id == "cat"
    assert found.header.note == "a scratch, not a crack"
    assert found.header.caller == "line-3"
    assert str(found.prediction) == sent.prediction_id
    assert not submit(inbox, sent, "line-3")
    sent.note = "another"
    with pytest.raises(ConflictError):
        submit(inbox, sent, "line-3")


def test_a_class_that_is_newer_than_the_version_is_stored_and_named(
    inbox: FeedbackInbox, store_url: str
) -> None:
    """The dataset may have it: nothing else would bring such corrections into the next training."""
    sent = request(class_id="wolf_2-b")
    answers = [asyncio.run(inbox.submit(sent, "")) for _ in range(2)]
    assert [answer.created for answer in answers] == [True, False]
    assert [list(answer.unknown_class_ids) for answer in answers] == [["wolf_2-b"]] * 2
    (stat,) = open_store(store_url).list(FOLDER)
    found = parse_feedback(open_store(store_url).get(stat.key).data, stat.key)
    assert (found.header.verdict, found.header.class_id) == ("class", "wolf_2-b")


def test_a_class_that_another_loaded_version_knows_is_no_unknown_one(
    file_store: ObjectStore, bundle: Bundle
) -> None:
    assert isinstance(bundle, ClassificationBundle)
    label = BundleLabel(id="wolf", name="Wolf")
    newer = bundle.model_copy(update={"version": 2, "labels": [*bundle.labels, label]})
    inbox = FeedbackInbox(file_store.url, lambda _: {1: bundle, 2: newer})
    for class_id, unknown in (("wolf", []), ("wolve", ["wolve"])):
        answer = asyncio.run(inbox.submit(request(class_id=class_id), ""))
        assert list(answer.unknown_class_ids) == unknown


def test_wrong_without_a_class_and_an_image_by_digest(inbox: FeedbackInbox, store_url: str) -> None:
    digest = hashlib.sha256(PICTURE).hexdigest()
    sent = request(class_id=None, wrong=True, image=None, image_sha256=digest)
    assert submit(inbox, sent)
    (stat,) = open_store(store_url).list(FOLDER)
    found = parse_feedback(open_store(store_url).get(stat.key).data, stat.key)
    assert (found.header.verdict, found.header.class_id, found.image) == ("wrong", None, None)
    assert found.header.image.sha256 == digest


def test_a_version_that_is_not_loaded_is_taken_unchecked(
    inbox: FeedbackInbox, store_url: str
) -> None:
    old = str(PredictionId.new("cells", 99, hashlib.sha256(PICTURE).hexdigest()))
    assert submit(inbox, request(prediction_id=old, class_id="a-class-of-old"))
    for class_ids in (["one", "another"], []):
        several = {"class_id": None, "classes": {"class_ids": class_ids}}
        sent = request(prediction_id=old, **several)
        assert submit(inbox, sent)
        key = f"{FOLDER}{sent.id}"
        header = parse_feedback(open_store(store_url).get(key).data, key).header
        assert (header.verdict, header.class_ids) == ("classes", tuple(class_ids))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"id": "1"}, "id is '1'; it must be a UUID"),
        ({"prediction_id": "cells:1"}, "prediction_id is 'cells:1'"),
        ({"class_id": None, "classes": {"class_ids": ["cat"]}}, "gives an image one class"),
        ({"class_id": None, "classes": {"class_ids": ["a", "a"]}}, "classes holds 'a' twice"),
        ({"class_id": None, "classes": {"class_ids": ["a", ""]}}, "classes has 0 characters"),
        (
            {"class_id": None, "classes": {"class_ids": [str(n) for n in range(65)]}},
            "classes holds 65 classes; the limit is 64",
        ),
        ({"class_id": None}, "class_id .* or wrong = true is needed"),
        ({"class_id": None, "wrong": False}, "class_id .* or wrong = true is needed"),
        ({"class_id": ""}, "class_id has 0 characters"),
        ({"class_id": "x" * 201}, "class_id has 201 characters"),
        (
            {"class_id": "Cat"},
            r"'Cat' is no class of model 'cells', nor .* Version 1 knows: .*cat \(Cat\), ",
        ),
        ({"class_id": "x" * 81}, "nor the id of one that its dataset may have got since"),
        ({"note": "x" * 2001}, "note has 2001 characters; the limit is 2000"),
        ({"image": None}, "image or image_sha256 is needed"),
        ({"image": None, "image_sha256": "A" * 64}, "must be 64 lower-case hex"),
        ({"image": None, "image_sha256": "a" * 64}, "image_sha256 has the sha256 aaaa"),
        ({"image": encoded(2)}, "send the very bytes that were predicted"),
    ],
)
def test_what_cannot_be_is_refused(
    file_store: ObjectStore,
    find: FindBundles,
    changes: dict[str, Any],
    said: str,
) -> None:
    inbox = FeedbackInbox(file_store.url, find)
    with pytest.raises(InvalidInputError, match=said):
        submit(inbox, request(**changes))
    assert not list(file_store.list(FOLDER))


def test_images_are_checked_like_those_to_recognise(
    file_store: ObjectStore, find: FindBundles
) -> None:
    inbox = FeedbackInbox(file_store.url, find, limits=Limits(max_bytes=len(PICTURE) - 1))
    for sent, reason in ((request(), "too_many_bytes"), (request(image=b"GIF89a"), "truncated")):
        with pytest.raises(ImageError) as caught:
            submit(inbox, sent)
        assert caught.value.reason == reason, caught.value


def test_a_store_that_is_away_is_told_without_its_words(
    tmp_path: Path, find: FindBundles, caplog: pytest.LogCaptureFixture
) -> None:
    away = True

    def opened(url: str) -> ObjectStore:
        if away:
            raise PermissionDeniedError("the key AKIAXYZ has no right to s3://private")
        return open_store(url)

    inbox = FeedbackInbox(f"file://{tmp_path}/store", find, open_store=opened)
    with pytest.raises(UnavailableError, match="send it again later") as caught:
        submit(inbox, request())
    assert "AKIA" not in str(caught.value)
    assert "AKIAXYZ" in caplog.text  # the operator sees why
    away = False
    assert submit(inbox, request())  # by itself


@pytest.mark.s3
def test_an_s3_server_that_nobody_reaches(
    s3_url: str, monkeypatch: pytest.MonkeyPatch, find: FindBundles
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(UnavailableError):
        submit(FeedbackInbox(s3_url, find), request())


def test_many_at_once_are_bounded(
    file_store: ObjectStore,
    find: FindBundles,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MOST_UNDER_WAY", 3)
    inbox = FeedbackInbox(file_store.url, find)

    async def flood() -> list[object]:
        calls = [inbox.submit(request(), "") for _ in range(10)]
        return await asyncio.gather(*calls, return_exceptions=True)

    answers = asyncio.run(flood())
    refused = [answer for answer in answers if isinstance(answer, OverloadedError)]
    assert len(refused) == 7
    assert len(list(file_store.list(FOLDER))) == 3
    assert submit(inbox, request())  # the room is given back


@pytest.mark.parametrize(("most", "taken"), [(2 * len(PICTURE), 2), (len(PICTURE) - 1, 1)])
def test_so_are_their_bytes(
    file_store: ObjectStore,
    find: FindBundles,
    monkeypatch: pytest.MonkeyPatch,
    most: int,
    taken: int,
) -> None:
    """One alone is taken whatever it has."""
    monkeypatch.setattr(module, "MOST_BYTES", most)
    inbox = FeedbackInbox(file_store.url, find)

    async def flood() -> list[object]:
        calls = [inbox.submit(request(), "") for _ in range(5)]
        return await asyncio.gather(*calls, return_exceptions=True)

    answers = asyncio.run(flood())
    assert len([one for one in answers if isinstance(one, OverloadedError)]) == 5 - taken
    assert len(list(file_store.list(FOLDER))) == taken
    assert submit(inbox, request())

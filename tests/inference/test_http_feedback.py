"""POST /v1/feedback: what an app says by HTTP is in the store's inbox as by gRPC."""

import hashlib
import json
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.bundles import LABELS, encoded, publish_bundle
from support.inference_server import Server, running_server

from visionloop.feedback import FOLDER, Feedback, parse_feedback
from visionloop.objectstore import ObjectStore, open_store
from visionloop.prediction_id import PredictionId
from visionloop.repository import ModelRepository
from visionloop_inference.http_feedback import PATH, HttpFeedback
from visionloop_inference.http_front_end import MESSAGE_ROOM
from visionloop_inference.http_message import MAX_HEAD, Head

APP = {"authorization": "Bearer token-of-the-app-1"}
READER = {"authorization": "Bearer token-of-the-reader-1"}
TOKENS = """
- {name: app, token: token-of-the-app-1, scopes: [infer, feedback]}
- {name: reader, token: token-of-the-reader-1, scopes: [infer]}
"""
IMAGE = encoded(3)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ObjectStore:
    store = open_store(f"file://{tmp_path_factory.mktemp('store')}")
    publish_bundle(ModelRepository(store), "cells", seed=1, promote=True)
    return store


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, store: ObjectStore) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("feedback")
    (folder / "tokens.yaml").write_text(TOKENS)
    with running_server(folder, store.url, f"--tokens={folder}/tokens.yaml") as running:
        yield running.ready()


@pytest.fixture(scope="module")
def prediction(server: Server) -> str:
    """The id of a prediction of IMAGE, made over HTTP."""
    answer = httpx.post(
        f"http://{server.address('http')}/v1/recognize", content=IMAGE, headers=APP, timeout=30
    )
    made: str = answer.json()["results"][0]["prediction_id"]
    return made


def send(
    server: Server, body: bytes | None, headers: dict[str, str] = APP, **query: str
) -> httpx.Response:
    url = f"http://{server.address('http')}/v1/feedback"
    return httpx.post(url, content=body, params=query, headers=headers, timeout=30)


def stored(store: ObjectStore, answer: httpx.Response) -> Feedback:
    assert answer.status_code == 200, answer.text
    key = f"{FOLDER}{answer.json()['id']}"
    return parse_feedback(store.get(key).data, key)


def test_the_image_is_the_body_and_the_query_says_what_it_shows(
    server: Server, store: ObjectStore, prediction: str
) -> None:
    said = {"prediction_id": prediction, "class_id": LABELS[1], "note": "kein Riß, Schmutz"}
    ident = str(uuid.uuid4())
    answer = send(server, IMAGE, id=ident.upper(), **said)
    assert answer.json() == {"id": ident, "created": True, "unknown_class_ids": []}
    found = stored(store, answer)
    assert found.image == IMAGE
    assert (found.header.prediction_id, found.header.class_id) == (prediction, LABELS[1])
    assert (found.header.note, found.header.caller) == (said["note"], "app")
    assert send(server, IMAGE, id=ident, **said).json()["created"] is False
    other = send(server, IMAGE, id=ident, prediction_id=prediction, wrong="true")
    assert (other.status_code, other.json()["error"]["code"]) == (409, "ABORTED")


def test_a_class_that_no_version_knows_is_stored_and_named(
    server: Server, store: ObjectStore, prediction: str
) -> None:
    answer = send(server, IMAGE, prediction_id=prediction, class_id="dog-like")
    assert stored(store, answer).header.class_id == "dog-like"
    assert answer.json()["unknown_class_ids"] == ["dog-like"]


def test_without_an_id_one_is_made(server: Server, store: ObjectStore, prediction: str) -> None:
    answers = [send(server, IMAGE, prediction_id=prediction, wrong="true") for _ in range(2)]
    assert [stored(store, answer).header.verdict for answer in answers] == ["wrong", "wrong"]
    assert answers[0].json()["id"] != answers[1].json()["id"]


def test_an_image_by_its_digest_needs_no_body(
    server: Server, store: ObjectStore, prediction: str
) -> None:
    digest = hashlib.sha256(IMAGE).hexdigest()
    said = {"prediction_id": prediction, "class_id": LABELS[0], "image_sha256": digest}
    for body in (None, b""):
        header = stored(store, send(server, body, **said)).header
        assert (header.image.sha256, header.image.inline) == (digest, False)
    assert "give one of them" in send(server, IMAGE, **said).json()["error"]["message"]


def test_several_classes_come_as_a_list(server: Server, store: ObjectStore) -> None:
    """Of a version that is not loaded: whoever drains the inbox checks them."""
    old = str(PredictionId.new("panels", 9, hashlib.sha256(IMAGE).hexdigest()))
    for text, ids in (("crack,dirt", ("crack", "dirt")), ("", ())):
        found = stored(store, send(server, IMAGE, prediction_id=old, class_ids=text))
        assert (found.header.verdict, found.header.class_ids) == ("classes", ids)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"prediction_id": None}, "prediction_id is needed: it stands in the answer"),
        ({"prediction_id": "7"}, "prediction_id is '7'"),
        ({"class_id": None}, "say one of class_id=ID"),
        ({"wrong": "true"}, "say one of class_id=ID"),
        ({"class_id": None, "wrong": "yes"}, "wrong is 'yes'; it is true, or left out"),
        ({"class_id": "dog-like!"}, "is no class of model 'cells', nor the id of one that"),
        ({"id": "1"}, "id is '1'; it must be a UUID"),
        ({"class": "cat"}, "the query has 'class'; there are prediction_id, class_id"),
        ({"timeout": "0"}, "timeout is '0'"),
    ],
)
def test_what_is_wrong_is_said(
    server: Server, prediction: str, query: dict[str, Any], said: str
) -> None:
    whole = {"prediction_id": prediction, "class_id": LABELS[0], **query}
    answer = send(server, IMAGE, **{k: v for k, v in whole.items() if v is not None})
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]


def test_only_the_image_that_was_predicted(server: Server, prediction: str) -> None:
    said = {"prediction_id": prediction, "class_id": LABELS[0]}
    other = send(server, encoded(4), **said)
    assert (other.status_code, other.json()["error"]["code"]) == (400, "INVALID_ARGUMENT")
    assert "send the very bytes that were predicted" in other.json()["error"]["message"]
    assert "is empty" in send(server, b"", **said).json()["error"]["message"]
    form = {**APP, "content-type": "multipart/form-data; boundary=x"}
    assert send(server, IMAGE, form, **said).status_code == 415


def test_it_needs_the_scope_feedback(server: Server, prediction: str) -> None:
    said = {"prediction_id": prediction, "class_id": LABELS[0]}
    assert send(server, IMAGE, {}, **said).status_code == 401
    refused = send(server, IMAGE, READER, **said)
    assert refused.status_code == 403
    assert "needs the scope feedback" in refused.json()["error"]["message"]


def test_curl_as_the_documentation_says(server: Server, prediction: str, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl here")
    (tmp_path / "cell.jpg").write_bytes(IMAGE)
    url = f"http://{server.address('http')}/v1/feedback?prediction_id={prediction}"
    done = subprocess.run(
        ["curl", "--silent", "--show-error", "--fail-with-body", "--data-binary",
         f"@{tmp_path}/cell.jpg", "--header", f"Authorization: {APP['authorization']}",
         f"{url}&class_id={LABELS[1]}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["created"] is True


@pytest.mark.parametrize("id_", ["", "a"])
def test_what_a_head_can_say_has_room_beside_the_image(id_: str) -> None:
    """Else the largest body that is taken would make a message that grpc refuses."""
    before, after = "POST /v1/feedback?prediction_id=p&class_ids=", " HTTP/1.1\r\n\r\n"
    said = f"{id_}," * ((MAX_HEAD - len(before + after)) // len(f"{id_},"))
    call = HttpFeedback(Head("POST", PATH, {"prediction_id": "p", "class_ids": said}, {}))
    image = 8  # the image's tag and length
    assert call._request.ByteSize() + image <= MESSAGE_ROOM

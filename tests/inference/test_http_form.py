"""POST /v1/recognize with several images in a form, by the clients that people use and by bytes."""

import asyncio
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bundles import encoded
from support.inference_server import Server

from visionloop.proto.v1 import recognition_pb2 as pb
from visionloop_inference.http_form import MAX_FILES, MAX_PART_HEAD, PIECE, boundary_of, files
from visionloop_inference.http_front_end import json_reply
from visionloop_inference.http_message import Head, HttpError, Reply
from visionloop_inference.http_recognition import HttpRecognition

HEAD = b'Content-Disposition: form-data; name="file"; filename="%b"'


def form(*parts: tuple[bytes, bytes], boundary: bytes = b"B") -> bytes:
    """A body of these (head, content)."""
    pieces = [b"--%b\r\n%b\r\n\r\n%b\r\n" % (boundary, head, content) for head, content in parts]
    return b"".join(pieces) + b"--%b--\r\n" % boundary


def read(body: bytes) -> list[tuple[bytes, str]]:
    return [(bytes(content), name) for content, name in files(body, b"B")]


def kind(value: str) -> bytes | None:
    return boundary_of(Head("POST", "/", {}, {"content-type": value}))


def post(server: Server, images: list[tuple[str, bytes]], query: str = "") -> httpx.Response:
    url = f"http://{server.address('http')}/v1/recognize{query}"
    return httpx.post(url, files=[("file", image) for image in images], timeout=30)


def test_each_image_has_its_answer_or_its_status(server: Server) -> None:
    sent = [("a.jpg", encoded(1)), ("notes.jpg", b"no image"), ("ü b.jpg", encoded(2))]
    answer = post(server, sent, "?top_k=2")
    assert answer.status_code == 200
    told = answer.json()["results"]
    assert [one["image_id"] for one in told] == ["a.jpg", "notes.jpg", "ü b.jpg"]
    assert [one["status"]["code"] for one in told] == [0, 3, 0]
    assert told[1]["status"]["reason"] == "not_an_image"
    url = f"http://{server.address('http')}/v1/recognize?top_k=2"
    for result, (_, image) in zip(told, sent, strict=True):
        if image != b"no image":
            [alone] = httpx.post(url, content=image, timeout=30).json()["results"]
            assert result["classification"] == alone["classification"]
            assert list(result) == list(alone)


def test_curl_as_the_documentation_says(server: Server, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl here")
    names = ["a.jpg", 'b "2".jpg']
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(encoded(number))
    sent = [f'file=@"{name}"'.replace(' "2"', r" \"2\"") for name in names]
    url = f"http://{server.address('http')}/v1/recognize?top_k=1"
    done = subprocess.run(
        ["curl", "--silent", "--show-error", "--fail-with-body", "-F", sent[0], "-F", sent[1], url],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    told = json.loads(done.stdout)["results"]
    assert [one["image_id"].replace("%22", '"') for one in told] == names
    assert all(one["classification"]["labels"] for one in told)


def test_the_json_of_many_classes_holds_up_nobody() -> None:
    """Probes are answered by the same event loop."""
    response = pb.RecognizeResponse(model="m")
    for _ in range(16):
        labels = [pb.ScoredLabel(class_id=str(number)) for number in range(1000)]
        response.results.add().classification.labels.extend(labels)

    async def turns() -> tuple[int, Reply]:
        working = asyncio.ensure_future(json_reply(response))
        counted = 0
        while not working.done():
            counted += 1
            await asyncio.sleep(0)
        return counted, working.result()

    counted, reply = asyncio.run(turns())
    assert counted > 2  # one to begin and one to see that it is done
    assert len(json.loads(reply.body)["results"]) == 16


def test_a_form_of_many_parts_holds_up_nobody() -> None:
    """Neither: names that are long to read, in as many parts as may be."""
    body = form(*[(HEAD % (b"a" * (MAX_PART_HEAD - 100)), b"")] * MAX_FILES)
    head = Head("POST", "/", {}, {"content-type": "multipart/form-data; boundary=B"})
    asked: list[bytes] = []

    class Front:
        async def recognize(self, request: bytes, *_: object) -> pb.RecognizeResponse:
            asked.append(request)
            return pb.RecognizeResponse()

    async def turns() -> int:
        front: Any = Front()
        working = asyncio.ensure_future(HttpRecognition(head).answer(body, front, "peer"))
        counted = 0
        while not working.done():
            counted += 1
            await asyncio.sleep(0)
        await working
        return counted

    assert asyncio.run(turns()) > 2  # one to begin and one to see that it is done
    assert len(pb.RecognizeRequest.FromString(asked[0]).images) == MAX_FILES


@pytest.mark.parametrize("count", [0, 17])
def test_the_number_of_images_is_limited(server: Server, count: int) -> None:
    url = f"http://{server.address('http')}/v1/recognize"
    body = form(*[(HEAD % b"a.jpg", b"x")] * count)
    headers = {"content-type": "multipart/form-data; boundary=B"}
    answer = httpx.post(url, content=body, headers=headers, timeout=30)
    assert answer.status_code == 400
    told = answer.json()["error"]["message"]
    assert told == f"images: {count} given; send 1 to 16 in one request"


def test_a_part_that_is_no_file_is_told_where_it_belongs(server: Server) -> None:
    url = f"http://{server.address('http')}/v1/recognize"
    sent: dict[str, Any] = {"files": [("file", encoded(1))], "data": {"model": "cells"}}
    answer = httpx.post(url, timeout=30, **sent)
    assert answer.status_code == 400
    assert "has a field 'model'; every image is a field named 'file'" in answer.text


contents = st.binary(max_size=40).filter(lambda content: b"--B" not in content)
names = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=10)


@given(st.lists(st.tuples(contents, names), max_size=5))
def test_any_files_come_out_as_they_went_in(sent: list[tuple[bytes, str]]) -> None:
    parts = [
        (HEAD % name.replace("\\", "\\\\").replace('"', '\\"').encode(), content)
        for content, name in sent
    ]
    assert read(form(*parts)) == sent


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "does not begin with its boundary"),
        (b"preamble\r\n" + form((HEAD, b"x")), "does not begin with its boundary"),
        (form((HEAD, b"x")) + b"more", "follows the form's end"),
        (form((HEAD, b"x"))[:-6], "the boundary at its end is missing"),
        (form((HEAD, b"x"), boundary=b"BB"), "neither a line end nor --"),
        (b"--B \r\n", "neither a line end nor --"),
        (b"--B\r\nno end", "has no head"),
        (form((b"x: " + b"y" * MAX_PART_HEAD, b"")), f"more than {MAX_PART_HEAD} bytes"),
        (form((b"", b"x")), "no Content-Disposition"),
        (form((b"Content-Disposition: attachment; name=file", b"x")), "no Content-Disposition"),
        (form((b"Content-Disposition: form-data", b"x")), "no Content-Disposition"),
        (form((HEAD % b"a" + b"; name", b"x")), "no Content-Disposition"),
        (form((HEAD.replace(b'file"', b'image"', 1), b"x")), "has a field 'image'"),
        (form((HEAD + b"; name=x", b"x")), "Content-Disposition twice"),
        (form((HEAD + b"\r\n" + HEAD, b"x")), "or one twice"),
        (form((b"Content-Disposition: form-data;\r\n name=file", b"x")), "no header"),
        (b"--B\r\n" + HEAD % b"a" + b"\r\n" + form((b"X: y", b"x")), "no header"),
        (form((HEAD % b"\xff", b"x")), "not UTF-8"),
        (form((HEAD + b"\r\nContent-Transfer-Encoding: base64", b"x")), "is encoded"),
        (form(*[(HEAD, b"")] * (MAX_FILES + 1)), f"more than {MAX_FILES} files"),
    ],
)
def test_what_two_readers_could_understand_differently_is_refused(body: bytes, said: str) -> None:
    with pytest.raises(HttpError, match=said):
        files(body, b"B")


def test_a_large_form_is_searched_in_pieces() -> None:
    """Whoever searches holds the interpreter until the search is over."""
    searched: list[int] = []

    class Body(bytes):
        def find(self, wanted: Any, start: Any = 0, stop: Any = None) -> int:
            searched.append(len(self[start:stop]))
            return super().find(wanted, start, stop)

    for size in (*range(PIECE - 6, PIECE + 7), 3 * PIECE):  # also a boundary across two pieces
        content = b"\r\n--" + bytes(size - 4)
        found = files(Body(form((HEAD % b"a", content), (HEAD % b"b", b"x"))), b"B")
        assert [bytes(one) for one, _ in found] == [content, b"x"]
    assert max(searched) < PIECE + 70


def test_the_content_is_not_copied() -> None:
    body = form((HEAD, b"abc"), (HEAD, b""))
    assert [content.obj is body for content, _ in files(body, b"B")] == [True, True]


@pytest.mark.parametrize(
    ("value", "boundary"),
    [
        ("", None),
        ("image/jpeg", None),
        ("multipart/mixed; boundary=x", None),
        ("multipart/form-data; boundary=x", b"x"),
        ("Multipart/Form-Data;charset=utf-8; Boundary=x-1", b"x-1"),
        ('multipart/form-data; boundary="a b:c"', b"a b:c"),
    ],
)
def test_boundaries(value: str, boundary: bytes | None) -> None:
    assert kind(value) == boundary


@pytest.mark.parametrize("parameters", ["", "; boundary=", "; xboundary=x", '; boundary=""'])
def test_a_form_without_a_boundary_is_refused(parameters: str) -> None:
    with pytest.raises(HttpError, match="names no boundary"):
        kind(f"multipart/form-data{parameters}")

"""docs/apps.md: its programs run, and what it shows is what comes back."""

import csv
import json
import random
import re
import runpy
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.bundles import encoded
from support.documented_commands import ROOT, blocks
from support.inference_server import Server

from visionloop.client import Client, Recognition
from visionloop.errors import UnavailableError
from visionloop.recognition_stream import IMAGES

PAGE = ROOT / "docs" / "apps.md"
COUNT = 70


def shape(value: Any) -> Any:
    """The fields of some JSON, without what they hold."""
    if isinstance(value, dict):
        return {name: shape(one) for name, one in value.items()}
    if isinstance(value, list):
        return [shape(value[0])]
    return type(value)


def test_the_answers_that_it_shows_are_those_that_come(server: Server) -> None:
    url = f"http://{server.address('http')}/v1/recognize"
    recognized, refused, several, _ = [json.loads(one) for one in blocks(PAGE, "json")]
    answer = httpx.post(url, content=encoded(3), params={"model": "cells", "top_k": 2}, timeout=30)
    assert shape(answer.json()) == shape(recognized)
    assert httpx.post(url, content=b"some notes\n", timeout=30).json() == refused
    files = [("file", ("cell.jpg", encoded(3))), ("file", ("notes.txt", b"some notes\n"))]
    told = httpx.post(url, files=files, params={"model": "cells", "top_k": 1}, timeout=30).json()
    assert shape(told) == shape(several)
    assert told["results"][1] == several["results"][1]
    assert told["results"][0]["image_id"] == several["results"][0]["image_id"]


@pytest.fixture
def program(server: Server, tmp_path: Path) -> Path:
    """The program for many pictures, beside a folder of them."""
    found = re.search(r"<!-- many pictures -->\n```python\n(.*?)```", PAGE.read_text(), re.S)
    assert found
    code = found[1]
    for written, real in (
        ("127.0.0.1:8001", server.target),
        ('"products"', repr(str(tmp_path / "products"))),
        ('"answers.csv"', repr(str(tmp_path / "answers.csv"))),
    ):
        assert written in code
        code = code.replace(written, real)
    (tmp_path / "products" / "shelf").mkdir(parents=True)
    for number in range(COUNT):
        (tmp_path / "products" / "shelf" / f"{number:02}.jpg").write_bytes(encoded(number))
    (tmp_path / "products" / "shelf" / "10.jpg").write_bytes(b"no picture")
    path = tmp_path / "program.py"
    path.write_text(code)
    return path


def test_the_program_for_many_pictures_goes_on_where_the_connection_broke(
    program: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams: list[int] = []
    slept: list[float] = []
    whole = Client.recognize_stream

    def breaks(client: Client, images: list[Path], **options: Any) -> Iterator[Recognition]:
        streams.append(len(images))
        for number, result in enumerate(whole(client, images, **options)):
            if number == 25 and len(slept) < 2:
                raise UnavailableError("the connection broke", retry_after_seconds=0.5)
            yield result

    monkeypatch.setattr(Client, "recognize_stream", breaks)
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(random, "uniform", lambda least, most: least)
    runpy.run_path(str(program))
    alone = [1] * IMAGES  # after a break
    assert streams == [COUNT, *alone, COUNT - 25 - IMAGES, *alone, COUNT - 50 - 2 * IMAGES]
    assert slept == [0.5, 0.5]
    with (program.parent / "answers.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert [Path(row[0]).stem for row in rows] == [f"{number:02}" for number in range(COUNT)]
    assert [row[3] for row in rows if row[3]] == ["not_an_image"]
    monkeypatch.undo()
    with Client(server.target) as client:
        expected = [one.label for one in client.recognize_stream(map(encoded, range(COUNT)))]
    for number, (row, label) in enumerate(zip(rows, expected, strict=True)):
        assert label is not None
        assert number == 10 or row[1] == label.name

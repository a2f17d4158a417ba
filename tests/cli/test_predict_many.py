"""`visionloop predict --csv` of many images: rows as they come, as wide as the first answer."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from visionloop.cli.main import main
from visionloop.cli.prediction_table import table
from visionloop.client import IMAGES_PER_REQUEST, Client, Recognition, ScoredLabel
from visionloop.errors import ImageError, NotFoundError


def answer(*names: str, multi_label: bool = False) -> Recognition:
    labels = tuple(ScoredLabel(name, name, 0.5, present=multi_label or None) for name in names)
    return Recognition("", "cells", 1, labels, multi_label=multi_label)


def refused() -> Recognition:
    return Recognition("", "", 0, error=ImageError("no image", reason="not_an_image"))


def rows(results: Sequence[tuple[str, Recognition]], top_k: int) -> list[dict[str, str]]:
    text = "".join(line for line, _ in table(results, top_k))
    return list(csv.DictReader(io.StringIO(text)))


def test_the_first_answer_says_how_wide_the_table_is() -> None:
    several = answer("a", "b", "c", multi_label=True)
    told = rows([("1", refused()), ("2", several), ("3", answer("a")), ("4", refused())], 2)
    assert [row["image"] for row in told] == list("1234")
    assert [row["label_2"] for row in told] == ["", "b", "", ""]
    assert "label_3" not in told[0]
    assert told[1]["present"] == "a|b|c"
    assert [bool(row["error"]) for row in told] == [True, False, False, True]
    assert rows([("1", answer("a", "b", "c"))], 0)[0]["label_3"] == "c"
    [only] = rows([("1", refused())], 3)
    assert (only["label"], only["error"]) == ("", "no image")


def test_what_is_answered_is_not_lost_with_a_job_that_ends_in_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [str(tmp_path / f"{number}.jpg") for number in range(IMAGES_PER_REQUEST + 8)]
    for path in images:
        Path(path).write_bytes(b"x")

    def breaks(*_: object, **__: object) -> Iterator[Recognition]:
        for _ in range(25):
            yield answer("cat")
        raise NotFoundError("the model is gone")

    monkeypatch.setattr(Client, "recognize_stream", breaks)
    assert main(["predict", *images, "--csv", "--target", "127.0.0.1:9"]) == 66
    told = capsys.readouterr()
    assert len(list(csv.DictReader(io.StringIO(told.out)))) == 25
    assert "the model is gone" in told.err

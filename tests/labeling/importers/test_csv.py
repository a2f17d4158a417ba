"""What CSV tables become: a row an image, refused alone where its cells are wrong."""

from typing import Any

import pytest
from support.imports import drafts, picture, refusal, taken, zipped

from visionloop.errors import InvalidInputError
from visionloop_labeling.importers.entries import Entry, SourceError


def table(text: str, **said: Any) -> list[Entry | InvalidInputError]:
    files = {"set/t.csv": text.encode(), "set/1.png": picture(1), "set/b/2.png": picture(2)}
    return taken("csv", zipped(files), **said)


def test_a_row_brings_image_class_group_and_attributes() -> None:
    found = table(
        "path,label,site,line\n1.png,cat,x,3\nb/2.png,,y,\n",
        group_column="site",
        attribute_columns=("line",),
    )
    first, second = found
    assert isinstance(first, Entry)
    assert isinstance(second, Entry)
    assert (first.label, first.group, first.attributes) == ("cat", "x", {"line": "3"})
    assert (second.label, second.group, second.attributes) == (None, "y", {})
    assert (first.image, second.image) == (picture(1), picture(2))


def test_a_cell_may_hold_several_classes_and_a_text_mark() -> None:
    [entry] = table("path,label\n1.png,'=b; a;+c\n", label_separator=";")
    assert drafts([entry]) == [{"classes": ["=b", "a", "+c"]}]


def test_an_empty_cell_leaves_the_image_open_or_says_none_of_the_classes() -> None:
    rows = "path,label\n1.png,\nb/2.png,a\n"
    assert drafts(table(rows, label_separator=";")) == [None, {"classes": ["a"]}]
    found = table(rows, label_separator=";", unannotated="empty")
    assert drafts(found) == [{"classes": []}, {"classes": ["a"]}]


def test_a_digest_names_an_image_that_is_there() -> None:
    [entry] = taken("csv", f"sha256,label\n{'ab' * 32},cat\n".encode())
    assert isinstance(entry, Entry)
    assert (entry.sha256, entry.image, entry.label) == ("ab" * 32, b"", "cat")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("1.png,a,b", "line 3 has 3 cells and the header 2"),
        ("1.png", "line 3 has 1 cells"),
        (",a", "line 3 names no image"),
        ("nope.png,a", '"nope.png" is not in the archive'),
        ("../../etc/passwd,a", "is not in the archive"),
        ("http://127.0.0.1/x.png,a", "is not a public address"),
    ],
)
def test_a_wrong_row_is_refused_alone(row: str, words: str) -> None:
    found = table(f"path,label\n1.png,a\n{row}\nb/2.png,b\n")
    assert isinstance(found[0], Entry)
    assert words in str(refusal(found, 1))
    assert isinstance(found[2], Entry)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "has no column"),
        (b"path,label\n", "no rows"),
        (b"file,label\n1,a\n", "has no column path or url or sha256"),
        (b"path;label\n1;a\n", "semicolons"),
        (b"path,path\n1,a\n", "twice"),
        (b"path,label\n\xff\xfe,a\n", "not UTF-8"),
        ("path,label\n".encode("utf-16"), "UTF-16"),
        (b'path,label\n"1.png,a\n', "not a CSV table"),
        (b"path,label\n" + b"x" * 200_000, "a line has more than"),
    ],
)
def test_a_file_that_is_no_table_is_refused(text: bytes, words: str) -> None:
    with pytest.raises(SourceError, match=words):
        taken("csv", text)


def test_columns_of_numbers_are_soft_labels_and_weights() -> None:
    rows = "path,label,good,cracked,w\n1.png,,0.25,0.75,2\nb/2.png,good,0.5,0.5,\n1.png,good,,,\n"
    found = table(rows, probability_columns=("good", "cracked"), weight_column="w")
    assert drafts(found[:2]) == [
        {"probabilities": {"good": 0.25, "cracked": 0.75}, "weight": 2.0},
        {"classes": ["good"], "probabilities": {"good": 0.5, "cracked": 0.5}},
    ]
    assert isinstance(found[2], Entry)
    assert (found[2].label, found[2].annotation) == ("good", None)
    assert "no column w" in str(refusal_of_table("path,label\n1.png,a\n", weight_column="w"))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("b/2.png,,high,0.5,1", 'line 3 has "high" in the column "good", which is no number'),
        ("b/2.png,good,,,heavy", 'has "heavy" in the column "w"'),
        ("b/2.png,good,,,nan", "weight"),
        ("b/2.png,good,,,-1", "weight"),
        ("b/2.png,,1.5,,1", "probabilities.good"),
    ],
)
def test_a_number_that_is_none_costs_its_own_row_alone(row: str, words: str) -> None:
    text = f"path,label,good,cracked,w\n1.png,good,,,\n{row}\n"
    found = table(text, probability_columns=("good", "cracked"), weight_column="w")
    assert isinstance(found[0], Entry)
    assert words in str(refusal(found, 1))


def refusal_of_table(text: str, **said: Any) -> InvalidInputError:
    with pytest.raises(SourceError) as caught:
        table(text, **said)
    return caught.value

"""What YOLO archives become: boxes and polygons in pixels, and how their classes are named."""

import pytest
from support.imports import drafts, picture, refusal, taken, tarred, zipped

from visionloop_labeling.importers.entries import Entry, SourceError


def yolo(text: str, **files: bytes) -> bytes:
    return tarred(
        {
            "data.yaml": b"train: images/train\nnames: [dog, cat]\n",
            "images/train/a.png": picture(1),
            "labels/train/a.txt": text.encode(),
            **files,
        }
    )


def test_five_numbers_are_a_box_and_more_a_polygon() -> None:
    [draft] = drafts(taken("yolo", yolo("0 0.5 0.5 0.25 0.5\n\n1 0 0 1 0 1 1\n")))
    assert draft == {
        "boxes": [
            {"class_name": "dog", "x": 12.0, "y": 6.0, "width": 8.0, "height": 12.0,
             "attributes": {}}
        ],
        "shapes": [
            {"class_name": "cat", "kind": "polygon",
             "points": [[0.0, 0.0], [32.0, 0.0], [32.0, 24.0]]}
        ],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("2 0.5 0.5 0.1 0.1", 'labels/train/a.txt:2: class "2" has no name; the archive names'),
        ("dog 0.5 0.5 0.1 0.1", 'class "dog" has no name'),
        ("0 0.5 0.5 0.1", "labels/train/a.txt:2 has 3 numbers"),
        ("0 0.5 0.5 0.1 0.1 0.9", "labels/train/a.txt:2 has 5 numbers"),
        ("0 0.5 0.5 x 0.1", "labels/train/a.txt:2 is"),
        ("0 0.5 0.5 inf 0.1", "must be a number"),
        ("0 12 6 8 12", "labels/train/a.txt:2 reaches"),
    ],
)
def test_a_wrong_line_is_refused_with_its_place(line: str, words: str) -> None:
    found = refusal(taken("yolo", yolo(f"0 0.5 0.5 0.1 0.1\n{line}")))
    assert words in str(found)


@pytest.mark.parametrize("name", [".", "./.", "..", "/"])
def test_an_entry_without_a_usable_name_is_refused_alone(name: str) -> None:
    found = taken("yolo", yolo("0 0.5 0.5 0.1 0.1", **{name: b"x"}))
    assert isinstance(found[0], Entry)
    assert refusal(found, row=1).reason == "unsafe_name"


def test_images_without_a_file_wait_and_with_an_empty_one_show_nothing() -> None:
    data = yolo("", **{"images/train/b.png": picture(2)})
    assert drafts(taken("yolo", data)) == [{"boxes": []}, None]
    assert drafts(taken("yolo", data, unannotated="empty")) == [{"boxes": []}, {"boxes": []}]


@pytest.mark.parametrize(
    "naming",
    [
        {"classes.txt": b"dog\ncat\n"},
        {"obj.names": b"dog\r\ncat\r\n"},
        {"x/data.yml": b"names:\n  0: dog\n  1: cat\n"},
    ],
)
def test_classes_are_named_in_several_ways(naming: dict[str, bytes]) -> None:
    files = {"a.png": picture(1), "a.txt": b"1 0.5 0.5 1 1", **naming}
    [draft] = drafts(taken("yolo", zipped(files)))
    assert draft["boxes"][0]["class_name"] == "cat"


@pytest.mark.parametrize(
    ("naming", "words"),
    [
        ({}, "does not name its classes"),
        ({"data.yaml": b"names: {a: b}"}, "not the number of a class"),
        ({"data.yaml": b"names: ["}, "is not YAML"),
        ({"data.yaml": b"a: &a [1]\nb:\n  <<: *a\n"}, "merges"),
        ({"classes.txt": b"\xff\xfe"}, "not UTF-8"),
    ],
)
def test_an_archive_that_does_not_name_its_classes_is_refused(
    naming: dict[str, bytes], words: str
) -> None:
    with pytest.raises(SourceError, match=words):
        taken("yolo", zipped({"a.png": picture(1), "a.txt": b"0 0 0 1 1", **naming}))

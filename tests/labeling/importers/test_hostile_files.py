"""Any bytes given to any importer: rows, or an error that users can read. Nothing else."""

import json
import os
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.imports import picture, taken, zipped

from visionloop.errors import InvalidInputError
from visionloop_labeling.annotation import Draft
from visionloop_labeling.importers import documents, tar
from visionloop_labeling.importers.entries import Entry, SourceError

CASES = int(os.environ.get("FUZZ_CASES", "300"))
quick = settings(
    max_examples=max(60, CASES // 50),  # a test of these takes some milliseconds for each
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
IMAGE = picture(1)


def held(kind: str, data: bytes, **said: Any) -> list[Entry | InvalidInputError]:
    """What came of it; every message is short enough to keep and to show."""
    try:
        found = taken(kind, data, known=(32, 24), **said)
    except InvalidInputError as refusal:
        found = [refusal]
    for one in found:
        if isinstance(one, InvalidInputError):
            assert one.reason
            assert 0 < len(str(one)) < 1500
        elif one.annotation is not None:
            assert isinstance(one.annotation, Draft)
    return found


@pytest.mark.parametrize("kind", ["csv", "coco", "label-studio", "archive", "yolo", "urls"])
@given(data=st.binary(max_size=300))
@quick
def test_any_bytes(kind: str, data: bytes) -> None:
    held(kind, data)


scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from([0, 1, 7, 3, "a.png", "x" * 300, 1e308, -1, 10**400, "dog", "\ud800"])
)  # fmt: skip
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)  # fmt: skip


def some(**members: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """An object with these members, each of them often odd or missing."""
    return st.fixed_dictionaries(
        {}, optional={name: usual | anything for name, usual in members.items()}
    )


numbers = st.lists(st.floats(-5, 40) | st.integers(-5, 40), min_size=3, max_size=9)
coco = some(
    images=st.lists(
        some(
            id=st.integers(0, 3),
            file_name=st.just("a.png"),
            width=st.just(32),
            height=st.just(24),
        ),
        max_size=4,
    ),
    categories=st.lists(some(id=st.integers(0, 3), name=st.text(max_size=5)), max_size=3),
    annotations=st.lists(
        some(
            image_id=st.integers(0, 3),
            category_id=st.integers(0, 3),
            bbox=numbers,
            segmentation=st.lists(numbers, max_size=2)
            | some(size=st.just([24, 32]), counts=st.lists(st.integers(0, 800)) | st.text()),
            attributes=st.dictionaries(st.text(max_size=5), scalars, max_size=40),
        ),
        max_size=5,
    ),
)


@given(document=coco)
@quick
def test_any_coco(document: Any) -> None:
    table = json.dumps(document).encode()
    held("coco", zipped({"a.png": IMAGE, "c.json": table}))


result = some(
    type=st.sampled_from(
        ["rectanglelabels", "choices", "polygonlabels", "textarea", "number", "x"]
    ),
    from_name=st.just("n"),
    value=some(
        x=st.floats(-5, 120),
        y=st.floats(-5, 120),
        width=st.floats(-5, 120),
        height=st.floats(0, 120),
        rotation=st.floats(-400, 400),
        rectanglelabels=st.lists(st.text(max_size=4), max_size=2),
        polygonlabels=st.just(["dog"]),
        points=st.lists(numbers, max_size=5),
        choices=st.lists(st.text(max_size=4), max_size=3),
        text=st.text(max_size=5),
        number=st.floats(),
    ),
)  # fmt: skip
tasks = st.lists(
    some(
        data=some(image=st.just("a.png")),
        annotations=st.lists(
            some(result=st.lists(result, max_size=3), updated_at=st.text(), was_cancelled=scalars),
            max_size=3,
        ),
    ),
    min_size=1,
    max_size=3,
)


@given(document=tasks | anything)
@quick
def test_any_label_studio(document: Any) -> None:
    held("label-studio", zipped({"a.png": IMAGE, "c.json": json.dumps(document).encode()}))


WORDS = ["0", "1", "9", "-1", "a", "0.5", ".1", "1e9", "nan", "1.0001", "٣", "²", "0x1"]


@given(
    lines=st.lists(st.lists(st.sampled_from(WORDS), max_size=9)),
    naming=st.sampled_from(["names: [a, b]", "names: {0: a, 1: 2}", "names:\n- a\n- [b]"])
    | st.text(max_size=40),
)
@quick
def test_any_yolo(lines: list[list[str]], naming: str) -> None:
    text = "\n".join(" ".join(line) for line in lines).encode()
    yaml = naming.encode("utf-8", "surrogatepass")
    held("yolo", zipped({"a.png": IMAGE, "a.txt": text, "data.yaml": yaml}))


cells = st.text(max_size=6) | st.sampled_from(
    ["a.png", "=1+1", '"', "'=x", ",", "\n", "\0", "../a.png"]
)


@given(
    header=st.lists(st.sampled_from(["path", "label", "url", "sha256", "x", ""]), max_size=4),
    rows=st.lists(st.lists(cells, max_size=5), max_size=5),
    separator=st.sampled_from([",", ";", "\r\n"]),
)
@quick
def test_any_csv(header: list[str], rows: list[list[str]], separator: str) -> None:
    text = "\n".join(separator.join(row) for row in [header, *rows])
    data = text.encode("utf-8", "surrogatepass")
    held("csv", zipped({"a.png": IMAGE, "t.csv": data}), label_separator="|")


def test_deep_and_wide_json() -> None:
    for text in (
        "[" * 100_000,
        '{"a":' * 50_000,
        "[" + "1" * 5000 + "]",
        '{"images":' + "9" * 5000,
    ):
        [refusal] = held("coco", text.encode())
        assert isinstance(refusal, InvalidInputError)


@given(data=st.binary(min_size=512, max_size=2048))
@quick
def test_any_tar_headers(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    """With a checksum that fits, so that the rest of the header is read."""
    header = bytearray(data[:512])
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path = tmp_path_factory.getbasetemp() / "any.tar"
    path.write_bytes(bytes(header) + data[512:])
    with path.open("rb") as file:
        try:
            for record in tar.records(file):
                assert record.size >= 0
                assert len(b"".join(tar.pieces(file, record, 100))) == record.size
        except ValueError:
            pass


def test_mutated_tables_give_rows_or_typed_refusals() -> None:
    """Bytes of good files flipped, cut and spliced."""
    table = {
        "images": [{"id": n, "file_name": "a.png", "width": 32, "height": 24} for n in range(3)],
        "categories": [{"id": 1, "name": "dog"}],
        "annotations": [
            {"image_id": n, "category_id": 1, "bbox": [1, 1, 5, 5],
             "segmentation": [[1, 1, 9, 1, 9, 9]]} for n in range(3)
        ],
    }  # fmt: skip
    task = {
        "data": {"image": "a" * 64 + ".png"},
        "annotations": [
            {"result": [{"type": "choices", "value": {"choices": ["indoor", "night"]}}]}
        ],
    }
    seeds = [
        ("coco", json.dumps(table).encode().replace(b"a.png", b"a" * 64 + b".png")),
        ("label-studio", json.dumps([task]).encode()),
        ("csv", b"sha256,label,site\n" + b"".join(b"%064x,cat,x\n" % n for n in range(4))),
        ("urls", b"https://a.example/1.png\n# no\n\nhttp://b.example/2.png\n"),
    ]
    chance = random.Random(7)
    ends = {"rows": 0, "refused": 0}
    for number in range(CASES):
        kind, seed = seeds[number % 3]  # URLs would be asked for: they have their own tests
        data = bytearray(seed)
        for _ in range(chance.randint(1, 5)):
            place = chance.randrange(len(data))
            data[place : place + chance.randint(0, 2)] = bytes(
                chance.choice(b'0123456789{}[]",:\\-\n\r\0\xff;e.')
                for _ in range(chance.randint(0, 2))
            )
        found = held(kind, bytes(data))
        ends["rows" if any(isinstance(one, Entry) for one in found) else "refused"] += 1
    assert min(ends.values()) > CASES / 6, ends


@pytest.mark.parametrize("packed", [False, True])
def test_json_that_is_too_large_is_refused_with_what_to_do(monkeypatch, packed: bool) -> None:
    monkeypatch.setattr(documents, "MAX_BYTES", 10)
    data = b'{"images": []}'
    with pytest.raises(SourceError, match=r"14 bytes of JSON; the limit is 10.*Split it") as caught:
        taken("coco", zipped({"a.json": data}) if packed else data)
    assert caught.value.reason == "too_many_bytes"

"""Exports: what comes back through the importers, safe names, honest archives, flat memory."""

import csv
import gc
import io
import json
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.fresh_database import fresh_sqlite
from support.imports import picture, taken

from visionloop.errors import CorruptError, InvalidInputError, NotFoundError
from visionloop.images import Limits
from visionloop.objectstore import ObjectStore, open_store
from visionloop.snapshot import SnapshotClass, SnapshotRepository, SnapshotRow, blob_key
from visionloop_labeling import labels as label_log
from visionloop_labeling import snapshots
from visionloop_labeling.annotation import Annotation, Draft, Task, fitted
from visionloop_labeling.api import make_api
from visionloop_labeling.api.snapshots import LISTED, MAX_LISTED
from visionloop_labeling.database import open_database
from visionloop_labeling.datasets import DatasetSettings
from visionloop_labeling.exporters import FORMATS, coco, open_export
from visionloop_labeling.exporters import zip_stream as zip_stream_module
from visionloop_labeling.exporters.coco import coco_stream
from visionloop_labeling.exporters.csv import csv_stream
from visionloop_labeling.exporters.folder import folder_stream
from visionloop_labeling.exporters.names import folder_names
from visionloop_labeling.exporters.yolo import yolo_stream
from visionloop_labeling.exporters.zip_stream import zip_stream
from visionloop_labeling.exports import ExportedLabel, Labels
from visionloop_labeling.fold import AuthorKind
from visionloop_labeling.service import LabelingService

SIZE = (32, 24)
IMAGES = {sha256(data).hexdigest(): data for data in (picture(n, *SIZE) for n in range(6))}
# Ids and names differ: what comes back is known by its name.
CLASSES = {"cat": "Cat", "dog": "big dog", "x1": "Ünïcode & *", "x2": "- 'q' \"d\": #1"}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> ObjectStore:
    made = open_store(f"file://{tmp_path_factory.mktemp('exports') / 'store'}")
    for digest, data in IMAGES.items():
        made.put(blob_key(digest), data)
    return made


def label(digest: str, annotation: Annotation, **changes: object) -> ExportedLabel:
    first = next(iter(annotation.classes or ()), "")
    made = ExportedLabel(
        sha256=digest, width=SIZE[0], height=SIZE[1], media_type="image/png",
        annotation=annotation, class_key=first, class_name=CLASSES.get(first, ""), split="train",
        group="g", attributes={}, author_kind=AuthorKind.HUMAN, source="",
    )  # fmt: skip
    return replace(made, **changes)


def labels_of(annotations: list[Annotation], task: Task = "detection") -> Labels:
    images = [label(digest, said) for digest, said in zip(IMAGES, annotations, strict=False)]
    return Labels("cells", task, CLASSES, "labels", iter(images))


def thousandths(limit: int, least: int = 0) -> st.SearchStrategy[float]:
    return st.integers(least, limit * 1000).map(lambda number: number / 1000)


keys = st.sampled_from(sorted(CLASSES))
attributes = st.dictionaries(
    st.text("abc", min_size=1), st.text("xyz") | st.floats(-9, 9).map(float), max_size=3
)
boxes = st.builds(
    dict,
    class_id=keys,
    x=thousandths(SIZE[0] - 1),
    y=thousandths(SIZE[1] - 1),
    width=thousandths(SIZE[0], 1),
    height=thousandths(SIZE[1], 1),
)
polygons = st.builds(
    dict,
    kind=st.just("polygon"),
    class_id=keys,
    points=st.lists(
        st.tuples(thousandths(SIZE[0]), thousandths(SIZE[1])), min_size=3, max_size=6
    ).filter(lambda p: len({x for x, _ in p}) > 1 and len({y for _, y in p}) > 1),
)
PIXELS = SIZE[0] * SIZE[1]


@st.composite
def masks(draw: st.DrawFn) -> dict[str, object]:
    cuts = sorted(draw(st.sets(st.integers(1, PIXELS - 1), min_size=1, max_size=8)))
    edges = [0, *cuts, PIXELS]
    runs = [b - a for a, b in pairwise(edges)]
    counts = [0, *runs] if draw(st.booleans()) else runs
    return {"kind": "mask", "class_id": draw(keys), "counts": counts, "size": (SIZE[1], SIZE[0])}


def annotations(**parts: st.SearchStrategy[object]) -> st.SearchStrategy[list[Annotation]]:
    one = st.fixed_dictionaries(parts).map(
        lambda said: fitted(Annotation.model_validate(said), "detection", SIZE)
    )
    return st.lists(one, min_size=1, max_size=len(IMAGES))


def named(said: Annotation) -> Draft:
    """The same as importers say it."""
    plain = said.model_dump()
    for part in (*(plain["boxes"] or ()), *plain["shapes"]):
        part["class_name"] = CLASSES[part.pop("class_id")]
    plain["classes"] = said.classes and tuple(CLASSES[key] for key in said.classes)
    return Draft.model_validate(plain)


def drafts(entries: list[object]) -> list[Draft]:
    return [fitted(entry.annotation, "detection", SIZE) for entry in entries]


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    said=annotations(
        classes=st.none() | st.sets(keys, min_size=1).map(tuple),
        boxes=st.lists(st.builds(lambda b, a: {**b, "attributes": a}, boxes, attributes)),
        shapes=st.lists(polygons | masks(), max_size=3),
    )
)
def test_coco_comes_back_as_it_was(said: list[Annotation]) -> None:
    """By digest, for a dataset that has the images: no image in the file."""
    document = b"".join(coco_stream(labels_of(said)))
    found = taken("coco", document, known=SIZE, unannotated="empty")
    assert [entry.sha256 for entry in found] == list(IMAGES)[: len(said)]
    for came, went in zip(drafts(found), said, strict=True):
        expected = named(went)
        # COCO cannot tell "no box" from "nothing said of boxes" where something else is said.
        changes = {
            "boxes": came.boxes or expected.boxes,
            "classes": expected.classes and tuple(sorted(expected.classes)),
        }
        assert came.model_copy(update={"boxes": came.boxes or expected.boxes}) == (
            expected.model_copy(update=changes)
        )
        assert bool(came.boxes) == bool(expected.boxes)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(said=annotations(boxes=st.lists(boxes), shapes=st.lists(polygons, max_size=2)))
def test_yolo_comes_back_as_it_was(store, said: list[Annotation]) -> None:
    archive = b"".join(yolo_stream(labels_of(said), store))
    found = taken("yolo", archive)
    assert [entry.image for entry in found] == list(IMAGES.values())[: len(said)]
    for came, went in zip(drafts(found), said, strict=True):
        expected = named(went)
        if not expected.boxes and expected.shapes:
            expected = expected.model_copy(update={"boxes": None})
        assert came == expected


def test_yolo_lists_what_it_cannot_hold(store) -> None:
    mask = {"kind": "mask", "class_id": "cat", "counts": [0, PIXELS], "size": (24, 32)}
    box = {"class_id": "cat", "x": 1, "y": 1, "width": 2, "height": 2}
    said = [
        Annotation.model_validate(one)
        for one in (
            {"boxes": []},
            {"classes": ["cat"]},
            {"classes": ["cat"], "boxes": [box]},
            {"boxes": [box], "shapes": [mask]},
            {"shapes": [mask]},
        )
    ]
    archive = zipfile.ZipFile(io.BytesIO(b"".join(yolo_stream(labels_of(said), store))))
    digests = list(IMAGES)
    texts = {name[-68:-4] for name in archive.namelist() if name.startswith("labels/")}
    assert texts == {digests[0], digests[2], digests[3]}
    assert archive.read(f"labels/train/{digests[0]}.txt") == b""
    rows = list(csv.reader(io.StringIO(archive.read("not-exported.csv").decode())))
    assert rows[1:] == [
        [digests[1], "image: its label draws no box and no polygon"],
        [digests[2], "classes of the whole image"],
        [digests[3], "masks"],
        [digests[4], "image: its label draws no box and no polygon"],
    ]


def test_folders_come_back_as_classes(store) -> None:
    said = [Annotation(classes=(key,)) for key in CLASSES] + [Annotation(classes=("cat", "dog"))]
    given = [
        replace(one, split=split)
        for one, split in zip(
            labels_of(said).images, ("train", "val", "test", "", "train"), strict=True
        )
    ]
    labels = Labels("cells", "classification", CLASSES, "labels", iter(given))
    data = b"".join(folder_stream(labels, store))
    found = {entry.image: entry.label for entry in taken("archive", data)}
    images = list(IMAGES.values())
    assert [found[image] for image in images[:4]] == ["Cat", "big dog", "x1", "x2"]
    assert images[4] not in found
    archive = zipfile.ZipFile(io.BytesIO(data))
    listed = json.loads(archive.read("cells/classes.json"))
    assert {one["folder"]: one["name"] for one in listed}["x1"] == CLASSES["x1"]
    assert b"it has 2 classes" in archive.read("cells/not-exported.csv")
    assert sum(name.startswith("cells/train/") for name in archive.namelist()) == 2


@pytest.mark.parametrize(
    "name",
    ["..", "../x", "a/b", "a\\b", "/etc", "C:x", "CON", "nul.txt", ".hidden", "dot.", " space",
     "a\0b", "x" * 300, "what?", "-rf", "__MACOSX", "a\u202eb\n"],
)  # fmt: skip
def test_no_name_of_a_class_leaves_its_folder(name: str) -> None:
    assert folder_names({"key-1": name, "ok": "A good name"}) == {
        "key-1": "key-1",
        "ok": "A good name",
    }


def test_folders_of_classes_are_told_apart_on_every_system() -> None:
    classes = {"cat": "Cat", "k2": "CAT", "k3": "k4", "k4": "other"}
    assert folder_names(classes) == {"cat": "cat", "k2": "k2", "k3": "k3", "k4": "other"}
    assert folder_names({"cat": "Cat", "b": "B"}) == {"cat": "Cat", "b": "B"}


cells = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=12)


@settings(max_examples=60, deadline=None)
@given(names=st.lists(cells.filter(str.strip), min_size=1, max_size=4, unique=True), note=cells)
def test_no_cell_begins_a_formula_and_labels_come_back(names: list[str], note: str) -> None:
    classes = {f"k{n}": name for n, name in enumerate(names)}
    images = [
        label(digest, Annotation(classes=(key,), note=note), source=note, author=name)
        for digest, (key, name) in zip(IMAGES, classes.items(), strict=False)
    ]
    table = b"".join(csv_stream(Labels("d", "classification", classes, "labels", iter(images))))
    rows = list(csv.reader(io.StringIO(table.decode(), newline="")))
    for row in rows[1:]:
        assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) for cell in row)
    found = taken("csv", table, known=SIZE, label_column="class_name", group_column="group")
    assert [entry.sha256 for entry in found] == [image.sha256 for image in images]
    assert [entry.label for entry in found] == [name.strip() for name in names]


def test_a_table_says_everything() -> None:
    box = {"class_id": "dog", "x": 1.5, "y": 2, "width": 3, "height": 4, "attributes": {"a": 1.5}}
    said = {"classes": ["cat", "x1"], "boxes": [box], "attributes": {"tone": "red"}, "note": "n"}
    said["weight"] = 0.123456789
    table = b"".join(csv_stream(labels_of([Annotation.model_validate(said)], "multi_label")))
    [row] = csv.DictReader(io.StringIO(table.decode(), newline=""))
    assert (row["class_id"], row["class_name"]) == ("cat|x1", f"Cat|{CLASSES['x1']}")
    assert json.loads(row["boxes"]) == [box]
    assert json.loads(row["label_attributes"]) == {"tone": "red"}
    assert (row["note"], row["shapes"], row["width"]) == ("n", "", "32")
    assert float(row["weight"]) == 0.123456789


class TestZip:
    @settings(max_examples=30, deadline=None)
    @given(
        st.dictionaries(
            st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\\"))
            .filter(lambda name: name.strip("/") == name != "" and "//" not in name),
            st.binary(max_size=50),
            max_size=5,
        )
    )  # fmt: skip
    def test_any_zip_reader_takes_it(self, files: dict[str, bytes]) -> None:
        data = b"".join(zip_stream(files.items()))
        archive = zipfile.ZipFile(io.BytesIO(data))
        assert archive.testzip() is None
        assert {info.filename: archive.read(info) for info in archive.infolist()} == files
        assert b"".join(zip_stream(files.items())) == data

    def test_more_entries_than_the_old_format_counts(self) -> None:
        count = 66_000
        data = b"".join(zip_stream((f"{n}.txt", b"%d" % n) for n in range(count)))
        archive = zipfile.ZipFile(io.BytesIO(data))
        assert len(archive.infolist()) == count
        assert archive.read(f"{count - 1}.txt") == b"%d" % (count - 1)


@pytest.mark.long
@pytest.mark.parametrize("format_name", FORMATS)
def test_memory_is_flat(format_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (coco, zip_stream_module):
        monkeypatch.setattr(module, "_IN_MEMORY", 2**16)
    image = picture(1, *SIZE)
    digest = sha256(image).hexdigest()
    store = open_store(f"file://{tmp_path / 'store'}")
    store.put(blob_key(digest), image)
    box = {"class_id": "cat", "x": 1, "y": 1, "width": 2, "height": 2}
    one = label(digest, Annotation.model_validate({"classes": ["cat"], "boxes": [box] * 10}))
    streams: dict[str, Callable[[Labels], Iterator[bytes]]] = {
        "csv": csv_stream,
        "coco": coco_stream,
        "yolo": lambda labels: yolo_stream(labels, store),
        "folder": lambda labels: folder_stream(labels, store),
    }

    def peak(count: int) -> int:
        def images() -> Iterator[ExportedLabel]:
            for number in range(count):
                if number % 50 == 0:
                    gc.collect()  # what merely waits for the collector is not kept
                yield replace(one)

        tracemalloc.start()
        for _ in streams[format_name](Labels("d", "detection", CLASSES, "labels", images())):
            pass
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    few = 300
    gc.freeze()  # what other tests left is not looked through each time
    try:
        least = peak(few)
        # What else happens in this process (an import, a log record) shows in one run, not in all.
        assert min(peak(few * 5) for _ in range(3)) < 1.3 * least + 2**18
    finally:
        gc.unfreeze()


class TestOverTheService:
    @pytest.fixture
    async def client(self, tmp_path, anyio_backend):
        store = open_store(f"file://{tmp_path / 's'}")
        database = open_database(fresh_sqlite(tmp_path / "l.db"))
        service = LabelingService(database, store, Limits())
        transport = httpx.ASGITransport(make_api(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://labeling") as made:
            await made.post("/v1/datasets", json={"name": "cells"})
            for number, data in enumerate(IMAGES.values()):
                answer = await made.post(
                    "/v1/datasets/cells/images",
                    files={"file": ("=a.png", data, "image/png")},
                    data={"label": "ab"[number % 2]},
                )
                assert answer.status_code == 201, answer.text
            made.store = store
            yield made
        service.close()

    @pytest.mark.anyio
    async def test_current_labels_and_snapshots_in_every_format(self, client) -> None:
        first = (await client.post("/v1/datasets/cells/snapshots")).json()
        digest = next(iter(IMAGES))
        said = {"sha256": digest, "label": "c"}
        assert (await client.post("/v1/datasets/cells/labels", json=said)).status_code == 200
        url = "/v1/datasets/cells/export"
        for snapshot, expected in ((None, {"a", "b", "c"}), (first["id"][:15], {"a", "b"})):
            chosen = {} if snapshot is None else {"snapshot": snapshot}
            table = await client.get(url, params={"format": "csv", **chosen})
            rows = {row["sha256"]: row for row in csv.DictReader(io.StringIO(table.text))}
            assert rows.keys() == IMAGES.keys()
            assert {row["class_name"] for row in rows.values()} == expected
            assert {row["source"] for row in rows.values()} == {"'=a.png"}
            coco = await client.get(url, params={"format": "coco", **chosen})
            document = json.loads(coco.text)
            assert {one["file_name"] for one in document["images"]} == {f"{d}.png" for d in IMAGES}
            folder = await client.get(url, params={"format": "folder", **chosen})
            found = {entry.image: entry.label for entry in taken("archive", folder.content)}
            assert found == {IMAGES[d]: row["class_name"] for d, row in rows.items()}
            yolo = await client.get(url, params={"format": "yolo", **chosen})
            names = zipfile.ZipFile(io.BytesIO(yolo.content)).namelist()
            assert names == ["data.yaml", "not-exported.csv"]
            for answer in (table, coco, folder, yolo):
                assert answer.status_code == 200
                what = first["id"][:19] if snapshot else "labels"
                assert f'filename="cells-{what}-' in answer.headers["content-disposition"]

    @pytest.mark.anyio
    async def test_what_is_not_there_is_said_before_the_first_byte(self, client) -> None:
        url = "/v1/datasets/cells/export"
        for query, status in (
            ({"format": "xml"}, 422),
            ({"snapshot": "latest"}, 404),
            ({"snapshot": "../../x"}, 400),
            ({"snapshot": "abcd"}, 404),
        ):
            answer = await client.get(url, params=query)
            assert (answer.status_code, "reason" in answer.json()) == (status, True), query
        assert (await client.get("/v1/datasets/none/export")).status_code == 404

    @pytest.mark.anyio
    async def test_an_export_that_cannot_be_finished_is_not_taken_for_whole(self, client) -> None:
        client.store.put(blob_key(list(IMAGES)[-1]), b"altered")
        with pytest.raises(RuntimeError) as broken:  # the server cuts the connection
            await client.get("/v1/datasets/cells/export", params={"format": "folder"})
        assert isinstance(broken.value.__cause__, CorruptError)
        assert "was altered in the store" in str(broken.value.__cause__)

    @pytest.mark.anyio
    async def test_snapshots_are_listed_shown_and_compared(self, client) -> None:
        url = "/v1/datasets/cells/snapshots"
        first = (await client.post(url)).json()
        digest = next(iter(IMAGES))
        await client.post("/v1/datasets/cells/labels", json={"sha256": digest, "label": "b"})
        second = (await client.post(url)).json()
        listed = (await client.get(url)).json()
        assert [one["id"] for one in listed] == [first["id"], second["id"]]
        assert listed[1]["parent"] == first["id"]
        shown = (await client.get(f"{url}/latest")).json()
        assert (shown["id"], shown["task"]) == (second["id"], "classification")
        assert shown["label_sources"]["train"]["human"] > 0
        diff = (await client.get(f"{url}/{first['id'][:12]}/diff")).json()
        assert (diff["before"], diff["after"]) == (first["id"], second["id"])
        assert diff["relabelled"] == [digest]
        assert diff["class_changes"] == [{"before": "a", "after": "b", "count": 1}]
        assert (diff["complete"], diff["counts"]["relabelled"]) == (True, 1)
        counted = (await client.get(f"{url}/{first['id']}/diff", params={"limit": 0})).json()
        assert (counted["relabelled"], counted["class_changes"]) == ([], [])
        assert (counted["complete"], counted["counts"]) == (False, diff["counts"])
        assert (await client.get(f"{url}/abcd")).status_code == 404
        assert (await client.get("/v1/datasets/none/snapshots")).status_code == 404

    @pytest.mark.anyio
    async def test_of_large_snapshots_that_differ_a_bounded_part_is_listed(self, client) -> None:
        repository = SnapshotRepository(client.store)
        classes = [SnapshotClass(id="a", name="a")]
        plain = {"width": 3, "height": 4, "split": "train", "class_id": "a"}
        rows = [
            SnapshotRow(sha256=f"{n:064x}", group_id=f"g{n}", label_source="import", **plain)
            for n in range(LISTED + 101)
        ]
        first, second = (
            repository.write("cells", some, classes, {}, label_sequence=n, parent=None)[0].id
            for n, some in enumerate((rows[:1], rows), 1)
        )
        url = "/v1/datasets/cells/snapshots"
        diff = (await client.get(f"{url}/{first}/diff", params={"to": second})).json()
        assert diff["added"] == [row.sha256 for row in rows[1 : LISTED + 1]]
        assert (diff["counts"]["added"], diff["complete"]) == (LISTED + 100, False)
        page = await client.get(f"/datasets/cells/snapshots?from={first}&to={second}")
        assert "Added: 1\u202f100" in page.text
        assert page.text.count('class="tile"') == 24
        asked = {"to": second, "limit": MAX_LISTED + 1}
        assert (await client.get(f"{url}/{first}/diff", params=asked)).status_code == 422


def test_a_dataset_of_boxes_goes_out_as_it_is_stored(core) -> None:
    """From the log through a cut to a file and back, on both databases."""
    core.create("boxes", DatasetSettings(task="detection"))
    box = {"class_name": "cat", "x": 1, "y": 2, "width": 3, "height": 4}
    drafts_ = [Draft(boxes=[box]), Draft(boxes=[]), Draft(boxes=[box], shapes=[
        {"kind": "polygon", "class_name": "dog", "points": [(0, 0), (9, 0), (9, 9)]}])]  # fmt: skip
    for data, draft in zip(IMAGES.values(), drafts_, strict=False):
        digest = core.add(data, dataset="boxes").sha256
        statement = label_log.statement(event_id="", draft=draft, author_kind="human", author="ann")
        label_log.submit(core.database, "boxes", digest, statement)
    snapshots.cut(core.database, core.store, "boxes")
    for snapshot in (None, "latest"):
        export = open_export(core.database, core.store, "boxes", "yolo", snapshot)
        found = taken("yolo", b"".join(export.chunks))
        assert {entry.image: len(entry.annotation.boxes) for entry in found} == dict(
            zip(IMAGES.values(), (1, 0, 1), strict=False)
        )
        assert sum(len(entry.annotation.shapes) for entry in found) == 1
    with pytest.raises(InvalidInputError, match="use one of csv, coco, yolo, folder"):
        open_export(core.database, core.store, "boxes", "xml")
    with pytest.raises(NotFoundError):
        open_export(core.database, core.store, "none", "csv")


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_class_that_comes_during_an_export_waits_for_the_next(core, format_name: str) -> None:
    first, second = (core.add(data, "cat").sha256 for data in list(IMAGES.values())[:2])
    export = open_export(core.database, core.store, "cells", format_name)
    core.say(second, "dog")
    whole = b"".join(export.chunks)
    assert first.encode() in whole
    assert second.encode() not in whole
    after = b"".join(open_export(core.database, core.store, "cells", format_name).chunks)
    assert second.encode() in after

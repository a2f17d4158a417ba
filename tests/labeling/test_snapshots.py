"""What a snapshot takes, what it leaves out, and that it leaks nothing."""

import hashlib
import json
import uuid
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from sqlalchemy import select
from support.photographs import photograph
from support.pictures import encoded, noise, opened, png

from visionloop.errors import InvalidInputError, NotFoundError, RefusedError
from visionloop.images import Limits
from visionloop.snapshot import SnapshotRepository
from visionloop_labeling import datasets, labels, leaks, snapshots
from visionloop_labeling.annotation import Draft
from visionloop_labeling.cut_rows import CutRows
from visionloop_labeling.database import open_database
from visionloop_labeling.datasets import DatasetSettings
from visionloop_labeling.fold import AuthorKind, EventKind
from visionloop_labeling.ingest import Ingest
from visionloop_labeling.labels import Statement
from visionloop_labeling.schema import Dataset, ImageGroup, Item, NearDuplicate
from visionloop_labeling.splits import SplitRatios
from visionloop_labeling.taxonomy import Taxonomy
from visionloop_training import data as training_data


def test_a_snapshot_holds_the_accepted_labels(core) -> None:
    receipts = core.submit_all((noise(n), "ab"[n % 2]) for n in range(60))
    core.add(noise(100))  # no label: waits
    cut = core.cut()
    rows = core.rows(cut)
    assert cut.created
    assert {row.sha256 for row in rows} == {receipt.sha256 for receipt in receipts}
    assert cut.manifest.split_images == {"train": 42, "val": 6, "test": 12}
    labels = core.labels()
    for row in rows:
        assert (row.class_id, row.split) == (labels[row.sha256].class_key, labels[row.sha256].split)
        assert (row.width, row.height, row.label_source) == (40, 40, "import")
    assert cut.manifest.label_sequence == 60
    per_class = Counter((row.class_id, row.split) for row in rows)
    assert per_class["a", "test"] == per_class["b", "test"] == 6


def test_the_same_content_is_the_same_snapshot(core) -> None:
    core.submit_all((noise(n), "a") for n in range(5))
    first, again = core.cut(), core.cut()
    assert (first.created, again.created) == (True, False)
    assert first.manifest.id == again.manifest.id


def test_adding_and_correcting_moves_no_image(core) -> None:
    receipts = core.submit_all((noise(n), "ab"[n % 2]) for n in range(40))
    before = {row.sha256: row for row in core.rows(core.cut())}
    core.submit_all((noise(n), "abc"[n % 3]) for n in range(40, 90))
    core.say(receipts[0].sha256, "b")
    second = core.cut()
    after = {row.sha256: row for row in core.rows(second)}
    assert second.manifest.parent is not None
    assert len(after) == 90
    for digest, row in before.items():
        assert after[digest].split == row.split
    assert after[receipts[0].sha256].class_id == "b"


ARRIVALS = st.lists(
    st.tuples(
        st.integers(0, 9),  # which picture
        st.sampled_from(["as it is", "recompressed", "turned"]),
        st.sampled_from(["", "", "g", "h"]),
        st.sampled_from([None, "a", "b"]),
        st.sampled_from(["human", "import", "app"]),
    ),
    min_size=5,
    max_size=30,
)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(arrivals=ARRIVALS)
def test_whatever_arrives_splits_are_given_once_and_no_pair_crosses(core, arrivals) -> None:
    name = f"d{uuid.uuid4().hex}"
    core.create(name)
    splits: dict[str, str] = {}
    for picture, change, group, label, kind in arrivals:
        image = noise(picture) if change == "as it is" else _changed(picture, change)
        core.add(image, label, dataset=name, group=group, author_kind=kind)
        now = {one.sha256: one.split for one in core.labels(name).values() if one.split}
        assert splits.items() <= now.items()
        splits = now
    try:
        cut = snapshots.cut(core.database, core.store, name)
    except RefusedError:
        assert core.labels(name) == {}
        return
    rows = {row.sha256: row for row in SnapshotRepository(core.store).read(name, "latest").rows}
    for digest, row in rows.items():
        assert splits.get(digest, "train") == row.split
        assert row.split == "train" or row.label_source in ("human", "import")
    with core.database.read() as session:
        dataset = session.scalars(select(Dataset.id).where(Dataset.name == name)).one()
        items = session.scalars(select(Item).where(Item.dataset_id == dataset)).all()
        sizes = dict(
            session.execute(
                select(ImageGroup.id, ImageGroup.size).where(ImageGroup.dataset_id == dataset)
            ).all()
        )
        digests = {item.id: item.sha256 for item in items}
        pairs = session.execute(select(NearDuplicate.later_id, NearDuplicate.earlier_id)).all()
    assert sizes == Counter(item.group_id for item in items)
    linked = [(digests[a], digests[b]) for a, b in pairs if a in digests]
    declared = defaultdict(list)
    for item in items:
        declared[item.declared_group or item.sha256].append(item.sha256)
    linked += [(ones[0], one) for ones in declared.values() for one in ones[1:]]
    for first, second in linked:
        if first in rows and second in rows:
            assert rows[first].split == rows[second].split
    assert len(rows) + sum(cut.left_out.values()) == len(core.labels(name))


@cache
def _changed(picture: int, change: str) -> bytes:
    image = opened(noise(picture))
    if change == "turned":
        return png(image.transpose(Image.Transpose.ROTATE_90))
    return encoded(image, "JPEG", quality=80)


def test_nothing_labelled_is_refused_in_words(core) -> None:
    with pytest.raises(RefusedError, match="label some images first"):
        core.cut()
    core.add(noise(1))
    with pytest.raises(RefusedError, match="1 images and no label"):
        core.cut()
    assert SnapshotRepository(core.store).list("cells") == []


def test_an_unknown_or_odd_dataset_is_named(core) -> None:
    with pytest.raises(NotFoundError, match='"none"'):
        snapshots.cut(core.database, core.store, "none")
    with pytest.raises(InvalidInputError, match="not a usable name"):
        snapshots.cut(core.database, core.store, "a/b")


def test_labels_of_apps_train_only_and_of_models_not_at_all(core) -> None:
    core.submit_all((noise(n), "a") for n in range(10))
    app = core.add(noise(20), "a", author_kind="app").sha256
    model = core.add(noise(21), "a", author_kind="model").sha256
    rows = {row.sha256: row for row in core.rows(core.cut())}
    assert rows[app].split == "train"
    assert rows[app].label_source == "app"
    assert model not in rows
    # A model has seen it: a person's word later does not make it test data.
    core.say(app, "a")
    for n in range(30, 40):
        core.add(noise(n), "a")
    assert core.labels()[app].split == "train"


def test_an_apps_label_in_a_test_group_is_left_out(core) -> None:
    held_out = next(
        receipt.sha256
        for receipt in core.submit_all((noise(n), "a") for n in range(10))
        if core.labels()[receipt.sha256].split == "test"
    )
    image = next(noise(n) for n in range(10) if core.add(noise(n)).sha256 == held_out)
    near = core.add(encoded(opened(image), "JPEG", quality=90), "b", author_kind="app").sha256
    assert core.labels()[near].split == "test"
    cut = core.cut()
    assert near not in {row.sha256 for row in core.rows(cut)}
    assert cut.left_out["protected_split"] == 1


def test_model_labels_train_where_the_dataset_says_so(core) -> None:
    core.create("other", DatasetSettings(train_on_model_labels=True, train_on_app_labels=False))
    core.add(noise(1), "a", dataset="other", author_kind="model")
    core.add(noise(2), "a", dataset="other", author_kind="app")
    cut = snapshots.cut(core.database, core.store, "other")
    assert cut.manifest.split_images == {"train": 1, "val": 0, "test": 0}


def test_ratios_of_the_dataset_count(core) -> None:
    core.create("even", DatasetSettings(ratios=SplitRatios(train=0.5, val=0.25, test=0.25)))
    for n in range(20):
        core.add(noise(n), "a", dataset="even")
    cut = snapshots.cut(core.database, core.store, "even")
    assert cut.manifest.split_images == {"train": 10, "val": 5, "test": 5}


def test_a_later_image_that_links_two_splits_costs_the_less_protected_one(core) -> None:
    """Two groups in train and test are joined by a declared group that comes later."""
    receipts = core.submit_all((noise(n), "a") for n in range(10))
    labels = core.labels()
    by_split = defaultdict(list)
    for receipt in receipts:
        by_split[labels[receipt.sha256].split].append(receipt.sha256)
    image_of = {receipt.sha256: noise(n) for n, receipt in enumerate(receipts)}
    trained, held_out = by_split["train"][0], by_split["test"][0]
    before = core.cut()
    for digest in (trained, held_out):
        core.add(image_of[digest], None, group="one panel")
    assert core.labels()[trained].split == "train"  # nothing moves
    after = core.cut()
    assert after.left_out["shows_the_same"] == 1
    digests = {row.sha256 for row in core.rows(after)}
    assert held_out in digests
    assert trained not in digests
    assert trained in {row.sha256 for row in core.rows(before)}
    # What comes next goes to the protected side.
    newcomer = core.add(noise(50), "a", group="one panel").sha256
    assert core.labels()[newcomer].split == "test"


def test_copies_of_test_images_never_train(core) -> None:
    """Real photographs and their turned, brightened and recompressed copies, in any order."""
    pictures = [opened(photograph(n)).convert("RGB") for n in ("cat", "coffee", "china", "flower")]
    images = []
    for picture in pictures:
        small = picture.resize((200, 150))
        images += [png(small), encoded(small, "JPEG", quality=70)]
        images += [
            png(small.rotate(90, expand=True)),
            png(ImageEnhance.Brightness(small).enhance(1.1)),
        ]
    order = [n * 7 % len(images) for n in range(len(images))]
    receipts = core.submit_all((images[n], "ab"[n // 4 % 2]) for n in order)
    splits = defaultdict(set)
    labels = core.labels()
    for n, receipt in zip(order, receipts, strict=True):
        splits[n // 4].add(labels[receipt.sha256].split)
    assert all(len(found) == 1 for found in splits.values())
    cut = core.cut()
    assert cut.manifest.largest_group == 4
    assert cut.manifest.groups == 4
    assert cut.manifest.leak_pairs == 0


def test_a_database_that_is_behind_the_store_cuts_nothing(core, tmp_path) -> None:
    core.submit_all((noise(n), "a") for n in range(5))
    first = core.cut()
    database = open_database(f"sqlite:///{tmp_path / 'another.db'}")
    ingest = Ingest(database, core.store, Limits())
    another = replace(core, database=database, ingest=ingest)
    another.create()
    another.submit_all((noise(n), "a") for n in range(10, 13))
    with pytest.raises(RefusedError, match="covers 5 label events, and this database knows 3"):
        another.cut()
    latest = SnapshotRepository(core.store).latest("cells")
    assert latest.id == first.manifest.id
    ingest.close()
    database.close()


def test_only_pairs_across_splits_are_read_for_a_cut(core) -> None:
    """A still camera: every image is like every other one, and pairs grow as the square."""
    original = opened(photograph("cell"))
    likes = [
        encoded(ImageEnhance.Brightness(original).enhance(1 + n / 200), "PNG") for n in range(30)
    ]
    core.submit_all((image, "a") for image in likes)
    with core.database.read() as session:
        dataset = session.scalars(select(Dataset)).one()
        splits = select(Item.id, ImageGroup.split).join(ImageGroup, ImageGroup.id == Item.group_id)
        split_of = dict(session.execute(splits).tuples().all())
        everything = session.scalars(select(NearDuplicate)).all()
        query = leaks.near_duplicates(dataset.id, list(AuthorKind))
        read = {(later, earlier) for later, _, earlier, _ in session.execute(query)}
    across = {
        (pair.later_id, pair.earlier_id)
        for pair in everything
        if split_of[pair.later_id] != split_of[pair.earlier_id]
    }
    assert 0 < len(across) < len(everything)
    assert read == across


def say(core, sha256: str, draft: Draft, dataset: str = "cells", **changes: object) -> None:
    """A person's label of any kind."""
    said = Statement(AuthorKind.HUMAN, "ann", annotation=draft, **changes)
    labels.submit(core.database, dataset, sha256, said)


def change_classes(core, work) -> None:
    with core.database.write() as session:
        dataset = datasets.find(session, "cells", lock=True)
        work(Taxonomy(session, dataset, "ann"))


BOX = {"class_name": "cat", "x": 1, "y": 2, "width": 3, "height": 4.5}
POLYGON = {"kind": "polygon", "class_name": "dog", "points": [(0, 0), (9, 0), (9, 9.25)]}


def test_a_class_only_snapshot_has_the_id_it_always_had(core) -> None:
    """The format written down once more, as the first version of it was."""
    core.submit_all((noise(n), "ab"[n % 2]) for n in range(10))
    cut = core.cut()
    head = {
        "format": "visionloop.snapshot/1",
        "classes": [{"id": "a", "name": "a"}, {"id": "b", "name": "b"}],
        "policy": {
            "split_rule": "group-sticky/1",
            "split_ratios": {"train": 0.7, "val": 0.1, "test": 0.2},
            "label_sources": ["human", "import", "app"],
            "train_only_sources": ["app", "model"],
        },
    }
    found = core.labels()
    rows = [
        {
            "sha256": digest, "width": 40, "height": 40, "split": one.split,
            "group_id": one.group, "class_id": one.class_key, "attributes": {}, "weight": 1.0,
            "label_source": "import", "source": "",
        }
        for digest, one in sorted(found.items())
    ]  # fmt: skip
    text = "".join(
        json.dumps(one, sort_keys=True, separators=(",", ":")) + "\n" for one in (head, *rows)
    )
    assert cut.manifest.id == f"sha256-{hashlib.sha256(text.encode()).hexdigest()}"


def test_boxes_shapes_and_attributes_are_in_the_rows(core) -> None:
    core.create("boxes", DatasetSettings(task="detection"))
    drafts = [
        Draft(boxes=[BOX], shapes=[POLYGON], attributes={"tone": "red", "age": 3.0}, note="hm"),
        Draft(boxes=[]),
        Draft(classes=("cat",)),  # says nothing of boxes
    ]
    digests = [core.add(noise(n), dataset="boxes").sha256 for n in range(3)]
    for digest, draft in zip(digests, drafts, strict=True):
        say(core, digest, draft, "boxes")
    cut = snapshots.cut(core.database, core.store, "boxes")
    snapshot = SnapshotRepository(core.store).read("boxes", cut.manifest.id)
    rows = {row.sha256: row for row in snapshot.rows}
    assert rows.keys() == set(digests[:2])
    drawn = rows[digests[0]]
    [box], [shape] = drawn.boxes, drawn.shapes
    assert (box.class_id, box.x, box.y, box.width, box.height) == ("cat", 1, 2, 3, 4.5)
    assert (shape.class_id, shape.points) == ("dog", ((0, 0), (9, 0), (9, 9.25)))
    assert drawn.label_attributes == {"tone": "red", "age": 3.0}
    assert (drawn.class_id, rows[digests[1]].boxes) == (None, ())
    manifest = cut.manifest
    assert (manifest.task, manifest.boxes, manifest.shapes) == ("detection", 1, 1)
    assert manifest.policy["task"] == "detection"
    assert cut.left_out["no_boxes"] == 1
    # A note is for people; it is no new training set.
    say(core, digests[1], Draft(boxes=[], note="looked twice"), "boxes")
    assert snapshots.cut(core.database, core.store, "boxes").created is False


def test_several_classes_of_an_image(core) -> None:
    core.create("many", DatasetSettings(task="multi_label"))
    digests = [core.add(noise(n), dataset="many").sha256 for n in range(3)]
    for digest, classes in zip(digests, (("b", "a"), (), ("a",)), strict=True):
        say(core, digest, Draft(classes=classes), "many")
    cut = snapshots.cut(core.database, core.store, "many")
    rows = {row.sha256: row for row in SnapshotRepository(core.store).read("many", "latest").rows}
    assert [rows[digest].labels for digest in digests] == [("a", "b"), (), ("a",)]
    shown = Counter[str]()
    for images in cut.manifest.class_images.values():
        shown.update(images)
    assert shown == {"a": 2, "b": 1}
    assert sum(cut.manifest.split_images.values()) == 3


def test_training_reads_what_each_image_shows(core) -> None:
    core.create("many", DatasetSettings(task="multi_label"))
    said = (("b", "a"), (), ("a",), ("b",))
    wanted = {
        core.add(noise(n), dataset="many").sha256: set(said[n % len(said)]) for n in range(40)
    }
    for digest, classes in wanted.items():
        say(core, digest, Draft(classes=tuple(classes)), "many")
    snapshots.cut(core.database, core.store, "many")
    data = training_data.dataset(SnapshotRepository(core.store).read("many", "latest"))
    assert (data.task, data.class_ids) == ("multi_label", ("a", "b"))
    read = {
        item.sha256: {data.class_ids[place] for place in item.classes}
        for part in (data.train, data.val, data.test)
        for item in part
    }
    assert read == wanted


def test_soft_labels_and_weights_reach_training(core) -> None:
    wanted = {}
    for n in range(20):
        draft = Draft(probabilities={"a": 0.25, "b": 0.75}, weight=2.0) if n % 2 else None
        label = None if draft else "a"
        wanted[core.add(noise(n), label, annotation=draft).sha256] = draft
    cut = core.cut()
    for row in core.rows(cut):
        soft = wanted[row.sha256] is not None
        assert (row.class_id, row.weight) == (("b", 2.0) if soft else ("a", 1.0))
        assert row.probabilities == ({"a": 0.25, "b": 0.75} if soft else {})
    data = training_data.dataset(SnapshotRepository(core.store).read("cells", "latest"))
    read = {item.label: item.probabilities for item in data.train}
    assert (data.class_ids, read) == (("a", "b"), {0: (), 1: ((0, 0.25), (1, 0.75))})
    # What a person says takes the place of all of it.
    [first, second, *_] = [digest for digest, draft in wanted.items() if draft]
    core.say(first, "b")
    change_classes(core, lambda t: t.merge(t.existing("b"), t.existing("a")))
    rows = {row.sha256: row for row in core.rows(core.cut())}
    assert (rows[first].probabilities, rows[first].weight) == ({}, 1.0)
    assert rows[second].probabilities == {"a": 1.0}


def test_a_soft_label_that_mentions_a_split_class_counts_as_its_one_class(core) -> None:
    core.add(noise(1), "a")
    core.add(noise(2), annotation=Draft(probabilities={"a": 0.25, "b": 0.5, "c": 0.25}))
    core.add(noise(3), annotation=Draft(probabilities={"a": 0.25, "c": 0.75}))
    change_classes(core, lambda t: t.split(t.existing("c"), ["c1", "c2"]))
    cut = core.cut()
    assert cut.left_out["class_was_split"] == 1  # the one that counts as it
    rows = [(row.class_id, row.probabilities) for row in core.rows(cut)]
    assert sorted(rows, key=str) == [("a", {}), ("b", {})]


def test_labels_mean_what_became_of_their_classes(core) -> None:
    receipts = core.submit_all((noise(n), "abcd"[n % 4]) for n in range(16))
    change_classes(core, lambda t: t.merge(t.existing("b"), t.existing("a")))
    change_classes(core, lambda t: t.split(t.existing("c"), ["c1", "c2"]))
    change_classes(core, lambda t: t.retire(t.existing("d")))
    labels.submit(
        core.database, "cells", receipts[0].sha256,
        Statement(AuthorKind.HUMAN, "ann", EventKind.RETRACT),
    )  # fmt: skip
    cut = core.cut()
    classes = Counter(row.class_id for row in core.rows(cut))
    assert classes == {"a": 7, "d": 4}  # four of a, one taken back; four of b
    assert cut.left_out == {
        "protected_split": 0, "shows_the_same": 0, "class_was_split": 4, "retracted": 1
    }  # fmt: skip
    assert [one.id for one in cut.manifest.classes] == ["a", "d"]
    assert cut.manifest.class_version > 0
    assert cut.manifest.leaks.left_out == cut.left_out


def test_the_manifest_tells_where_labels_come_from(core) -> None:
    receipts = core.submit_all((noise(n), "aab"[n % 3]) for n in range(30))
    for n in (40, 41):
        core.add(noise(n), "b", author_kind="app")
    for receipt, what in zip(receipts, ("accepted", "edited"), strict=False):
        draft = Draft(classes=("b",))
        say(core, receipt.sha256, draft, suggested_by="cells:7", suggestion=what)
    manifest = core.cut().manifest
    assert manifest.suggested_by == {"cells:7": 2}
    sources = manifest.label_sources
    assert sources["train"]["app"] == 2
    assert "app" not in {**sources["val"], **sources["test"]}
    assert sum(one.get("human", 0) for one in sources.values()) == 2
    train = manifest.class_images["train"]
    mean = sum(train.values()) / 2
    assert manifest.class_weights == {
        name: pytest.approx(mean / count, abs=1e-6) for name, count in train.items()
    }


def test_the_leak_report_names_pairs_and_large_groups(core) -> None:
    receipts = core.submit_all((noise(n), "a") for n in range(10))
    core.submit_all((encoded(opened(noise(0)), "JPEG", quality=q), "a") for q in (70, 80, 90))
    found = core.labels()
    by_split = {found[r.sha256].split: n for n, r in enumerate(receipts)}
    for split in ("train", "test"):
        core.add(noise(by_split[split]), None, group="one panel")
    manifest = core.cut().manifest
    assert manifest.leaks.pairs["declared_group"] == 1
    assert manifest.leaks.left_out["shows_the_same"] == 1
    largest = manifest.leaks.largest_groups[0]
    assert (largest.images, largest.split) == (4, found[receipts[0].sha256].split)
    assert manifest.leak_pairs == 0


def test_nobody_waits_for_a_cut_and_what_comes_meanwhile_is_in_the_next(core, monkeypatch) -> None:
    """Somebody labels, and sends images, while the rows are being read."""
    receipts = core.submit_all((noise(n), "ab"[n % 2]) for n in range(12))
    app = core.add(noise(50), "a", author_kind="app").sha256
    original = CutRows._row
    meanwhile: list[str] = []

    def row(self, *fields):
        if not meanwhile:
            meanwhile.append(core.add(noise(60), "a").sha256)
            core.say(receipts[0].sha256, "changed")
            core.say(app, "b")  # its group has no split in the view
        return original(self, *fields)

    monkeypatch.setattr(CutRows, "_row", row)
    cut = core.cut()
    monkeypatch.undo()
    rows = {row.sha256: row for row in core.rows(cut)}
    assert cut.manifest.label_sequence == 13
    assert meanwhile[0] not in rows
    assert rows[receipts[0].sha256].class_id == "a"
    assert (rows[app].class_id, rows[app].label_source) == ("a", "app")
    again = core.cut()
    rows = {row.sha256: row for row in core.rows(again)}
    assert again.manifest.label_sequence == 16
    assert meanwhile[0] in rows
    assert rows[receipts[0].sha256].class_id == "changed"
    assert rows[app].split == "train"


def test_several_may_cut_at_once(core) -> None:
    core.submit_all((noise(n), "ab"[n % 2]) for n in range(12))
    for n in range(20, 32):
        core.add(noise(n), "a", author_kind="app")
    with ThreadPoolExecutor(4) as threads:
        cuts = list(threads.map(lambda _: core.cut(), range(4)))
    assert len({cut.manifest.id for cut in cuts}) == 1
    assert sorted(cut.created for cut in cuts) == [False, False, False, True]
    latest = SnapshotRepository(core.store).latest("cells")
    assert latest.id == cuts[0].manifest.id
    assert latest.label_sources["train"]["app"] == 12

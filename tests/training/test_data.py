"""Snapshots that nothing can be learned from are refused before any work is done."""

import hashlib
import re

import numpy as np
import pytest
import torch
from support import shapes
from support.digits import pictures, rows, write_digits
from support.photographs import photograph
from support.training_site import PROBE, Site

from visionloop.errors import CorruptError, InvalidInputError, NotFoundError
from visionloop.images import Limits
from visionloop.preprocessing import Preprocessing, eval_preprocessing
from visionloop.snapshot import SnapshotClass, SnapshotRepository, SnapshotRow, blob_key
from visionloop_inference.decoding import decode
from visionloop_training.classes import notes
from visionloop_training.data import Blobs, Dataset, dataset
from visionloop_training.targets import targets


def read(site: Site):
    return dataset(SnapshotRepository(site.store).read("digits", "latest"))


def test_splits_and_classes_are_taken_over(site: Site):
    site.write({"3": 10, "7": 10})
    data = read(site)
    assert data.class_ids == ("3", "7")
    assert data.class_names == ("Digit 3", "Digit 7")
    assert (len(data.train), len(data.val), len(data.test)) == (12, 4, 4)
    assert {item.label for item in data.train} == {0, 1}


@pytest.mark.parametrize(
    ("per_class", "splits", "words"),
    [
        ({"4": 10}, ("train", "val", "test"), "only '4'"),
        ({"4": 10, "5": 10}, ("train", "test"), "no image in val"),
        ({"4": 10, "5": 10}, ("train", "val"), "no image in test"),
        ({"4": 10, "5": 10}, ("val", "test"), "no image in train"),
        ({"1": 1, "4": 3, "5": 3, "6": 3}, ("val", "test", "train"), "3 train images for 4"),
        ({"1": 1, "4": 9}, ("val", "test", "train"), "all train images are of one class"),
    ],
)
def test_untrainable_snapshots_are_refused(site: Site, per_class, splits, words: str):
    site.write(per_class, splits=splits)
    with pytest.raises(InvalidInputError, match=re.escape(words)) as caught:
        site.train(*PROBE)
    assert "digits" in str(caught.value)
    assert not list(site.store.list("models/"))


def test_a_class_that_nobody_labelled_is_left_out(site: Site):
    write_digits(site.store, "digits", {"4": 10, "5": 10})
    made, _ = rows({"4": 10, "5": 10})
    classes = [SnapshotClass(id=name, name=name) for name in ("4", "5", "9")]
    SnapshotRepository(site.store).write(
        "digits", made, classes, {}, label_sequence=99, parent=None
    )
    assert read(site).class_ids == ("4", "5")


def test_a_missing_blob_is_named(site: Site):
    site.write({"4": 10, "5": 10})
    item = read(site).train[0]
    site.store.delete(blob_key(item.sha256))
    with pytest.raises(NotFoundError, match=item.sha256):
        site.train(*PROBE)


def test_an_altered_blob_is_refused(site: Site):
    site.write({"4": 10, "5": 10})
    item = read(site).val[0]
    site.store.put(blob_key(item.sha256), pictures(9)[0])
    with pytest.raises(CorruptError, match=item.sha256):
        site.train(*PROBE)


def test_a_damaged_cache_is_fetched_anew(site: Site):
    site.write({"4": 10, "5": 10})
    item = read(site).val[0]
    blobs = Blobs(site.store, site.folder / "blobs")
    whole = blobs.read(item.sha256)
    [path] = (site.folder / "blobs").rglob(item.sha256)
    path.write_bytes(whole[:-3])
    assert blobs.read(item.sha256) == whole


def test_a_large_photograph_gives_training_and_serving_the_same_pixels(site: Site):
    data = photograph("china")
    sha = hashlib.sha256(data).hexdigest()
    site.store.put(blob_key(sha), data)
    blobs = Blobs(site.store, site.folder / "cache")
    half = (0.5, 0.5, 0.5)
    whole, reduced = (
        eval_preprocessing(64, 0.875, "bicubic", half, half, reducing_gap=gap)
        for gap in (None, 2.0)
    )
    [trained] = blobs.prepared([sha], reduced)
    [batch] = blobs.batches([sha], reduced)
    as_told = Preprocessing.model_validate_json(reduced.model_dump_json())
    served, _ = decode(data, as_told, Limits())
    assert np.array_equal(trained, served.row)
    assert np.array_equal(batch[0], served.row)
    assert not np.array_equal(blobs.prepared([sha], whole)[0], trained)


def read_shapes(site: Site, made: list[SnapshotRow], task: str = "multi_label") -> Dataset:
    shapes.write_rows(site.store, "shapes", made, task)
    return dataset(SnapshotRepository(site.store).read("shapes", "latest"))


def test_several_classes_an_image_become_rows_of_zeros_and_ones(site: Site):
    made, _ = shapes.rows(40)
    data = read_shapes(site, made)
    assert (data.task, data.class_ids) == ("multi_label", shapes.CLASSES)
    rows = targets(data.test, data)
    assert (rows.dtype, tuple(rows.shape)) == (torch.float32, (8, 3))
    labels = {row.sha256: set(row.labels) for row in made}
    for item, row in zip(data.test, rows.tolist(), strict=True):
        assert dict(zip(shapes.CLASSES, row, strict=True)) == {
            name: float(name in labels[item.sha256]) for name in shapes.CLASSES
        }
    assert any(not item.classes for item in data.train)  # "none of these" is an answer


def test_a_class_without_a_train_image_leaves_its_images_to_the_others(site: Site):
    made = [
        row.model_copy(update={"labels": tuple(c for c in row.labels if c != "bar")})
        if row.split == "train"
        else row
        for row in shapes.rows(60)[0]
    ]
    data = read_shapes(site, made)
    assert data.class_ids == ("disc", "square")
    assert data.left_out == {"Bar": ("val", "test")}
    assert (len(data.val), len(data.test)) == (12, 12)
    assert "no image counts as having it" in notes(data, None)[0]


@pytest.mark.parametrize(
    ("task", "change", "words"),
    [
        (
            "multi_label",
            {"class_id": "disc", "labels": ()},
            "1 of 40 images are labelled as having",
        ),
        ("classification", {"class_id": "disc"}, "labels of several classes"),
        ("detection", {}, "is one of detection"),
    ],
)
def test_labels_of_two_kinds_are_refused(site: Site, task: str, change, words: str):
    made, _ = shapes.rows(40)
    made[0] = made[0].model_copy(update=change)
    with pytest.raises(InvalidInputError, match=words):
        read_shapes(site, made, task)


def test_all_images_with_the_same_classes_teach_nothing(site: Site):
    made = [row.model_copy(update={"labels": ("bar", "disc")}) for row in shapes.rows(40)[0]]
    with pytest.raises(InvalidInputError, match="all train images are of the same classes"):
        read_shapes(site, made)


def test_one_class_that_images_have_or_not_is_too_little_to_learn(site: Site):
    """The others came into val and test only."""
    made = [
        row.model_copy(update={"labels": tuple(c for c in row.labels if c == "bar")})
        if row.split == "train"
        else row
        for row in shapes.rows(60)[0]
    ]
    with pytest.raises(InvalidInputError, match="all train images are of one class or none"):
        read_shapes(site, made)

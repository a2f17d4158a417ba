"""Classes that come, go, or have hardly any images: a run goes on and says so."""

import pytest
from support.digits import rows, write_digits
from support.training_site import PROBE, Site

from visionloop.snapshot import SnapshotClass, SnapshotRepository, blob_key
from visionloop_training.classes import notes
from visionloop_training.data import dataset


def read(site: Site):
    return dataset(SnapshotRepository(site.store).read("digits", "latest"))


def test_what_changed_and_what_is_thin_is_told(site: Site):
    site.write({"0": 40, "1": 40, "2": 2})  # two images: both in train
    told = notes(read(site), {"0": "0", "1": "1", "9-5f1e": "neun"})
    assert told[0].startswith("new class 'Digit 2'")
    assert told[1].startswith("retired class 'neun'")
    assert "class 'Digit 2' has 2 images in train" in told[2]
    assert "class 'Digit 2' has no image in val" in told[3]
    assert "class 'Digit 2' has no image in test" in told[4]
    assert len(told) == 5


def test_classes_are_told_by_the_names_that_people_gave(site: Site):
    made, pixels = rows({"0": 40, "1": 40, "2": 2})
    stray, more = rows({"7": 2}, splits=("test", "val"))
    for sha256, data in {**pixels, **more}.items():
        site.store.put(blob_key(sha256), data)
    names = {"0": "null", "1": "eins", "2": "zélle ☀", "7": "sieben"}
    classes = [SnapshotClass(id=class_id, name=name) for class_id, name in names.items()]
    SnapshotRepository(site.store).write(
        "digits", [*made, *stray], classes, {}, label_sequence=999, parent=None
    )
    told = notes(read(site), {"0": "null", "1": "eins"})
    assert told[0].startswith("class 'sieben' has labels in val and test but none in train")
    assert told[1].startswith("new class 'zélle ☀'")
    assert told[2].startswith("class 'zélle ☀' has 2 images in train")


def test_nothing_to_say_is_nothing_said(site: Site):
    site.write({"0": 40, "1": 40})
    assert notes(read(site), {"0": "0", "1": "1"}) == []
    assert notes(read(site), None) == []


@pytest.mark.long
def test_a_class_without_a_train_image_does_not_keep_the_others_from_training(site: Site):
    """And one of two images is trained."""
    write_digits(site.store, "digits", {"0": 40, "1": 40, "2": 2})
    made, _ = rows({"0": 40, "1": 40, "2": 2})
    stray, pixels = rows({"7": 2}, splits=("test", "val"))
    for sha256, data in pixels.items():
        site.store.put(blob_key(sha256), data)
    classes = [SnapshotClass(id=name, name=name) for name in ("0", "1", "2", "7")]
    SnapshotRepository(site.store).write(
        "digits", [*made, *stray], classes, {}, label_sequence=999, parent=None
    )
    data = read(site)
    assert data.class_ids == ("0", "1", "2")
    assert data.left_out == {"7": ("val", "test")}
    assert all(item.sha256 not in pixels for item in (*data.val, *data.test))
    result = site.train(*PROBE)
    assert "class '7' has labels in val and test but none in train" in result.notes[0]
    bundle = site.repository.read("reader", 1)
    assert [label.id for label in bundle.labels] == ["0", "1", "2"]
    assert any("class '2' has no image in test" in note for note in result.verdict.notes)


def test_a_class_that_is_retired_and_one_that_comes_are_compared_on_the_rest(probed: Site):
    site = probed
    later = site.write({"0": 40, "1": 40, "3": 40}).id
    result = site.train(*PROBE, snapshot=later)
    assert result.version == 2
    assert (result.verdict.label_change.added, result.verdict.label_change.removed) == (
        ["3"],
        ["2"],
    )
    assert result.verdict.images == 16
    assert [note.split(":")[0] for note in result.notes] == [
        "new class 'Digit 3'",
        "retired class 'Digit 2'",
    ]

"""A published version is scored on images that it has not learned from, of any dataset."""

import json
import os
from pathlib import Path

import pytest
from support import shapes
from support.digits import rows, write_digits
from support.file_bundles import publish_version
from support.training_site import FIRST, PROBE, Site

from visionloop.cli import main as cli
from visionloop.errors import InvalidInputError, NotFoundError
from visionloop.objectstore import ObjectStore, open_store
from visionloop.repository import ModelRepository, file_entry
from visionloop.snapshot import SnapshotClass, SnapshotRepository, blob_key
from visionloop_training import cache
from visionloop_training.app import main
from visionloop_training.assessment import Assessment, assess
from visionloop_training.assessment_words import words
from visionloop_training.stable import version


def assessed(site: Site, dataset: str = "digits", **options: object) -> Assessment:
    return assess(site.store, "reader", 1, dataset, site.cache, **options)  # type: ignore[arg-type]


def write_renamed(store: ObjectStore, names: dict[str, str], skipped: int) -> None:
    """A dataset "other" of digits with ids of its own, called as `names` says; the first `skipped`
    pictures of each are left out."""
    made, blobs = rows(dict.fromkeys(names, skipped + 20))
    kept = [
        row.model_copy(update={"class_id": f"id-{row.class_id}"})
        for row in made
        if int(row.group_id.rpartition("-")[2]) >= skipped
    ]
    for row in kept:
        store.put(blob_key(row.sha256), blobs[row.sha256])
    classes = [SnapshotClass(id=f"id-{digit}", name=name) for digit, name in names.items()]
    SnapshotRepository(store).write(
        "other", kept, classes, {}, label_sequence=len(kept), parent=None
    )


def test_on_its_own_snapshot_it_scores_what_its_report_says(probed: Site):
    bundle = probed.repository.read("reader", 1)
    found = assessed(probed)
    data = SnapshotRepository(probed.store).read("digits", "latest")
    assert found.learned == len(data.split("train")) + len(data.split("val"))
    assert found.evaluation.images == len(data.split("test"))
    assert found.evaluation.accuracy.value == pytest.approx(bundle.metrics["accuracy"])
    assert assessed(probed, split="test").predictions == found.predictions
    told = words(found)
    assert f"{bundle.metrics['accuracy']:.1%} on its own test images" in told
    assert f"{found.learned} images left out: the version has learned from them" in told


def test_of_a_later_snapshot_what_is_new_counts_whatever_its_split(probed: Site):
    probed.write(dict.fromkeys(FIRST, 60))
    found = assessed(probed)
    assert {row["split"] for row in found.predictions} == {"train", "val", "test"}
    assert found.evaluation.images == 60 + 24  # 20 new ones a class, and its own test images
    assert {row["split"] for row in assessed(probed, split="val").predictions} == {"val"}


def test_classes_of_another_dataset_count_by_name(probed: Site):
    # The pictures of 0 and 1 are called what the version calls them, those of 7 are strange to it.
    write_renamed(
        probed.store, {"0": "Digit 0", "1": "Digit 1", "7": "Seven"}, skipped=FIRST["0"] - 5
    )
    found = assessed(probed, "other")
    assert found.learned == 2 * 4  # of the five that it met before one is a test image
    assert found.unknown == {"Seven": 20}
    assert {row["label"] for row in found.predictions} == {"0", "1"}
    assert found.evaluation.images == 2 * 16
    assert "classes that the version does not have: Seven (20)" in words(found)


def test_a_new_head_has_learned_from_what_its_body_has(probed: Site):
    # Under another dataset each fifth image, which version 1 was trained on, is a test image.
    write_digits(probed.store, "other", FIRST, ("test", "train", "train", "val", "test"))
    result = probed.train(*PROBE, dataset="other", lane="fast")
    assert (result.version, result.summary["lane"]) == (2, "fast")
    found = assess(probed.store, "reader", 2, "digits", probed.cache)
    assert found.traced
    assert found.learned == 96  # four fifths of them
    assert found.evaluation.images == 24  # those that are test images in both
    probed.store.delete("models/reader/versions/1/bundle.json")
    found = assess(probed.store, "reader", 2, "digits", probed.cache)
    assert not found.traced  # what its body learned from is not known, and its own snapshot is
    assert found.learned == 72  # three fifths


def test_two_stores_may_share_a_cache(tmp_path: Path):
    asked = []
    for name in ("test", "production"):
        store = open_store((tmp_path / name).as_uri())
        publish_version(ModelRepository(store), tmp_path / f"run-{name}")
        asked.append(version(store, "cells", 1, tmp_path / "cache"))
    graphs = [one.folder / one.bundle.graph for one in asked]
    assert [file_entry(graph) for graph in graphs] == [
        one.bundle.files[one.bundle.graph] for one in asked
    ]


def test_a_version_in_use_stays_in_the_cache_and_one_before_it_may_go(tmp_path: Path):
    store = open_store((tmp_path / "store").as_uri())
    repository, cache_folder = ModelRepository(store), tmp_path / "cache"
    for number in (1, 2):
        publish_version(repository, tmp_path / f"run-{number}")
        folder = version(store, "cells", number, cache_folder).folder
        os.utime(folder, (1e9, 1e9))
    used = version(store, "cells", 2, cache_folder).folder
    cache.trim(cache_folder, limit_bytes=0)
    assert list((cache_folder / "models" / "cells").iterdir()) == [used]


def test_what_cannot_be_asked_is_told(probed: Site):
    with pytest.raises(NotFoundError, match="nowhere"):
        assessed(probed, "nowhere")
    with pytest.raises(InvalidInputError, match=r"no image is left .* learned from 72"):
        assessed(probed, split="train")
    shapes.write_shapes(probed.store, "shapes", 30)
    with pytest.raises(InvalidInputError, match="of multi_label and version 1 of reader of class"):
        assessed(probed, "shapes")


@pytest.mark.long
def test_several_classes_an_image(site: Site):
    shapes.write_shapes(site.store, "shapes", 120)
    bundle_metrics = site.train(*PROBE, dataset="shapes").metrics
    found = assess(site.store, "reader", 1, "shapes", site.cache)
    assert found.as_json()["evaluation"]["jaccard"]["value"] == pytest.approx(
        bundle_metrics["jaccard"]
    )
    assert found.as_json()["not_sure"] is None
    assert "Jaccard" in words(found)


@pytest.mark.long
def test_the_command_line(probed: Site, capfd: pytest.CaptureFixture[str]):
    write_digits(probed.store, "more", dict.fromkeys(FIRST, 45))
    where = ["--store", probed.url, "--cache", str(probed.cache), "--dataset", "more"]
    assert cli(["evaluate", "reader@1", *where]) == 0
    assert "version 1 of reader on 39 images of dataset more" in capfd.readouterr().out
    assert main([*where, "--model", "reader", "--evaluate", "1", "--json", "--split", "test"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["left_out"]["learned_from"] == 0
    assert len(document["predictions"]) == document["evaluation"]["images"] == 27
    assert cli(["evaluate", "reader", "--dataset", "more"]) == 64
    assert "write MODEL@NUMBER" in capfd.readouterr().err

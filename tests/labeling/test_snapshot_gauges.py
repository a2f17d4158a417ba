"""What /metrics says of the latest snapshot of a dataset."""

from collections import Counter
from itertools import islice

import pytest
from support.pictures import noise

from visionloop.objectstore import StoredObject
from visionloop.snapshot import SnapshotManifest
from visionloop.telemetry import labeling as metrics
from visionloop.telemetry.metrics import values
from visionloop_labeling import gauges, labels, snapshots
from visionloop_labeling.gauges import StoredGauges
from visionloop_labeling.leaks import JOINED_BY
from visionloop_labeling.snapshot_gauges import MAX_CLASSES, images_by_class

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture(autouse=True)
def always_measured(monkeypatch) -> None:
    """However long it takes on a busy machine."""
    monkeypatch.setattr(gauges, "REST", 0.0)


def told(gauge: metrics.metrics.Gauge, dataset: str) -> dict[tuple[str, ...], float]:
    """The series of one dataset, by their other label values."""
    found = values()[gauge.metric.name]
    return {labels[1:]: number for labels, (number,) in found.items() if labels[0] == dataset}


def by_split_and_class(manifest: SnapshotManifest) -> dict[tuple[str, ...], float]:
    return {
        (split, one.id): manifest.class_images.get(split, {}).get(one.id, 0)
        for split in ("train", "val", "test")
        for one in manifest.classes
    }


def gauged(core, dataset: str, *labels: str) -> list[str]:
    """A dataset with an image for each label; their digests."""
    core.create(dataset)
    return [
        core.add(noise(number), label, dataset=dataset).sha256
        for number, label in enumerate(labels)
    ]


def cut(core, dataset: str) -> SnapshotManifest:
    return snapshots.cut(core.database, core.store, dataset).manifest


def test_the_latest_snapshot_is_told_and_nothing_of_the_one_before(core, monkeypatch) -> None:
    digests = gauged(core, "told", *"aaaaaaaab")
    stored = StoredGauges(core.database, core.store)
    stored.measure()
    assert told(metrics.SNAPSHOT_IMAGES, "told") == {}
    first = cut(core, "told")
    stored.measure()
    assert told(metrics.SNAPSHOT_IMAGES, "told") == by_split_and_class(first)
    assert sum(told(metrics.SNAPSHOT_IMAGES, "told").values()) == 9
    assert told(metrics.SNAPSHOT_LEAK_PAIRS, "told") == {(kind,): 0 for kind in JOINED_BY}

    # "b" becomes "c", and two images turn out to be of one thing.
    said = labels.statement(class_name="c", author_kind="human", author="ada", event_id="")
    labels.submit(core.database, "told", digests[8], said)
    split_of = {one: label.split for one, label in core.labels("told").items()}
    parted = {split_of[digest]: number for number, digest in enumerate(digests[:8])}
    assert len(parted) > 1
    for number in islice(parted.values(), 2):
        core.add(noise(number), dataset="told", group="one panel")
    stored.measure()
    assert told(metrics.SNAPSHOT_IMAGES, "told") == by_split_and_class(first)  # not cut yet
    second = cut(core, "told")
    assert {one.id for one in second.classes} == {"a", "c"}
    read: Counter[str] = Counter()
    get = core.store.get

    def counts(key: str) -> StoredObject:
        read[key.rsplit("/")[-1]] += 1
        return get(key)

    monkeypatch.setattr(core.store, "get", counts)
    for _ in range(3):
        stored.measure()
    assert told(metrics.SNAPSHOT_IMAGES, "told") == by_split_and_class(second)
    assert told(metrics.SNAPSHOT_LEAK_PAIRS, "told")["declared_group",] == 1
    assert read == {"latest.json": 3, "manifest.json": 1}


def test_a_damaged_manifest_hides_nothing_else(core, caplog) -> None:
    gauged(core, "damaged", *"ab")
    manifest = cut(core, "damaged")
    stored = StoredGauges(core.database, core.store)
    stored.measure()
    assert told(metrics.SNAPSHOT_IMAGES, "damaged") == by_split_and_class(manifest)
    core.add(noise(5), "b", dataset="damaged")
    later = cut(core, "damaged")
    core.store.put(f"datasets/damaged/snapshots/{later.id}/manifest.json", b"{}")
    for _ in range(2):
        stored.measure()
    assert caplog.text.count("a snapshot cannot be described") == 1
    assert told(metrics.SNAPSHOT_IMAGES, "damaged") == {}
    assert told(metrics.SNAPSHOT_LEAK_PAIRS, "damaged") == {}
    assert values()[metrics.LABELS_SINCE_SNAPSHOT.metric.name]["damaged",] == [0]


def test_rare_classes_are_told_together(core) -> None:
    names = [f"c{number}" for number in range(MAX_CLASSES + 3)]
    said = [*names, "c52", "c51"]  # the last two are not rare
    core.submit_all((noise(number), name) for number, name in enumerate(said))
    found = images_by_class(core.cut().manifest)
    of_all = Counter[str]()
    for (_, name), images in found.items():
        of_all[name] += images
    assert len(of_all) == MAX_CLASSES + 1
    assert (of_all["other"], of_all["c51"], of_all["c52"]) == (3, 2, 2)
    assert sum(of_all.values()) == len(said)

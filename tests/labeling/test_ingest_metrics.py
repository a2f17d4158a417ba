"""What ingest counts: rows by the way they came, duplicates by kind, label events by kind."""

from collections import Counter

import pytest
from support.pictures import encoded, noise, opened

from visionloop.telemetry import labeling as metrics
from visionloop.telemetry.metrics import values
from visionloop_labeling import ingest, labels
from visionloop_labeling.duplicates import DuplicateKind
from visionloop_labeling.fold import AuthorKind, EventKind
from visionloop_labeling.labels import Statement
from visionloop_labeling.receipts import ImageRow, Outcome, Way

SAME_PIXELS = encoded(opened(noise(0)), "BMP")
ALIKE = encoded(opened(noise(0)), "JPEG", quality=90)


def counted(metric: metrics.metrics.Counter) -> Counter[tuple[str, ...]]:
    """All counts of this process by label values."""
    found = values()[metric.metric.name]
    return Counter({labels: int(number) for labels, (number,) in found.items()})


def duplicates(before: Counter[tuple[str, ...]]) -> dict[str, int]:
    return {kind: count for (kind,), count in (counted(metrics.DUPLICATES) - before).items()}


def test_an_image_is_a_duplicate_of_one_kind(core) -> None:
    before = counted(metrics.DUPLICATES)
    first = core.add(noise(0), batch="first")
    core.add(noise(1))
    assert duplicates(before) == {}
    core.add(noise(0))
    assert duplicates(before) == {"exact": 1}
    core.add(SAME_PIXELS)
    assert duplicates(before) == {"exact": 1, "pixels": 1}
    core.add(ALIKE)
    assert duplicates(before) == {"exact": 1, "pixels": 1, "near": 1}
    assert core.add(noise(0), batch="first").replayed
    core.add(b"no image")
    core.add(b"", "a", sha256=first.sha256)  # a label for an image that is there
    assert duplicates(before) == {"exact": 1, "pixels": 1, "near": 1}


def test_duplicates_within_one_transaction_are_counted_as_those_before_it(core) -> None:
    before = counted(metrics.DUPLICATES)
    core.submit_all((image, None) for image in (noise(0), SAME_PIXELS, noise(0), ALIKE, noise(1)))
    assert duplicates(before) == {"exact": 1, "pixels": 1, "near": 1}
    core.create("other")
    core.add(noise(0), dataset="other")
    assert duplicates(before) == {"exact": 1, "pixels": 1, "near": 1}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_what_is_not_committed_is_not_counted(core, monkeypatch) -> None:
    core.add(noise(0))
    before = [counted(one) for one in (metrics.DUPLICATES, metrics.INGEST_IMAGES)]

    def fails(name: str) -> None:
        if name == "ingest.effects":
            raise OSError("the disk is gone")

    monkeypatch.setattr(ingest, "failpoint", fails)
    with pytest.raises(OSError, match="the disk is gone"):
        core.add(noise(0), "a")
    assert [counted(one) for one in (metrics.DUPLICATES, metrics.INGEST_IMAGES)] == before


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_rows_are_counted_by_their_way(core) -> None:
    before = counted(metrics.INGEST_IMAGES)
    row = {"dataset": "cells", "batch": "b"}
    core.submit(
        ImageRow(ordinal=0, image=noise(0), way=Way.HTTP, **row),
        ImageRow(ordinal=1, image=noise(0), way=Way.IMPORT, **row),
        ImageRow(ordinal=2, image=b"", way=Way.FEEDBACK, **row),
        ImageRow(ordinal=0, image=noise(1), dataset="none", batch="b", way=Way.GRPC),
    )
    core.submit(ImageRow(ordinal=0, image=noise(0), way=Way.GRPC, **row))
    assert counted(metrics.INGEST_IMAGES) - before == {
        ("http", "accepted"): 1,
        ("import", "duplicate"): 1,
        ("feedback", "rejected"): 1,
        ("grpc", "rejected"): 1,
        ("grpc", "replayed"): 1,
    }


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_label_events_are_counted_by_kind(core) -> None:
    before = counted(metrics.LABEL_EVENTS)
    sha256 = core.add(noise(0), "a").sha256
    core.say(sha256, "b")
    for kind in (EventKind.FLAG, EventKind.UNDO):
        said = Statement(AuthorKind.HUMAN, "", kind)
        labels.submit(core.database, "cells", sha256, said)
    assert counted(metrics.LABEL_EVENTS) - before == {
        ("label", "import"): 1,
        ("label", "human"): 1,
        ("flag", "human"): 1,
        ("undo", "human"): 1,
    }


def test_what_may_be_counted_begins_at_zero() -> None:
    """The words of the programs' enums: a typo would leave the real series without a beginning."""
    metrics.begin_at_zero()
    outcomes = [*Outcome, "replayed"]
    assert {(way, outcome) for way in Way for outcome in outcomes} <= set(
        counted(metrics.INGEST_IMAGES)
    )
    assert {(kind,) for kind in DuplicateKind} <= set(counted(metrics.DUPLICATES))
    assert {(reason,) for reason in ingest._QUARANTINED} <= set(counted(metrics.INGEST_QUARANTINED))
    assert {(kind, author) for kind in EventKind for author in AuthorKind} <= set(
        counted(metrics.LABEL_EVENTS)
    )

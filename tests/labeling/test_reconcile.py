"""The reconciler says where database and store disagree; it deletes nothing, ever."""

import hashlib
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import delete, select
from support.pictures import noise

from visionloop.objectstore import open_store
from visionloop.snapshot import SnapshotRepository, blob_key
from visionloop.telemetry import labeling as metrics
from visionloop.telemetry.metrics import values
from visionloop_labeling import reconcile
from visionloop_labeling.database import open_database
from visionloop_labeling.reconcile import FOLDERS, Findings, Reconciler, folder_in_turn
from visionloop_labeling.schema import (
    Blob,
    IngestRow,
    Item,
    LabelEvent,
    LabelHead,
    NearDuplicate,
    QualityFlag,
)


def state(core, sha256: str) -> str:
    with core.database.read() as session:
        return session.scalar(select(Blob.state).where(Blob.sha256 == sha256))


def changes() -> Counter[str]:
    """What reconcilers of this process have counted."""
    found = values()[metrics.RECONCILER_CHANGES.metric.name]
    return Counter({kind: int(number) for (kind,), (number,) in found.items()})


def reconciler(core) -> Reconciler:
    return Reconciler(core.database, core.store, grace=timedelta(0))


def test_whole_things_are_left_in_peace(core) -> None:
    for number in range(5):
        core.add(noise(number), "a")
    assert reconciler(core).sweep() == Findings(images=5)


def test_a_lost_image_is_marked_and_found_again(core) -> None:
    lost, damaged, whole = (core.add(noise(number), "a").sha256 for number in range(3))
    core.store.delete(blob_key(lost))
    core.store.put(blob_key(damaged), b"torn")
    before = changes()
    assert reconciler(core).sweep() == Findings(images=3, missing=2)
    assert [state(core, one) for one in (lost, damaged, whole)] == ["missing", "missing", "stored"]
    assert reconciler(core).sweep() == Findings(images=3)  # said once
    assert core.add(noise(0), "a").outcome == "duplicate"  # its sender brings it back
    assert core.store.get(blob_key(lost)).data == noise(0)
    core.store.put(blob_key(damaged), noise(1))  # or somebody puts the store back
    assert state(core, lost) == "stored"
    assert reconciler(core).sweep() == Findings(images=3, found=1)
    assert state(core, damaged) == "stored"
    assert changes() - before == Counter(missing=2, found=1)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_store_that_is_put_back_costs_few_transactions(core, monkeypatch) -> None:
    digests = [f"{number:064x}" for number in range(20)]
    with core.database.write() as session:
        session.add_all(
            Blob(
                sha256=one, state="missing", size=1, media_type="image/png", width=1, height=1,
                pixel_sha256=one, phash=b"", thumbnail=b"", created=datetime.now(UTC),
            )
            for one in digests
        )  # fmt: skip
    for one in digests:
        core.store.put(blob_key(one), b"x")
    monkeypatch.setattr(reconcile, "_PAGE", 8)
    write, begun = core.database.write, []

    def counted():
        begun.append(1)
        return write()

    monkeypatch.setattr(core.database, "write", counted)
    assert reconciler(core).step(0) == Findings(images=20, found=20)
    assert len(begun) == 3
    assert {state(core, one) for one in digests} == {"stored"}


def test_an_object_without_a_row_is_counted_and_kept(core) -> None:
    core.add(noise(1), "a")
    digest = hashlib.sha256(noise(2)).hexdigest()
    core.store.put(blob_key(digest), noise(2))
    found = reconciler(core).sweep()
    assert found == Findings(images=1, unclaimed=1, unclaimed_bytes=len(noise(2)))
    assert core.store.get(blob_key(digest)).data == noise(2)
    # One that is young may be of a row on its way.
    assert Reconciler(core.database, core.store).sweep() == Findings(images=1)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_database_put_back_from_before_costs_no_snapshot_its_images(core) -> None:
    sha256s = [core.add(noise(number), "ab"[number % 2]).sha256 for number in range(6)]
    cut = core.cut()
    with core.database.write() as session:  # as a backup of an hour ago knows it
        for table in (LabelHead, LabelEvent, NearDuplicate, QualityFlag, IngestRow, Item, Blob):
            session.execute(delete(table))
    assert reconciler(core).sweep().unclaimed == 6
    rows = SnapshotRepository(core.store).read("cells", cut.manifest.id).rows
    assert {row.sha256 for row in rows} == set(sha256s)
    for row in rows:
        assert hashlib.sha256(core.store.get(blob_key(row.sha256)).data).hexdigest() == row.sha256


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_two_databases_in_one_prefix_do_each_other_no_harm(core, tmp_path) -> None:
    other = open_database(f"sqlite:///{tmp_path / 'other.db'}")
    mine = core.add(noise(1), "a").sha256
    assert Reconciler(other, core.store, grace=timedelta(0)).sweep().unclaimed == 1
    assert core.store.get(blob_key(mine)).data == noise(1)
    other.close()


@pytest.mark.s3
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_same_on_a_real_s3_server(core, s3_url: str) -> None:
    store = open_store(s3_url)
    core.store = core.ingest._store = store
    sha256s = [core.add(noise(number), "a").sha256 for number in range(3)]
    store.delete(blob_key(sha256s[0]))
    store.put(blob_key("f" * 64), b"nobody's")
    assert reconciler(core).sweep() == Findings(images=3, missing=1, unclaimed=1, unclaimed_bytes=8)


def test_every_folder_has_its_turn_within_a_day() -> None:
    every = 86_400 / FOLDERS
    turns = {folder_in_turn(1.7e9 + every * n, every) for n in range(FOLDERS)}
    assert turns == set(range(FOLDERS))

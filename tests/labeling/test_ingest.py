"""Rows into receipts: exactly once, duplicates, conflicts, bad rows."""

import hashlib
from dataclasses import replace

import pytest
from PIL import Image
from sqlalchemy import func, select
from support.pictures import encoded, noise, opened, png

from visionloop.errors import PermissionDeniedError, UnavailableError
from visionloop.images import Limits
from visionloop.objectstore import open_store
from visionloop.snapshot import SnapshotRepository, blob_key
from visionloop_labeling import datasets, snapshots
from visionloop_labeling.database import open_database
from visionloop_labeling.ingest import Ingest
from visionloop_labeling.receipts import ImageRow, Outcome, Way
from visionloop_labeling.schema import Blob, ImageGroup, IngestRow, Item, LabelEvent

ROW = ImageRow(
    dataset="cells",
    batch="b",
    ordinal=0,
    image=noise(0),
    label="good",
    group="",
    attributes={"line": "3"},
    author_kind="import",
    author="ada",
    source="a/b.png",
    way=Way.HTTP,
)


def count(core, table) -> int:
    with core.database.read() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def test_a_new_image_is_stored_labelled_and_split(core) -> None:
    receipt = core.submit(ROW)[0]
    digest = hashlib.sha256(ROW.image).hexdigest()
    assert receipt.outcome is Outcome.ACCEPTED
    assert (receipt.sha256, receipt.reason, receipt.replayed) == (digest, "", False)
    assert core.store.get(blob_key(digest)).data == ROW.image
    label = core.labels()[digest]
    assert (label.class_name, label.class_key, label.split) == ("good", "good", "train")
    assert (label.attributes, label.source, label.author) == ({"line": "3"}, "a/b.png", "ada")
    assert (label.author_kind, label.sequence, label.disputed) == ("import", 1, False)


def test_the_same_row_again_is_answered_and_changes_nothing(core) -> None:
    first = core.submit(ROW)[0]
    again = core.submit(ROW)[0]
    assert again == replace(first, replayed=True)
    assert (count(core, Item), count(core, LabelEvent), count(core, IngestRow)) == (1, 1, 1)


def test_the_same_row_twice_in_one_group(core) -> None:
    prepared = core.ingest.prepare(ROW)
    receipts = core.ingest.commit([prepared, prepared])
    assert [receipt.replayed for receipt in receipts] == [False, True]
    assert count(core, LabelEvent) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"image": noise(1)},
        {"label": "bad"},
        {"label": None},
        {"group": "g"},
        {"attributes": {}},
        {"author_kind": "human"},
        {"source": "other"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_row_under_the_same_key_is_a_conflict(core, change: dict) -> None:
    core.submit(ROW)
    receipt = core.submit(replace(ROW, **change))[0]
    assert (receipt.outcome, receipt.reason, receipt.field) == ("rejected", "conflict", "ordinal")
    assert 'batch "b"' in receipt.message
    assert (count(core, Item), count(core, LabelEvent)) == (1, 1)
    assert core.submit(ROW)[0].outcome is Outcome.ACCEPTED  # the first answer stands


def test_a_refused_row_may_be_corrected_under_its_key(core) -> None:
    bad = replace(ROW, image=b"not an image")
    assert core.submit(bad)[0].reason == "not_an_image"
    assert core.submit(bad)[0].replayed
    assert core.submit(ROW)[0].outcome is Outcome.ACCEPTED
    assert core.submit(ROW)[0].replayed
    assert count(core, IngestRow) == 1


def test_the_same_bytes_are_one_image(core) -> None:
    core.submit(ROW)
    receipt = core.add(ROW.image, "good", attributes={"line": "4", "shift": "late"})
    assert (receipt.outcome, receipt.reason) == ("duplicate", "")
    assert count(core, Item) == 1
    # What the first row said stands; what it left open is filled in.
    assert core.labels()[receipt.sha256].attributes == {"line": "3", "shift": "late"}


def test_the_same_bytes_within_one_group(core) -> None:
    receipts = core.submit(ROW, replace(ROW, ordinal=1))
    assert [receipt.outcome for receipt in receipts] == ["accepted", "duplicate"]


def test_a_duplicate_that_says_otherwise_is_recorded_and_shown(core) -> None:
    core.submit(ROW)
    receipt = core.add(ROW.image, "bad")
    assert (receipt.outcome, receipt.reason) == ("duplicate", "label_conflict")
    assert '"good"' in receipt.message
    assert '"bad" stands' in receipt.message
    label = core.labels()[receipt.sha256]
    assert (label.class_name, label.disputed) == ("bad", True)
    core.say(receipt.sha256, "good")
    label = core.labels()[receipt.sha256]
    assert (label.class_name, label.disputed) == ("good", False)


def test_importing_the_old_table_again_does_not_undo_a_correction(core) -> None:
    sha256 = core.submit(ROW)[0].sha256
    core.say(sha256, "bad")
    receipt = core.add(ROW.image, "good")
    assert receipt.reason == "label_conflict"
    assert '"bad" stands' in receipt.message
    label = core.labels()[sha256]
    assert (label.class_name, label.author_kind, label.disputed) == ("bad", "human", True)


def test_the_same_pixels_in_another_file_share_the_group(core) -> None:
    tiny = Image.linear_gradient("L").resize((20, 20)).convert("RGB")  # too small for a pHash
    first, second = core.add(png(tiny), "a"), core.add(encoded(tiny, "BMP"), "b")
    assert second.outcome is Outcome.ACCEPTED
    assert first.sha256 != second.sha256
    labels = core.labels()
    assert labels[first.sha256].group == labels[second.sha256].group
    assert labels[first.sha256].split == labels[second.sha256].split


def test_declared_groups_stay_together_whatever_their_size(core) -> None:
    receipts = [core.add(noise(n), "ab"[n % 2], group="patient 7") for n in range(40)]
    labels = core.labels()
    assert len({labels[one.sha256].split for one in receipts}) == 1
    assert count(core, ImageGroup) == 1


def test_a_group_declared_later_joins_what_may_be_joined(core) -> None:
    free, other = core.add(noise(1)), core.add(noise(2), "a", group="g")
    assert core.add(noise(1), None, group="g").outcome is Outcome.DUPLICATE
    core.say(free.sha256, "a")
    labels = core.labels()
    assert labels[free.sha256].split == labels[other.sha256].split
    assert count(core, ImageGroup) == 1


def test_an_image_without_a_label_waits(core) -> None:
    receipt = core.add(noise(1))
    assert receipt.outcome is Outcome.ACCEPTED
    assert core.labels() == {}
    with core.database.read() as session:
        assert session.scalar(select(ImageGroup.split)) is None


@pytest.mark.parametrize(
    ("change", "reason", "field"),
    [
        ({"image": b""}, "empty", "image"),
        ({"image": b"%PDF-1.4"}, "unsupported_format", "image"),
        ({"label": "  "}, "invalid_input", "label"),
        ({"label": "x" * 201}, "invalid_input", "label"),
        ({"label": "a\tb"}, "invalid_input", "label"),
        ({"group": "a\x00b"}, "invalid_input", "group"),
        ({"attributes": {"=cmd": "x"}}, "invalid_input", "attributes"),
        ({"attributes": {"a": "x" * 201}}, "invalid_input", "attributes.a"),
        ({"attributes": {f"a{n}": "" for n in range(33)}}, "invalid_input", "attributes"),
        ({"author_kind": "robot"}, "invalid_input", "author_kind"),
        ({"author": "x" * 201}, "invalid_input", "author"),
        ({"source": "x" * 1001}, "invalid_input", "source"),
        ({"batch": ""}, "invalid_input", "batch"),
        ({"ordinal": -1}, "invalid_input", "ordinal"),
        ({"ordinal": 2**63}, "invalid_input", "ordinal"),
        ({"dataset": "none"}, "not_found", "dataset"),
        ({"dataset": "../x"}, "invalid_input", "dataset"),
    ],
)
def test_a_bad_row_is_refused_alone(core, change: dict, reason: str, field: str) -> None:
    good = [replace(ROW, ordinal=n, image=noise(n)) for n in (1, 2)]
    receipts = core.submit(good[0], replace(ROW, **change), good[1])
    assert [receipt.outcome for receipt in receipts] == ["accepted", "rejected", "accepted"]
    assert (receipts[1].reason, receipts[1].field, receipts[1].sha256) == (reason, field, "")
    assert len(receipts[1].message) > 20
    assert count(core, Item) == 2


def test_names_are_trimmed_and_spelled_one_way(core) -> None:
    composed, combined = "Caf\u00e9", " Cafe\u0301 "
    first, second = core.add(noise(1), composed), core.add(noise(2), combined)
    labels = core.labels()
    assert labels[first.sha256].class_key == labels[second.sha256].class_key


def test_class_ids_are_readable_and_distinct(core) -> None:
    names = ["good", "Good", "GOOD!", "日本", "本日", "a b", "a-b", "x" * 200]
    digests = [core.add(noise(n), name).sha256 for n, name in enumerate(names)]
    labels = core.labels()
    keys = [labels[digest].class_key for digest in digests]
    assert len(set(keys)) == len(names)
    assert keys[0] == "good"
    assert all(key.isascii() and 0 < len(key) <= 80 for key in keys)


def test_the_same_import_gives_the_same_snapshot_elsewhere(core) -> None:
    for name in ("one", "two"):
        core.create(name)
        for n in range(12):
            core.add(noise(n), "ab"[n % 2], dataset=name, batch="b", ordinal=n)
    with core.database.read() as session:
        groups = session.execute(
            select(ImageGroup.key, ImageGroup.split).order_by(ImageGroup.id)
        ).all()
    # The dataset's name is the salt, so only ties may differ; twelve images in order have none.
    assert groups[:12] == groups[12:]


def test_an_unreachable_store_leaves_nothing(core, monkeypatch) -> None:
    def fail(key: str, data: bytes) -> str:
        raise UnavailableError("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(core.store, "put_if_absent", fail)
        with pytest.raises(UnavailableError):
            core.submit(ROW)
    assert (count(core, Item), count(core, IngestRow), count(core, Blob)) == (0, 0, 0)
    assert core.submit(ROW)[0].outcome is Outcome.ACCEPTED  # the same row, no longer refused


def test_sizes_are_those_of_the_oriented_image(core) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90° for display
    lying = encoded(opened(noise(3, side=40)).resize((60, 40)), "JPEG", exif=exif)
    digest = core.add(lying, "a").sha256
    with core.database.read() as session:
        blob = session.get_one(Blob, digest)
        assert (blob.width, blob.height, blob.media_type) == (40, 60, "image/jpeg")


@pytest.mark.s3
def test_the_same_on_a_real_s3_server(s3_url: str, tmp_path) -> None:
    store = open_store(s3_url)
    database = open_database(f"sqlite:///{tmp_path / 'l.db'}")
    ingest = Ingest(database, store, Limits())
    with database.write() as session:
        datasets.create(session, "cells")
    rows = [replace(ROW, ordinal=n, image=noise(n)) for n in range(4)]
    receipts = ingest.commit([ingest.prepare(row) for row in rows])
    assert {receipt.outcome for receipt in receipts} == {"accepted"}
    assert {stat.key for stat in store.list("blobs/")} == {blob_key(r.sha256) for r in receipts}
    again = ingest.commit([ingest.prepare(row) for row in rows])
    assert all(receipt.replayed for receipt in again)
    cut = snapshots.cut(database, store, "cells")
    assert {row.sha256 for row in SnapshotRepository(store).read("cells", "latest").rows} == {
        receipt.sha256 for receipt in receipts
    }
    assert cut.created
    ingest.close()
    database.close()


def test_a_refusal_is_not_repeated_once_its_reason_is_gone(core) -> None:
    small = Ingest(core.database, core.store, Limits(max_bytes=100))
    refused = small.commit([small.prepare(ROW)])[0]
    small.close()
    assert (refused.outcome, refused.reason) == ("rejected", "too_many_bytes")
    assert core.submit(ROW)[0].outcome is Outcome.ACCEPTED
    assert count(core, IngestRow) == 1


def test_a_damaged_object_in_the_store_is_written_anew(core) -> None:
    key = blob_key(hashlib.sha256(ROW.image).hexdigest())
    core.store.put(key, ROW.image[:100])
    assert core.submit(ROW)[0].outcome is Outcome.ACCEPTED
    assert core.store.get(key).data == ROW.image


@pytest.mark.parametrize("source", ["a\0b", "a\ud800b"], ids=["nul", "half a character"])
def test_a_refused_row_with_an_unusable_source_spares_the_rows_beside_it(core, source) -> None:
    bad = replace(ROW, ordinal=1, source=source)
    assert [one.outcome for one in core.submit(ROW, bad)] == ["accepted", "rejected"]
    with core.database.read() as session:
        kept = session.scalar(select(IngestRow.source).where(IngestRow.ordinal == 1))
    assert kept == ""


def test_what_the_store_says_is_not_told_to_callers(core, monkeypatch, caplog) -> None:
    def denied(*_arguments) -> None:
        raise PermissionDeniedError("file:///srv/secret/blobs: Permission denied (user id 0)")

    with monkeypatch.context() as patch:
        patch.setattr(core.store, "put_if_absent", denied)
        with pytest.raises(UnavailableError) as failure:
            core.submit(ROW)
    assert "secret" not in str(failure.value)
    assert "secret" in caplog.records[-1].error
    assert core.submit(ROW)[0].outcome is Outcome.ACCEPTED


def test_a_name_that_grows_in_its_one_spelling_is_measured_so(core) -> None:
    grows = "\u0958" * 101  # each becomes two characters in NFC
    receipt = core.add(noise(0), grows)
    assert (receipt.reason, receipt.field) == ("invalid_input", "label")
    assert "202 characters" in receipt.message
    shrinks = "e\u0301" * 200  # each two become one
    assert core.add(noise(0), shrinks).outcome is Outcome.ACCEPTED

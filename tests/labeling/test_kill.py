"""SIGKILL in the middle of ingest, restart, send again: nothing lost, doubled or half-visible."""

import os
import random
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from support.labeling_server import LabelingServer, running_labeling
from support.pictures import noise, opened, png

from visionloop.objectstore import open_store
from visionloop.proto.v1 import labeling_pb2 as pb
from visionloop.snapshot import blob_key

ROUNDS = int(os.environ.get("KILL_ROUNDS", "2"))
CHUNK = 8  # rows that are on their way at once
DATASET = "cells"


def rows() -> list[pb.SubmitImageRequest]:
    """32 rows: 28 images, two exact copies (one with another label), a near one, a bad one."""
    images = [noise(n) for n in range(28)]
    images += [images[3], images[9], png(opened(images[0]).rotate(180)), b"not an image"]
    return [
        pb.SubmitImageRequest(
            dataset=DATASET,
            batch="import",
            ordinal=number,
            image=image,
            label=pb.Label(class_name="ab"[number % 2]),
            group="panel" if number in (5, 6, 7) else "",
            attributes={"row": str(number)},
            author_kind=pb.AUTHOR_KIND_IMPORT,
        )
        for number, image in enumerate(images)
    ]


class _Sender:
    """Sends rows a chunk at a time and keeps the receipts, however the stream ends."""

    def __init__(self, server: LabelingServer) -> None:
        self.receipts: list[pb.SubmitImageReceipt] = []
        self.broken = False
        self._answered = threading.Semaphore(CHUNK)
        try:
            for receipt in server.stub.SubmitImages(self._requests(), timeout=60):
                self.receipts.append(receipt)
                self._answered.release()
        except grpc.RpcError:
            self.broken = True
        finally:
            self._answered.release(len(rows()))

    def _requests(self) -> Iterator[pb.SubmitImageRequest]:
        for request in rows():
            self._answered.acquire()
            yield request


def facts(folder: Path) -> dict[str, object]:
    """What database and store say, read from outside the program."""
    connection = sqlite3.connect(f"file:{folder / 'labeling.db'}?mode=ro", uri=True)
    try:
        ask = connection.execute
        blobs = dict(ask("SELECT sha256, state FROM blob").fetchall())
        events = [row[0] for row in ask("SELECT sequence FROM label_event ORDER BY sequence")]
        found = {
            "blobs": set(blobs),
            "states": set(blobs.values()),
            "items": [row[0] for row in ask("SELECT sha256 FROM item ORDER BY position")],
            "positions": [row[0] for row in ask("SELECT position FROM item ORDER BY position")],
            "sequences": events,
            "heads": ask("SELECT count(*) FROM label_head").fetchone()[0],
            "rows": dict(ask("SELECT ordinal, outcome FROM ingest_row").fetchall()),
            "labelled": [row[0] for row in ask("SELECT labelled FROM dataset")],
            "split_counts": ask("SELECT sum(images) FROM split_count").fetchone()[0] or 0,
            "problems": ask("PRAGMA foreign_key_check").fetchall(),
            "integrity": ask("PRAGMA integrity_check").fetchone()[0],
        }
    finally:
        connection.close()
    store = open_store(f"file://{folder / 'store'}")
    found["objects"] = {stat.key for stat in store.list("blobs/")}
    return found


def check_whole(found: dict[str, object]) -> None:
    """Every half is there with its other half."""
    assert found["states"] <= {"stored"}
    assert found["objects"] == {blob_key(sha256) for sha256 in found["blobs"]}
    assert set(found["items"]) == found["blobs"]
    assert len(found["items"]) == len(set(found["items"]))
    assert found["positions"] == list(range(1, len(found["items"]) + 1))
    assert found["sequences"] == list(range(1, len(found["sequences"]) + 1))
    answered = [outcome for outcome in found["rows"].values() if outcome != "rejected"]
    assert len(found["sequences"]) == len(answered)  # each of these rows has a label
    assert found["heads"] == len(found["items"]) == found["split_counts"] == sum(found["labelled"])
    assert found["problems"] == []
    assert found["integrity"] == "ok"


def plain(receipt: pb.SubmitImageReceipt) -> tuple[object, ...]:
    """A receipt but for `replayed`."""
    return receipt.ordinal, receipt.outcome, receipt.sha256, receipt.reason, receipt.message


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[list[tuple[object, ...]], str]:
    """The receipts and the snapshot of a run that nobody kills."""
    with running_labeling(tmp_path_factory.mktemp("undisturbed")) as server:
        server.create_dataset(DATASET)
        receipts = [plain(receipt) for receipt in _Sender(server).receipts]
        snapshot = server.stub.CreateSnapshot(pb.CreateSnapshotRequest(dataset=DATASET))
    assert len(receipts) == 32
    return receipts, snapshot.id


@pytest.mark.kill
@pytest.mark.parametrize("round_number", range(ROUNDS))
@pytest.mark.parametrize(
    ("failpoint", "passes"),
    [("ingest.intent", 4), ("ingest.blob_stored", 29), ("ingest.committed", 4)],
)
def test_killed_at_a_failpoint(
    tmp_path: Path, undisturbed, failpoint: str, passes: int, round_number: int
) -> None:
    which = random.Random(f"{failpoint}{round_number}").randint(1, passes)
    with running_labeling(tmp_path, VISIONLOOP_FAILPOINT=f"{failpoint}:{which}") as server:
        server.create_dataset(DATASET)
        before = _Sender(server)
        assert before.broken
        server.wait_killed()
    _resume(tmp_path, before.receipts, undisturbed)


@pytest.mark.kill
@pytest.mark.parametrize("round_number", range(ROUNDS))
def test_killed_at_any_moment(tmp_path: Path, undisturbed, round_number: int) -> None:
    moment = random.Random(round_number).uniform(0.0, 0.3)
    with running_labeling(tmp_path) as server:
        server.create_dataset(DATASET)
        killer = threading.Timer(moment, server.process.kill)
        killer.start()
        before = _Sender(server)
        killer.join()
        server.wait_killed()
    _resume(tmp_path, before.receipts, undisturbed)


def _resume(
    folder: Path,
    received: list[pb.SubmitImageReceipt],
    undisturbed: tuple[list[tuple[object, ...]], str],
) -> None:
    expected, snapshot_id = undisturbed
    with running_labeling(folder) as server:
        left = facts(folder)
        check_whole(left)
        for receipt in received:  # what was promised is there
            assert receipt.ordinal in left["rows"]
        again = _Sender(server).receipts
        assert [plain(receipt) for receipt in again] == expected
        assert {r.ordinal for r in again if r.replayed} == set(left["rows"])
        assert [plain(r) for r in received] == expected[: len(received)]
        snapshot = server.stub.CreateSnapshot(pb.CreateSnapshotRequest(dataset=DATASET))
        assert snapshot.id == snapshot_id
        assert server.terminate() == 0
    whole = facts(folder)
    check_whole(whole)
    assert len(whole["items"]) == 29
    assert len(whole["rows"]) == 32

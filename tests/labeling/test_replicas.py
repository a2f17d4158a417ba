"""Two real programs on one Postgres and one store: one is killed, nothing is lost or doubled."""

import hashlib
import json
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from support.bundles import publish_bundle
from support.inference_server import wait_for
from support.labeling_server import LabelingServer
from support.pictures import noise
from support.postgres import PostgresServer, running_postgres

from visionloop.feedback import FOLDER, Feedback, FeedbackHeader, FeedbackImage, store_feedback
from visionloop.objectstore import open_store
from visionloop.prediction_id import PredictionId
from visionloop.proto.v1 import labeling_pb2 as pb
from visionloop.repository import ModelRepository
from visionloop.snapshot import SnapshotRepository, blob_key

DATASET = "test"  # the one that the test bundles say they were trained on
IMAGES = 36
CLASSES = ("cat", "coffee", "rocket")

pytestmark = pytest.mark.postgres


@dataclass
class Site:
    """Two replicas, the store they share, and a look into their database."""

    replicas: list[LabelingServer]
    store_url: str
    server: PostgresServer
    database: str

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        """What the database says, from outside the programs."""
        with self.server.connect(self.database) as connection:
            return connection.execute(query.encode()).fetchall()


@pytest.fixture
def site(postgres_server: PostgresServer, tmp_path: Path) -> Iterator[Site]:
    """Both replicas are started at once, on a database without tables."""
    store_url = f"file://{tmp_path / 'store'}"
    publish_bundle(ModelRepository(open_store(store_url)), "cells", golden=4)
    database = postgres_server.create()
    flags = (f"--store={store_url}", f"--database={postgres_server.url(database)}")
    replicas = [LabelingServer(tmp_path / name, *flags, "--inspectors=1") for name in "ab"]
    try:
        yield Site([one.listening() for one in replicas], store_url, postgres_server, database)
    finally:
        for one in replicas:
            one.close()
        postgres_server.drop(database)


def rows(batch: str) -> list[pb.SubmitImageRequest]:
    return [
        pb.SubmitImageRequest(
            dataset=DATASET,
            batch=batch,
            ordinal=number,
            image=noise(number),
            label=pb.Label(class_name=CLASSES[number % 3]) if number % 2 else None,
            author_kind=pb.AUTHOR_KIND_IMPORT,
        )
        for number in range(IMAGES)
    ]


def send(site: Site, which: int, batch: str) -> int:
    """Sends a batch until every row has its receipt, to the other replica if this one dies."""
    for attempt in range(which, which + 20):
        try:
            receipts = site.replicas[attempt % 2].submit(rows(batch))
        except grpc.RpcError:
            continue
        assert [receipt.ordinal for receipt in receipts] == list(range(IMAGES))
        assert {receipt.outcome for receipt in receipts} <= {
            pb.SubmitImageReceipt.ACCEPTED,
            pb.SubmitImageReceipt.DUPLICATE,
        }
        return attempt - which
    raise AssertionError("no replica took the batch")


def post(site: Site, which: int, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """HTTP status and answer, by the other replica if this one dies. Every body may come twice."""
    for attempt in range(which, which + 20):
        request = urllib.request.Request(
            f"http://{site.replicas[attempt % 2].http_address}{path}",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - http
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())
        except (OSError, ValueError):
            continue
    raise AssertionError("no replica answers")


def label_all(site: Site, which: int, author_events: list[str]) -> None:
    """Labels the images as they come out of the queue, each event under a UUID of its own."""
    done = 0
    while done < IMAGES // 3:
        status, body = site.replicas[which].get(f"/v1/datasets/{DATASET}/queue?n=3")
        if status != 200:
            time.sleep(0.01)
            continue
        items = json.loads(body)["items"]
        for item in items:
            event_id = str(uuid.uuid4())
            said = {
                "event_id": event_id,
                "sha256": item["sha256"],
                "kind": "label",
                "annotation": {"classes": ["cat"]},
            }
            status, answer = post(site, which, f"/v1/datasets/{DATASET}/events", said)
            assert status == 200, answer
            author_events.append(event_id)
        done += len(items)
        if not items:
            return


def leave_feedback(site: Site, *numbers: int) -> list[str]:
    """Apps' corrections of these images in the inbox; their ids."""
    store = open_store(site.store_url)
    ids = []
    for number in numbers:
        image = noise(number)
        sha256 = hashlib.sha256(image).hexdigest()
        header = FeedbackHeader(
            id=str(uuid.uuid4()),
            prediction_id=str(PredictionId.new("cells", 1, sha256)),
            verdict="class",
            class_id="coffee",
            image=FeedbackImage(sha256=sha256, size=len(image), inline=True),
            received=datetime.now(UTC),
        )
        store_feedback(store, Feedback(header, image))
        ids.append(header.id)
    return ids


def check_whole(site: Site, events: list[str]) -> None:
    """Nothing lost, nothing doubled, every counter what it counts."""
    positions = [row[0] for row in site.ask("SELECT position FROM item ORDER BY position")]
    assert positions == list(range(1, len(positions) + 1))
    sequences = [row[0] for row in site.ask("SELECT sequence FROM label_event ORDER BY sequence")]
    assert sequences == list(range(1, len(sequences) + 1))
    assert site.ask("SELECT last_position, last_sequence FROM dataset") == [
        (len(positions), len(sequences))
    ]
    recorded = Counter(row[0] for row in site.ask("SELECT event_id FROM label_event"))
    assert all(recorded[event_id] == 1 for event_id in events)
    heads = site.ask("SELECT count(*) FROM label_head")
    assert heads == site.ask("SELECT labelled FROM dataset")
    assert site.ask(
        "SELECT count(*) FROM label_head h JOIN label_event e ON e.id = h.event_row_id "
        "WHERE h.sequence <> e.sequence OR h.item_id <> e.item_id"
    ) == [(0,)]
    blobs = {blob_key(row[0]) for row in site.ask("SELECT sha256 FROM blob")}
    assert blobs == {stat.key for stat in open_store(site.store_url).list("blobs/")}
    states = dict(site.ask("SELECT state, count(*) FROM item GROUP BY state"))
    counted = site.ask("SELECT items_labelled, items_in_review, items_skipped FROM dataset")
    assert counted == [tuple(states.get(name, 0) for name in ("labelled", "review", "skipped"))]
    split = site.ask("SELECT coalesce(sum(images), 0) FROM split_count")
    accepted = "SELECT count(*) FROM label_head WHERE author_kind IN ('human', 'import')"
    assert split == site.ask(accepted)


@pytest.mark.kill
def test_one_of_two_replicas_is_killed_under_load(site: Site) -> None:
    site.replicas[0].create_dataset(DATASET)
    site.replicas[1].create_dataset(DATASET)
    for name in CLASSES:  # so that the feedback's class is known from the first moment
        post(site, 0, f"/v1/datasets/{DATASET}/classes", {"name": name})
    said: list[str] = []
    feedback = leave_feedback(site, *range(30, 44))
    first, second = site.replicas
    with ThreadPoolExecutor(8) as pool:
        sent = [
            pool.submit(send, site, which, batch)
            for which, batch in ((0, "one"), (1, "two"), (0, "both"), (1, "both"))
        ]
        labelled = pool.submit(label_all, site, 1, said)
        wait_for(lambda: site.ask("SELECT count(*) FROM item")[0][0] > 3, hint="some images")
        cuts = [pool.submit(cut, one) for one in (first, second)]
        threading.Event().wait(0.05)
        first.process.kill()
        retries = sum(one.result(120) for one in sent)
        labelled.result(120)
        ids = {one.result(120) for one in cuts} - {""}
    assert retries >= 1, "the one that was killed had nothing to do"
    # The dead one may have had the right to drain; what it had left of its minute is over.
    site.server.execute("UPDATE work_lease SET until = now() - interval '1 s'", site.database)
    wait_for(lambda: not list(open_store(site.store_url).list(FOLDER)), hint="an empty inbox")
    check_whole(site, said + feedback)
    last = cut(second)
    snapshots = SnapshotRepository(open_store(site.store_url))
    assert {manifest.id for manifest in snapshots.list(DATASET)} >= ids | {last}
    assert second.terminate() == 0


def cut(server: LabelingServer) -> str:
    """The id of a new snapshot; empty when the replica died or nothing is labelled yet."""
    request = pb.CreateSnapshotRequest(dataset=DATASET)
    try:
        return server.stub.CreateSnapshot(request, timeout=60).id
    except grpc.RpcError:
        return ""


def test_replicas_share_the_work_and_hand_it_over(site: Site) -> None:
    first, second = site.replicas
    first.create_dataset(DATASET)
    send(site, 0, "one")
    with ThreadPoolExecutor(8) as pool:
        asked = [
            pool.submit(site.replicas[n % 2].get, f"/v1/datasets/{DATASET}/queue?n=2")
            for n in range(8)
        ]
        leased = [
            item["sha256"] for one in asked for item in json.loads(one.result(60)[1])["items"]
        ]
    assert leased, "somebody got work"
    assert len(leased) == len(set(leased)), "two people got the same image"
    leave_feedback(site, 1)
    store = open_store(site.store_url)
    wait_for(lambda: not list(store.list(FOLDER)), hint="an empty inbox")
    holder = site.ask("SELECT holder FROM work_lease WHERE name = 'feedback'")[0][0]
    at_work = next(one for one in site.replicas if f":{one.process.pid}:" in holder)
    other = second if at_work is first else first
    assert at_work.terminate() == 0  # and it gives its lease back: nobody waits for its end
    leave_feedback(site, 3)
    wait_for(lambda: not list(store.list(FOLDER)), hint="an empty inbox")
    (holder,) = site.ask("SELECT holder FROM work_lease WHERE name = 'feedback'")[0]
    assert f":{other.process.pid}:" in holder


def test_a_restart_of_postgres_is_survived_by_the_program(tmp_path: Path) -> None:
    with running_postgres() as server:
        url = server.url(server.create())
        one = LabelingServer(tmp_path, f"--database={url}", "--inspectors=1")
        try:
            one.listening().create_dataset(DATASET)
            server.stop()
            assert one.get("/readyz")[0] == 503
            with pytest.raises(grpc.RpcError) as failure:
                one.submit(rows("one"))
            assert failure.value.code() == grpc.StatusCode.UNAVAILABLE
            server.start()
            wait_for(lambda: one.get("/readyz")[0] == 200, hint="readiness")
            assert len(one.submit(rows("one"))) == IMAGES
            assert one.terminate() == 0
        finally:
            one.close()

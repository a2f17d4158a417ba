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
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from support.bundles import publish_bundle
from support.labeling_server import LabelingServer
from support.pictures import noise
from support.postgres import PostgresServer, running_postgres
from support.waiting import wait_for

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


class Site:
    """Two replicas, started at once on a database without tables, and the store they share."""

    def __init__(self, folder: Path, server: PostgresServer) -> None:
        self.server = server
        self.database = server.create()
        self.store_url = f"file://{folder / 'store'}"
        self._folder = folder
        publish_bundle(ModelRepository(open_store(self.store_url)), "cells", golden=4)
        self.replicas = [self._start("a"), self._start("b")]
        for one in self.replicas:
            one.listening()

    def both(self) -> list[LabelingServer]:
        """The two, another one in the place of one that is gone."""
        for number, one in enumerate(self.replicas):
            if one.process.poll() is not None:
                one.close()
                self.replicas[number] = self._start("c").listening()
        return self.replicas

    def ask(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """What the database says, from outside the programs."""
        with self.server.connect(self.database) as connection:
            return connection.execute(query.encode(), values or None).fetchall()

    def inbox(self) -> list[str]:
        return [stat.key for stat in open_store(self.store_url).list(FOLDER)]

    def _start(self, name: str) -> LabelingServer:
        database = self.server.url(self.database)
        flags = (f"--store={self.store_url}", f"--database={database}", "--inspectors=1")
        return LabelingServer(self._folder / name, *flags)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """On a Postgres of its own, which one of the tests stops."""
    with running_postgres() as server:
        made = Site(tmp_path_factory.mktemp("site"), server)
        yield made
        for one in made.replicas:
            one.close()


def rows(batch: str, dataset: str = DATASET) -> list[pb.SubmitImageRequest]:
    return [
        pb.SubmitImageRequest(
            dataset=dataset,
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
    dataset, *counters = site.ask(
        "SELECT id, last_position, last_sequence, labelled, items_labelled, items_in_review, "
        "items_skipped FROM dataset WHERE name = %s",
        DATASET,
    )[0]
    placed = site.ask("SELECT position, state FROM item WHERE dataset_id = %s", dataset)
    assert sorted(position for position, _ in placed) == list(range(1, len(placed) + 1))
    said = site.ask("SELECT sequence, event_id FROM label_event WHERE dataset_id = %s", dataset)
    assert sorted(sequence for sequence, _ in said) == list(range(1, len(said) + 1))
    recorded = Counter(event_id for _, event_id in said)
    assert all(recorded[event_id] == 1 for event_id in events)
    heads = site.ask(
        "SELECT h.author_kind FROM label_head h JOIN label_event e ON e.id = h.event_row_id "
        "AND e.sequence = h.sequence AND e.item_id = h.item_id WHERE e.dataset_id = %s",
        dataset,
    )
    states = Counter(state for _, state in placed)
    counted = [states[name] for name in ("labelled", "review", "skipped")]
    assert counters == [len(placed), len(said), len(heads), *counted]
    in_splits = site.ask(
        "SELECT coalesce(sum(images), 0) FROM split_count JOIN label_class c ON c.id = class_id "
        "WHERE c.dataset_id = %s",
        dataset,
    )
    assert in_splits == [(sum(kind in ("human", "import") for (kind,) in heads),)]
    blobs = {blob_key(sha256) for (sha256,) in site.ask("SELECT sha256 FROM blob")}
    assert blobs == {stat.key for stat in open_store(site.store_url).list("blobs/")}


@pytest.mark.kill
def test_one_of_two_replicas_is_killed_under_load(site: Site) -> None:
    first, second = site.both()
    first.create_dataset(DATASET)
    second.create_dataset(DATASET)
    for name in CLASSES:  # so that the feedback's class is known from the first moment
        post(site, 0, f"/v1/datasets/{DATASET}/classes", {"name": name})
    said: list[str] = []
    feedback = leave_feedback(site, *range(30, 44))
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
    wait_for(lambda: not site.inbox(), hint="an empty inbox")
    check_whole(site, said + feedback)
    last = cut(second)
    snapshots = SnapshotRepository(open_store(site.store_url))
    assert {manifest.id for manifest in snapshots.list(DATASET)} >= ids | {last}


def cut(server: LabelingServer) -> str:
    """The id of a new snapshot; empty when the replica died or nothing is labelled yet."""
    request = pb.CreateSnapshotRequest(dataset=DATASET)
    try:
        return server.stub.CreateSnapshot(request, timeout=60).id
    except grpc.RpcError:
        return ""


def test_two_people_at_two_replicas_never_get_the_same_image(site: Site) -> None:
    first, second = site.both()
    first.create_dataset("shared")
    assert len(second.submit(rows("one", "shared"))) == IMAGES
    with ThreadPoolExecutor(8) as pool:
        asked = [
            pool.submit(site.replicas[number % 2].get, "/v1/datasets/shared/queue?n=2")
            for number in range(8)
        ]
        answers = [json.loads(one.result(60)[1])["items"] for one in asked]
    leased = [item["sha256"] for items in answers for item in items]
    assert leased, "nobody got work"
    assert len(leased) == len(set(leased))


def test_a_restart_of_postgres_is_survived(site: Site) -> None:
    one = site.both()[1]
    one.create_dataset("restarted")
    site.server.stop()
    assert one.get("/readyz")[0] == 503
    with pytest.raises(grpc.RpcError) as failure:
        one.submit(rows("one", "restarted"))
    assert failure.value.code() == grpc.StatusCode.UNAVAILABLE
    site.server.start()
    wait_for(lambda: one.get("/readyz")[0] == 200, hint="readiness")
    assert len(one.submit(rows("one", "restarted"))) == IMAGES


def test_who_ends_in_peace_hands_over_at_once(site: Site) -> None:
    def holder() -> str:
        return site.ask("SELECT holder FROM work_lease WHERE name = 'feedback'")[0][0]

    def drained() -> bool:
        return not site.inbox()

    site.both()[0].create_dataset(DATASET)
    leave_feedback(site, 1)
    wait_for(drained, hint="an empty inbox")
    before = holder()
    which = next(n for n, one in enumerate(site.replicas) if f":{one.process.pid}:" in before)
    assert site.replicas[which].terminate() == 0
    leave_feedback(site, 3)
    wait_for(drained, hint="an empty inbox")
    assert f":{site.replicas[1 - which].process.pid}:" in holder()

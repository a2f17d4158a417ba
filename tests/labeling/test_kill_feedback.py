"""SIGKILL while feedback is taken in, again and again on the same inbox: none lost, none doubled.

Each round leaves feedback on an image that nobody has seen, on one that is known, and some that
must be put aside; a process drains the inbox and dies at a failpoint or at a random moment. Then
each feedback either waits still, or has its one event, or lies beside its reason, whole.

`make test` dies once at each failpoint on Postgres and S3; KILL_ROUNDS=n adds n random moments and
n/5 deaths at each failpoint, on every combination of database and store.
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from datetime import UTC, datetime

import pytest
from support.bundles import publish_bundle
from support.kill_places import ROUNDS, Place, at, places
from support.label_log import Event, label_tables
from support.pictures import noise

from visionloop.feedback import (
    FOLDER,
    Feedback,
    FeedbackHeader,
    FeedbackImage,
    feedback_key,
    store_feedback,
)
from visionloop.images import Limits
from visionloop.objectstore import open_store
from visionloop.prediction_id import PredictionId
from visionloop.repository import ModelRepository
from visionloop_labeling import datasets
from visionloop_labeling.database import open_database
from visionloop_labeling.ingest import Ingest
from visionloop_labeling.receipts import ImageRow, Way
from visionloop_labeling.refused_feedback import REFUSED

DATASET, MODEL = "test", "cells"  # what the test bundles say they were trained on
CLASSES = ("cat", "coffee", "rocket")
UNKNOWN = "teapot"
FAILPOINTS = {  # and how often a round passes each at least
    "feedback.taken_in": 2,
    "feedback.recorded": 2,
    "feedback.deleted": 2,
    "feedback.refused": 1,
}
DRAIN = """
import sys
from visionloop.images import Limits
from visionloop.objectstore import open_store
from visionloop_labeling.database import open_database
from visionloop_labeling.feedback_effect import FeedbackEffect
from visionloop_labeling.feedback_inbox import FeedbackInbox
from visionloop_labeling.ingest import Ingest
store, database = open_store(sys.argv[1]), open_database(sys.argv[2])
inbox = FeedbackInbox(store, FeedbackEffect(database, store, Ingest(database, store, Limits())))
print("draining", flush=True)
while inbox.drain():
    pass
"""


class Campaign:
    """One inbox and the kills it lives through."""

    def __init__(self, place: Place, seed: str) -> None:
        self._place = place
        self._store = open_store(place.store)
        self._random = random.Random(seed)
        self._left: list[Feedback] = []
        self._images: dict[str, bytes] = {}
        self._known: list[str] = []  # digests in the dataset; feedback on others would wait
        self.kills = 0
        publish_bundle(ModelRepository(self._store), MODEL, golden=4)
        database = open_database(place.database)
        ingest = Ingest(database, self._store, Limits())
        with database.write() as session:
            datasets.create(session, DATASET)
        rows = [
            ImageRow(
                DATASET, "first", number, noise(number), name, author_kind="import", way=Way.GRPC
            )
            for number, name in enumerate(CLASSES)
        ]
        for receipt, row in zip(ingest.commit([*map(ingest.prepare, rows)]), rows, strict=True):
            self._images[receipt.sha256] = row.image
            self._known.append(receipt.sha256)
        ingest.close()
        database.close()

    def kill_at(self, failpoint: str) -> None:
        """One round that dies at a failpoint, at a random one of its passes."""
        self._leave()
        passed = self._random.randint(1, FAILPOINTS[failpoint])
        with self._draining(f"{failpoint}:{passed}") as process:
            assert process.wait(60) == -signal.SIGKILL, failpoint
        self.kills += 1
        self._check()

    def kill_at_any_moment(self) -> None:
        """One round that dies at a random moment, or just after."""
        self._leave()
        with self._draining() as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"draining\n"
            time.sleep(self._random.uniform(0.0, 0.3))
            process.kill()
            process.wait(60)
        self.kills += 1
        self._check()

    def close(self) -> None:
        """What still waits is taken in, and nothing waits then."""
        with self._draining() as process:
            assert process.wait(60) == 0
        assert self._check() == Counter(
            recorded=sum(one.header.class_id != UNKNOWN for one in self._left),
            refused=sum(one.header.class_id == UNKNOWN for one in self._left),
        )

    def _draining(self, failpoint: str = "") -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-c", DRAIN, self._place.store, self._place.database],
            env={**os.environ, "VISIONLOOP_FAILPOINT": failpoint},
            stdout=subprocess.PIPE,
        )

    def _leave(self) -> None:
        known = self._random.choice(self._known)
        new = noise(1000 + len(self._left))
        for image, class_id in (
            (self._images[known], self._random.choice(CLASSES)),
            (new, self._random.choice(CLASSES)),
            (new, UNKNOWN),
        ):
            self._left.append(_feedback(image, class_id, inline=image is new))
            store_feedback(self._store, self._left[-1])
        self._images[hashlib.sha256(new).hexdigest()] = new

    def _check(self) -> Counter[str]:
        """What became of each feedback, none of them lost, none twice."""
        found = label_tables(self._place.database)
        assert [event.sequence for event in found.events] == list(range(1, len(found.events) + 1))
        assert set(found.states) <= set(self._images)
        self._known = sorted(found.states)
        events = {event.event_id: event for event in found.events if event.author_kind == "app"}
        assert len(found.events) == len(CLASSES) + len(events)
        assert events.keys() <= {one.header.id for one in self._left}
        waiting = {stat.key for stat in self._store.list(FOLDER)}
        aside = {stat.key for stat in self._store.list(REFUSED)}
        return Counter(self._became(one, events, waiting, aside) for one in self._left)

    def _became(
        self, one: Feedback, events: dict[str, Event], waiting: set[str], aside: set[str]
    ) -> str:
        header = one.header
        if event := events.get(header.id):
            assert event.sha256 == header.image.sha256
            assert event.annotation == {"classes": [header.class_id]}
        if feedback_key(header.id) in waiting:
            return "waiting"
        if event is not None:
            assert REFUSED + header.id not in aside
            return "recorded"
        assert {REFUSED + header.id, f"{REFUSED}{header.id}.json"} <= aside, "it is lost"
        assert self._store.get(REFUSED + header.id).data == one.to_bytes()
        said = json.loads(self._store.get(f"{REFUSED}{header.id}.json").data)
        assert said["reason"] == "unknown_class"
        return "refused"


def _feedback(image: bytes, class_id: str, *, inline: bool) -> Feedback:
    sha256 = hashlib.sha256(image).hexdigest()
    header = FeedbackHeader(
        id=str(uuid.uuid4()),
        prediction_id=str(PredictionId.new(MODEL, 1, sha256)),
        verdict="class",
        class_id=class_id,
        image=FeedbackImage(sha256=sha256, size=len(image) if inline else None, inline=inline),
        caller="inspection-line-3",
        received=datetime.now(UTC),
    )
    return Feedback(header, image if inline else None)


@pytest.mark.kill
@pytest.mark.timeout(7200 if ROUNDS else 600)
@pytest.mark.parametrize("place", places(sample=at("postgres", "s3")), indirect=True)
def test_killed_while_feedback_is_taken_in(request: pytest.FixtureRequest, place: Place) -> None:
    on = Campaign(place, seed=request.node.name)
    planned = (-(-ROUNDS // 5) or 1) * list(FAILPOINTS) + ROUNDS * [""]
    random.Random(request.node.name).shuffle(planned)
    for failpoint in planned:
        if failpoint:
            on.kill_at(failpoint)
        else:
            on.kill_at_any_moment()
    on.close()
    assert on.kills == len(planned) >= len(FAILPOINTS)

"""SIGKILL under concurrent load, again and again on the same data: nothing lost, doubled or halved.

A campaign is one database and one store that live through many kills. In each round three senders
stream new rows at once (some images are the same for all three, some are copies, one cannot be
decoded, one is no image) and send again what has no receipt from the round before, while somebody
looks at previews. The program dies at a named failpoint or at a random moment. Then database and
store are read from outside; at the end everything is sent once more and the books are closed.

`make test` runs a sample; KILL_ROUNDS=n runs every combination of database and store with 3n random
moments and n/5 deaths at each failpoint: 25 make 300 random moments and 120 failpoints.
"""

import contextlib
import hashlib
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from support.kill_places import ROUNDS, Place, place_of, places
from support.labeling_facts import Facts, check_bytes, check_whole, facts
from support.labeling_server import LabelingServer, running_labeling
from support.pictures import noise, opened, png

from visionloop.objectstore import open_store
from visionloop.proto.v1 import labeling_pb2 as pb
from visionloop_labeling.database import open_database
from visionloop_labeling.reconcile import Reconciler

DATASET = "cells"
SENDERS = 3
IN_FLIGHT = 8  # rows of one sender without a receipt
FAILPOINTS = {  # and how often a round passes each at least
    "ingest.blob_stored": 20,
    "ingest.quarantined": 2,
    "ingest.effects": 4,
    "ingest.committed": 4,
    "preview.rendered": 1,
    "preview.stored": 1,
}
_OUTCOMES = {1: "accepted", 2: "duplicate", 3: "rejected", 4: "quarantined"}
Key = tuple[str, int]
Plain = tuple[str, str, str, str]


def images(round_number: int, sender: int) -> list[bytes]:
    """12 images of one sender's round."""
    first = 1000 * round_number + 100 * sender
    own = [noise(first + n) for n in range(7)]
    shared = [noise(1000 * round_number + 900 + n) for n in range(2)]
    return [
        *own[:4], shared[0], own[1], noise(first + 50)[:-100], own[4], b"not an image", shared[1],
        png(opened(own[0]).rotate(180)), *own[5:],
    ]  # fmt: skip


def rows(round_number: int, sender: int) -> list[pb.SubmitImageRequest]:
    """One sender's rows of a round, each with its key for ever."""
    return [
        pb.SubmitImageRequest(
            dataset=DATASET,
            batch=f"round-{round_number}-sender-{sender}",
            ordinal=number,
            image=image,
            label=pb.Label(class_name="ab"[(number + sender) % 2]),
            group="panel" if number in (2, 3) else "",
            attributes={"row": str(number)},
            author_kind=pb.AUTHOR_KIND_IMPORT,
        )
        for number, image in enumerate(images(round_number, sender))
    ]


def plain(receipt: pb.SubmitImageReceipt) -> Plain:
    """A receipt but for `replayed`."""
    return _OUTCOMES[receipt.outcome], receipt.sha256, receipt.reason, receipt.message


@dataclass
class Books:
    """What the senders were told, and what they still have to send."""

    receipts: dict[Key, Plain] = field(default_factory=dict)
    unanswered: dict[int, list[pb.SubmitImageRequest]] = field(default_factory=dict)
    accepted: list[str] = field(default_factory=list)  # digests, to look at
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, receipt: pb.SubmitImageReceipt) -> None:
        """Whoever asks twice is told the same."""
        key = (receipt.batch, receipt.ordinal)
        with self._lock:
            assert self.receipts.setdefault(key, plain(receipt)) == plain(receipt)
            if receipt.outcome == pb.SubmitImageReceipt.ACCEPTED:
                self.accepted.append(receipt.sha256)


class Sender(threading.Thread):
    """One stream, at most IN_FLIGHT rows of it without a receipt, until it ends or breaks."""

    def __init__(self, server: LabelingServer, books: Books, number: int) -> None:
        super().__init__(name=f"sender-{number}")
        self._stub = server.stub
        self._books = books
        self._number = number
        self._waiting = books.unanswered[number]
        self._room = threading.Semaphore(IN_FLIGHT)
        self.failure: AssertionError | None = None

    def run(self) -> None:
        answered: set[Key] = set()
        try:
            patience = 60 + len(self._waiting)  # seconds; only a broken program needs so long
            for receipt in self._stub.SubmitImages(self._requests(), timeout=patience):
                self._books.note(receipt)
                answered.add((receipt.batch, receipt.ordinal))
                self._room.release()
        except grpc.RpcError:
            pass  # killed: what has no receipt is sent again
        except AssertionError as error:  # told to the test, which waits for this thread
            self.failure = error
        finally:
            self._room.release(len(self._waiting))
            self._books.unanswered[self._number] = [
                row for row in self._waiting if (row.batch, row.ordinal) not in answered
            ]

    def _requests(self) -> Iterator[pb.SubmitImageRequest]:
        for request in self._waiting:
            self._room.acquire()
            yield request


class Campaign:
    """One database and one store, and the kills they live through."""

    def __init__(self, folder: Path, place: Place, seed: str) -> None:
        self._folder = folder
        self._place = place
        self._store = open_store(place.store)
        self._random = random.Random(seed)
        self._books = Books(unanswered={n: [] for n in range(SENDERS)})
        self._rounds = 0
        self._seconds = 0.5  # what a round takes when nobody kills it, roughly
        self.kills = 0

    def kill_at(self, failpoint: str) -> None:
        """One round that dies at a failpoint, at a random one of its passes."""
        passed = self._random.randint(1, FAILPOINTS[failpoint])
        with self._running(VISIONLOOP_FAILPOINT=f"{failpoint}:{passed}") as server:
            self._send_round(server, None)
            for sha256 in reversed(self._books.accepted):  # not all were looked at before
                if failpoint.startswith("ingest.") or server.process.poll() is not None:
                    break
                self._look(server, sha256)
            server.wait_killed()
        self._check_kill()

    def kill_at_any_moment(self) -> None:
        """One round that dies at a random moment, or just after."""
        with self._running() as server:
            self._send_round(server, self._random.uniform(0.0, 1.2 * self._seconds))
            server.wait_killed()
        self._check_kill()

    def close(self) -> None:
        """Everything once more, and the sums."""
        everything = [rows(r, s) for r in range(1, self._rounds + 1) for s in range(SENDERS)]
        self._books.unanswered = {
            n: [row for part in everything[n::SENDERS] for row in part] for n in range(SENDERS)
        }
        with self._running() as server:
            self._send(server)
            assert server.terminate() == 0
        found = self._facts()
        check_whole(found)
        check_bytes(found, self._store)
        sent = {(row.batch, row.ordinal): row.image for part in everything for row in part}
        assert set(found.rows) == set(sent) == set(self._books.receipts)
        digests = {key: hashlib.sha256(image).hexdigest() for key, image in sent.items()}
        for key, (outcome, sha256) in found.rows.items():
            assert sha256 == ("" if outcome == "rejected" else digests[key])
        kinds = [outcome for outcome, _ in found.rows.values()]
        whole = self._rounds * SENDERS
        assert kinds.count("rejected") == kinds.count("quarantined") == whole
        assert kinds.count("accepted") == len(found.items) == self._rounds * (8 * SENDERS + 2)
        # Every object that a kill had left alone was claimed by its row, sent again.
        self._check_reconciled()

    def _running(self, **environment: str) -> contextlib.AbstractContextManager[LabelingServer]:
        return running_labeling(
            self._folder,
            "--inspectors=2",
            store=self._place.store,
            database=self._place.database,
            **environment,
        )

    def _send_round(self, server: LabelingServer, kill_after: float | None) -> None:
        self._rounds += 1
        server.create_dataset(DATASET)
        for number in range(SENDERS):
            self._books.unanswered[number] += rows(self._rounds, number)
        killer = None
        if kill_after is not None:
            killer = threading.Timer(kill_after, server.process.kill)
            killer.start()
        start = time.monotonic()
        self._send(server)
        if killer is None:
            self._seconds = 0.5 * self._seconds + 0.5 * (time.monotonic() - start)
        else:
            killer.join()

    def _send(self, server: LabelingServer) -> None:
        senders = [Sender(server, self._books, number) for number in range(SENDERS)]
        for sender in senders:
            sender.start()
        while any(sender.is_alive() for sender in senders):
            if self._books.accepted:
                self._look(server, self._random.choice(self._books.accepted))
            for sender in senders:
                sender.join(0.02)
        for sender in senders:
            assert sender.failure is None, sender.failure

    def _look(self, server: LabelingServer, sha256: str) -> None:
        """Somebody opens the page of an image that was accepted."""
        path = f"/v1/datasets/{DATASET}/images/{sha256}/preview?edge=256"
        try:
            with urllib.request.urlopen(f"http://{server.http_address}{path}", timeout=60) as got:
                assert got.status == 200
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read()) from error
        except OSError:
            pass  # killed

    def _check_kill(self) -> None:
        self.kills += 1
        found = self._facts()
        check_whole(found)
        for key, receipt in self._books.receipts.items():  # what was promised is there
            assert found.rows[key] == receipt[:2], key

    def _facts(self) -> Facts:
        return facts(self._place.database, self._store)

    def _check_reconciled(self) -> None:
        database = open_database(self._place.database)
        try:
            findings = Reconciler(database, self._store, grace=timedelta(0)).sweep()
        finally:
            database.close()
        assert (findings.missing, findings.found, findings.unclaimed) == (0, 0, 0)
        assert findings.images > 0


def campaign(request: pytest.FixtureRequest, folder: Path, database: str, store: str) -> Campaign:
    """A campaign on the database and the store of these names."""
    place = place_of(request, folder, database, store)
    return Campaign(folder, place, seed=f"{database}-{store}")


@pytest.mark.kill
def test_killed_on_sqlite_and_files(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    on = campaign(request, tmp_path, "sqlite", "file")
    for failpoint in ("ingest.blob_stored", "ingest.committed", "preview.rendered"):
        on.kill_at(failpoint)
    on.kill_at_any_moment()
    on.close()
    assert on.kills == 4


@pytest.mark.long
@pytest.mark.kill
@pytest.mark.s3
@pytest.mark.postgres
def test_killed_on_postgres_and_s3(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    on = campaign(request, tmp_path, "postgres", "s3")
    for failpoint in ("ingest.quarantined", "ingest.effects", "preview.stored"):
        on.kill_at(failpoint)
    on.kill_at_any_moment()
    on.close()
    assert on.kills == 4


if ROUNDS:  # half an hour and more: `make test-kill`

    @pytest.mark.kill
    @pytest.mark.timeout(7200)
    @pytest.mark.parametrize("place", places(), indirect=True)
    def test_killed_over_and_over(
        request: pytest.FixtureRequest, tmp_path: Path, place: Place
    ) -> None:
        on = Campaign(tmp_path, place, seed=request.node.name)
        moments, deaths = 3 * ROUNDS, -(-ROUNDS // 5)
        planned = deaths * list(FAILPOINTS) + moments * [""]
        random.Random(request.node.name).shuffle(planned)
        for failpoint in planned:
            if failpoint:
                on.kill_at(failpoint)
            else:
                on.kill_at_any_moment()
        on.close()
        assert on.kills == moments + deaths * len(FAILPOINTS)

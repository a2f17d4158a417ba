"""SIGKILL while people label, again and again on the same log: what was acknowledged stands, once.

Four people label a dozen images at once, so that they often contradict each other: labels on the
label they saw and without, undos, skips, flags, what only a reviewer may say, single events and
batches. Each event has its UUID; after a connection error it is sent again with the same one. The
program dies once some answers have come, at a moment of chance. Then the database is read from
outside: log against the answers, and everything that follows from the log against a fold of it.

`make test` runs a few kills on SQLite; KILL_ROUNDS=n runs 4n on each database: 25 make 100.
"""

import contextlib
import random
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.kill_places import ROUNDS, place_of
from support.label_log import LabelTables, check_label_tables, label_tables
from support.label_people import Books, Person
from support.labeling_server import LabelingServer, running_labeling
from support.pictures import noise

from visionloop.images import Limits
from visionloop.objectstore import open_store
from visionloop_labeling import accounts, datasets, tokens
from visionloop_labeling.accounts import Role
from visionloop_labeling.database import open_database
from visionloop_labeling.ingest import Ingest
from visionloop_labeling.receipts import ImageRow, Way

DATASET = "cells"
IMAGES = 12
PEOPLE = {
    "ann": Role.LABELLER, "bob": Role.LABELLER, "rae": Role.REVIEWER, "rita": Role.REVIEWER,
}  # fmt: skip
SQLITE, POSTGRES = "sqlite", pytest.param("postgres", marks=pytest.mark.postgres)


class Campaign:
    """One database, the people who label in it, and the kills they live through."""

    def __init__(self, folder: Path, database: str, seed: str) -> None:
        self._folder = folder
        self._url = database
        self._random = random.Random(seed)
        self._books = Books()
        self._people = self._prepare()
        self.kills = 0
        self.recorded_unanswered = 0  # events whose answer alone was lost
        self.lost_unanswered = 0  # events that died before their commit

    def kill(self) -> None:
        """One round: they label until the program dies."""
        with self._running() as server:
            working = [person.work(server.http_address) for person in self._people]
            self._books.wait_for(self._random.randint(1, 60))
            time.sleep(self._random.uniform(0.0, 0.02))  # at any step of the others' requests
            server.process.kill()
            for thread in working:
                thread.join()
            server.wait_killed()
        assert self._books.failure is None, self._books.failure
        self.kills += 1
        found = self._check()
        # Whoever asks again must be told this very sequence: an event once seen is never lost.
        logged = {event.event_id: event.sequence for event in found.events}
        unanswered = self._books.unanswered()
        for event_id in unanswered & logged.keys():
            self._books.recorded[event_id] = logged[event_id]
        self.recorded_unanswered += len(unanswered & logged.keys())
        self.lost_unanswered += len(unanswered - logged.keys())

    def close(self) -> None:
        """What waits for an answer gets one, all that was recorded is said again, and the sums."""
        with self._running() as server:
            for person in self._people:
                with person.client(server.http_address) as http:
                    if person.waiting:
                        person.send(http)
                    mine = [
                        self._books.said[event_id][1]
                        for event_id in self._books.recorded
                        if self._books.said[event_id][0] == person.name
                    ]
                    for start in range(0, len(mine), 100):
                        person.waiting = mine[start : start + 100]
                        person.send(http)
            assert server.terminate() == 0
        assert not self._books.unanswered()
        found = self._check()
        assert len(found.events) == self._imported + len(self._books.recorded)
        assert self._books.conflicts > 0, "nobody was in anybody's way"

    def _prepare(self) -> list[Person]:
        """Images of which some came with a label, and two with two that differ; people, classes."""
        database = open_database(self._url)
        ingest = Ingest(database, open_store(f"file://{self._folder / 'store'}"), Limits())
        try:
            with database.write() as session:
                datasets.create(session, DATASET)
            labels = [*"abcabc", *[None] * (IMAGES - 6)]
            sent = [*enumerate(labels), (0, "b"), (1, "c")]
            rows = [
                ImageRow(
                    DATASET,
                    "first",
                    number,
                    noise(image),
                    label,
                    author_kind="import",
                    way=Way.GRPC,
                )
                for number, (image, label) in enumerate(sent)
            ]
            receipts = ingest.commit([ingest.prepare(row) for row in rows])
            self._imported = sum(label is not None for _, label in sent)
            digests = [receipt.sha256 for receipt in receipts[:IMAGES]]
            people = []
            with database.write() as session:
                for name, role in PEOPLE.items():
                    account = accounts.add(session, name, role)
                    _, token = tokens.make(session, account, "test", datetime.now(UTC), None)
                    chance = random.Random(self._random.random())
                    people.append(Person(name, token, digests, self._books, chance))
            return people
        finally:
            ingest.close()
            database.close()

    def _running(self) -> contextlib.AbstractContextManager[LabelingServer]:
        flags = ("--accounts", "--requests-per-second=0", "--inspectors=1")
        return running_labeling(self._folder, *flags, database=self._url)

    def _check(self) -> LabelTables:
        found = label_tables(self._url)
        check_label_tables(found)
        books = self._books
        people = {event.event_id: event for event in found.events if event.author_kind == "human"}
        assert len(found.events) == self._imported + len(people)
        assert books.recorded.keys() <= people.keys(), "an acknowledged event is gone"
        assert not books.refused & people.keys(), "a refused event is there"
        for event_id, event in people.items():
            author, body = books.said[event_id]
            assert event.sequence == books.recorded.get(event_id, event.sequence)
            assert (event.author, event.sha256, event.kind) == (
                author, body["sha256"], body["kind"],
            )  # fmt: skip
            assert event.annotation == body.get("annotation")
            assert event.note == body.get("note", "")
        return found


def campaign(request: pytest.FixtureRequest, folder: Path, database: str) -> Campaign:
    """A campaign on the database of this name."""
    url = place_of(request, folder, database, "file").database
    return Campaign(folder, url, seed=database)


@pytest.mark.long
@pytest.mark.kill
def test_killed_while_people_label(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    on = campaign(request, tmp_path, "sqlite")
    for _ in range(2):
        on.kill()
    on.close()


@pytest.mark.long
@pytest.mark.kill
@pytest.mark.postgres
def test_killed_while_people_label_on_postgres(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    on = campaign(request, tmp_path, "postgres")
    for _ in range(3):
        on.kill()
    on.close()


if ROUNDS:  # some minutes each: `make test-kill`

    @pytest.mark.kill
    @pytest.mark.timeout(7200)
    @pytest.mark.parametrize("database", [SQLITE, POSTGRES])
    def test_killed_over_and_over_while_people_label(
        request: pytest.FixtureRequest, tmp_path: Path, database: str
    ) -> None:
        on = campaign(request, tmp_path, database)
        for _ in range(4 * ROUNDS):
            on.kill()
        on.close()
        # The kills fell on both sides of a commit, or they would prove half of it.
        assert on.recorded_unanswered > 0
        assert on.lost_unanswered > 0

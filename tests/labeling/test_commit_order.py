"""Commit order is sequence order: who polls the log after the last sequence seen misses nothing.

Writers of every kind at once, with transactions of different lengths: single events, batches, rows
with labels. A reader on a connection of its own asks for what is new, over and over.
"""

import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from sqlalchemy import select
from support.label_tables import make_images
from support.pictures import noise

from visionloop.images import Limits
from visionloop.objectstore import open_store
from visionloop_labeling import datasets, labels
from visionloop_labeling.database import Database, open_database
from visionloop_labeling.fold import AuthorKind
from visionloop_labeling.ingest import Ingest
from visionloop_labeling.receipts import ImageRow, Way
from visionloop_labeling.schema import LabelEvent

PATIENCE = 60.0
TRANSACTIONS = 8  # of each writer
BATCHES = (1, 1, 4, 12)  # events in a transaction, writer by writer
ROWS = 4  # in a transaction of the writer of rows


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path) -> Iterator[str]:
    """On both, always: the locks are each database's own."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'labeling.db'}"
    else:
        yield request.getfixturevalue("postgres_url")


@pytest.fixture
def programs(database_url: str) -> Iterator[list[Database]]:
    """As many programs as there are writers and a reader; on SQLite one, with a connection each."""
    with ExitStack() as stack:

        def opened() -> Database:
            database = open_database(database_url)
            stack.callback(database.close)
            return database

        first = opened()
        rest = len(BATCHES) + 1
        yield [first] * (1 + rest) if first.single_process else [
            first, *(opened() for _ in range(rest))
        ]  # fmt: skip


def said() -> labels.Statement:
    return labels.statement(
        event_id=str(uuid.uuid4()), class_name="a", author_kind=AuthorKind.HUMAN, author="ann"
    )


def events_in(database: Database, digests: list[str], number: int) -> Callable[[], None]:
    """A writer of transactions with so many events."""

    def write() -> None:
        for turn in range(TRANSACTIONS):
            chosen = [digests[(turn + n) % len(digests)] for n in range(number)]
            answers = labels.say_all(database, "cells", [(one, said()) for one in chosen])
            assert all(isinstance(one, labels.Recorded) for one in answers), answers

    return write


def rows_in(database: Database, store: str) -> Callable[[], None]:
    """A writer of rows with labels."""

    def write() -> None:
        ingest = Ingest(database, open_store(store), Limits())
        for turn in range(TRANSACTIONS):
            rows = [
                ImageRow(
                    "cells",
                    f"turn-{turn}",
                    n,
                    noise(10 * turn + n),
                    "b",
                    author_kind="import",
                    way=Way.GRPC,
                )
                for n in range(ROWS)
            ]
            ingest.commit([ingest.prepare(row) for row in rows])
        ingest.close()

    return write


def polled(database: Database, writing: threading.Event) -> list[int]:
    """The sequences in the order in which they were seen; ends a poll after the last commit."""
    seen: list[int] = []
    last_poll = False
    while not last_poll:
        last_poll = not writing.is_set()
        after = seen[-1] if seen else 0
        query = select(LabelEvent.sequence).where(LabelEvent.sequence > after)
        with database.read() as session:
            seen += session.scalars(query.order_by(LabelEvent.sequence))
    return seen


def test_a_reader_that_polls_after_the_last_sequence_misses_nothing(
    programs: list[Database], tmp_path
) -> None:
    with programs[0].write() as session:
        dataset = datasets.create(session, "cells")
        digests = [item.sha256 for item in make_images(session, dataset, 50)]
    reader, *writers = programs
    writing = threading.Event()
    writing.set()
    works = [events_in(one, digests, n) for one, n in zip(writers, BATCHES, strict=False)]
    works.append(rows_in(writers[-1], f"file://{tmp_path / 'store'}"))
    with ThreadPoolExecutor(len(works) + 1) as threads:
        seeing = threads.submit(polled, reader, writing)
        try:
            for done in [threads.submit(work) for work in works]:
                done.result(PATIENCE)
        finally:
            writing.clear()
        seen = seeing.result(PATIENCE)
    assert seen == list(range(1, TRANSACTIONS * (sum(BATCHES) + ROWS) + 1))

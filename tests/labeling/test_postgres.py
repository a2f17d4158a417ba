"""What only Postgres does: views, waits for locks, lost connections, restarts, several programs."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError
from support.pictures import noise
from support.postgres import PostgresServer, running_postgres

from visionloop.errors import ConflictError, OverloadedError, UnavailableError
from visionloop.images import Limits
from visionloop.objectstore import open_store
from visionloop_labeling import datasets, engines, labels
from visionloop_labeling.database import Database, insert_missing, open_database
from visionloop_labeling.ingest import Ingest
from visionloop_labeling.receipts import ImageRow, Way
from visionloop_labeling.schema import Dataset, ImageGroup, Item, LabelEvent

PATIENCE = 30.0  # seconds; only a broken lock makes a test wait so long

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.parametrize("database_url", ["postgres"], indirect=True),
]


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """With a dataset "cells"."""
    opened = open_database(database_url)
    create(opened, "cells")
    yield opened
    opened.close()


def create(database: Database, name: str) -> None:
    with database.write() as session:
        datasets.create(session, name)


def names(database: Database) -> list[str]:
    with database.read() as session:
        return list(session.scalars(select(Dataset.name).order_by(Dataset.name)))


def together(*works: Callable[[], object]) -> list[object]:
    """Does all at once, from a common start; results or errors in order."""
    start = threading.Barrier(len(works))

    def run(work: Callable[[], object]) -> object:
        start.wait(PATIENCE)
        try:
            return work()
        except Exception as error:  # noqa: BLE001 - it is the result
            return error

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(run, works))


def test_reading_sees_one_state_whatever_others_commit(database: Database) -> None:
    with database.read() as session:
        before = session.scalar(select(func.count()).select_from(Dataset))
        create(database, "another")
        assert session.scalar(select(func.count()).select_from(Dataset)) == before
    assert names(database) == ["another", "cells"]


def test_nothing_is_written_by_reading(database: Database) -> None:
    with pytest.raises(DBAPIError, match="read-only"), database.read() as session:
        session.execute(text("UPDATE dataset SET labelled = 7"))


def test_the_lock_shows_what_was_committed_before_it(database: Database) -> None:
    with database.write() as session:
        datasets.find(session, "cells")  # read before somebody else writes
        with database.write() as other:
            datasets.find(other, "cells", lock=True).last_sequence = 41
        assert datasets.find(session, "cells", lock=True).last_sequence == 41


def test_rows_may_refer_to_a_dataset_that_somebody_holds(database: Database) -> None:
    with database.write() as session:
        dataset = datasets.find(session, "cells", lock=True)
        with database.write() as other:  # waits for nobody
            other.add(ImageGroup(dataset_id=dataset.id, key="g-1", size=0))


@pytest.fixture
def hasty(database: Database, database_url: str, monkeypatch) -> Iterator[Database]:
    """The same database by a program that waits for a quarter of a second."""
    hurried = engines._SERVER_SETTINGS | {"lock_timeout": "250ms", "statement_timeout": "500ms"}
    monkeypatch.setattr(engines, "_SERVER_SETTINGS", hurried)
    monkeypatch.setattr(engines, "_BUSY_SECONDS", 0.25)
    opened = open_database(database_url, connections=2)
    yield opened
    opened.close()


def test_who_waits_too_long_for_a_lock_is_told_to_try_again(
    database: Database, hasty: Database
) -> None:
    with database.write() as session:
        datasets.find(session, "cells", lock=True)
        with pytest.raises(UnavailableError, match="others were writing"), hasty.write() as other:
            datasets.find(other, "cells", lock=True)
    with hasty.write() as other:
        datasets.find(other, "cells", lock=True)


def test_no_statement_lasts_for_ever_but_for_those_of_a_long_view(hasty: Database) -> None:
    asleep = text("SELECT pg_sleep(0.75)")
    with pytest.raises(UnavailableError), hasty.read() as session:
        session.execute(asleep)
    with hasty.view() as session:
        session.execute(asleep)
    with hasty.read() as session:  # on the connection that the view had
        assert session.scalar(text("SHOW statement_timeout")) == "500ms"


def test_who_finds_all_connections_busy_is_told_so(hasty: Database) -> None:
    with hasty.read() as one, hasty.read() as two:
        one.execute(text("SELECT 1"))
        two.execute(text("SELECT 1"))
        assert hasty.connections() == (2, 2)
        with pytest.raises(OverloadedError, match="connections are busy"), hasty.read() as three:
            three.execute(text("SELECT 1"))
    assert names(hasty) == ["cells"]


def test_settings_in_the_url_win(database_url: str) -> None:
    opened = open_database(f"{database_url}&options=-c%20lock_timeout%3D7s")
    with opened.read() as session:
        assert session.scalar(text("SHOW lock_timeout")) == "7s"
        assert session.scalar(text("SHOW statement_timeout")) == "5min"
    opened.close()


def test_a_deadlock_ends_one_of_the_two_in_words(database: Database) -> None:
    create(database, "other")
    both_hold = threading.Barrier(2)

    def lock(first: str, second: str) -> None:
        with database.write() as session:
            datasets.find(session, first, lock=True)
            both_hold.wait(PATIENCE)
            datasets.find(session, second, lock=True)

    results = together(lambda: lock("cells", "other"), lambda: lock("other", "cells"))
    (failure,) = [result for result in results if result is not None]
    assert isinstance(failure, UnavailableError)
    assert "others were writing" in str(failure)


def test_connections_to_a_server_that_became_a_standby_are_given_up(database: Database) -> None:
    served_by: list[object] = []

    def write_to_a_standby() -> None:
        with database.write() as session:
            served_by.append(session.scalar(text("SELECT pg_backend_pid()")))
            session.execute(text("SET TRANSACTION READ ONLY"))
            session.execute(text("UPDATE dataset SET labelled = 7"))

    with pytest.raises(UnavailableError):
        write_to_a_standby()
    with database.write() as session:
        assert session.scalar(text("SELECT pg_backend_pid()")) not in served_by


def test_what_is_our_own_mistake_is_not_called_unavailable(database: Database) -> None:
    with pytest.raises(DBAPIError), database.write() as session:
        session.execute(text("SELECT nonsense FROM nowhere"))


def test_replicas_that_start_at_once_migrate_once(postgres_url: str, database_url: str) -> None:
    opened = together(*(lambda: open_database(postgres_url) for _ in range(4)))
    assert all(isinstance(one, Database) for one in opened), opened
    with opened[0].read() as session:
        assert session.scalar(text("SELECT count(*) FROM alembic_version")) == 1
    for one in opened:
        one.close()


def test_writers_of_the_same_rows_make_them_once(database: Database) -> None:
    def make(order: list[str]) -> None:
        with database.write() as session:
            made = {"created": datetime.now(UTC), "settings": {}}
            rows = [{"name": name, **made} for name in order]
            counters = dict.fromkeys(("last_sequence", "last_position", "labelled"), 0)
            insert_missing(session, Dataset, [row | counters for row in rows])

    order = [f"d{number}" for number in range(30)]
    assert together(*(lambda: make(order) for _ in range(6))) == [None] * 6
    assert names(database) == sorted(["cells", *order])


@contextmanager
def program(url: str, folder: str) -> Iterator[tuple[Database, Ingest]]:
    """The ingest of one more replica."""
    opened = open_database(url)
    ingest = Ingest(opened, open_store(folder), Limits())
    yield opened, ingest
    ingest.close()
    opened.close()


def test_two_replicas_take_the_same_images_into_two_datasets(
    database: Database, database_url: str, tmp_path
) -> None:
    create(database, "other")
    folder = f"file://{tmp_path / 'store'}"
    images = [noise(number) for number in range(24)]

    def send(ingest: Ingest, dataset: str, batch: str, order: list[bytes]) -> set[str]:
        rows = [
            ImageRow(dataset, batch, number, image, "a", way=Way.GRPC)
            for number, image in enumerate(order)
        ]
        receipts = []
        for start in range(0, len(rows), 6):
            group = [ingest.prepare(row) for row in rows[start : start + 6]]
            receipts += ingest.commit(group)
        return {receipt.outcome for receipt in receipts}

    with program(database_url, folder) as (_, one), program(database_url, folder) as (_, two):
        results = together(
            lambda: send(one, "cells", "b1", images),
            lambda: send(two, "cells", "b2", images[::-1]),
            lambda: send(one, "other", "b3", images[::-1]),
            lambda: send(two, "other", "b4", images),
        )
    assert all(isinstance(result, set) for result in results), results
    assert set().union(*results) <= {"accepted", "duplicate"}
    with database.read() as session:
        for name in ("cells", "other"):
            dataset = datasets.find(session, name)
            mine = select(Item.position).where(Item.dataset_id == dataset.id)
            assert sorted(session.scalars(mine)) == list(range(1, 25))
            said = select(LabelEvent.sequence).where(LabelEvent.dataset_id == dataset.id)
            assert sorted(session.scalars(said)) == list(range(1, 49))


def test_of_two_labels_that_saw_the_same_one_is_refused(
    database: Database, database_url: str, tmp_path
) -> None:
    with program(database_url, f"file://{tmp_path}") as (_, ingest):
        row = ImageRow("cells", "b", 0, noise(1), way=Way.GRPC)
        (receipt,) = ingest.commit([ingest.prepare(row)])
    other = open_database(database_url)

    def say(through: Database, name: str) -> object:
        said = labels.statement(
            event_id="", class_name=name, author_kind="human", author=name, base_sequence=0
        )
        return labels.submit(through, "cells", receipt.sha256, said)

    results = together(lambda: say(database, "a"), lambda: say(other, "b"))
    other.close()
    assert sorted(isinstance(result, ConflictError) for result in results) == [False, True]
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(LabelEvent)) == 1


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    """A Postgres that this test stops."""
    with running_postgres() as server:
        yield server


def test_a_restart_of_postgres_is_survived_and_nothing_half_done_stays(
    own_server: PostgresServer, database_url: str
) -> None:
    database = open_database(own_server.url(own_server.create()))
    create(database, "before")

    def write_while_it_stops() -> None:
        with database.write() as session:
            datasets.create(session, "half")
            own_server.stop()

    with pytest.raises(UnavailableError):
        write_while_it_stops()
    with pytest.raises(UnavailableError):
        names(database)
    own_server.start()
    assert names(database) == ["before"]
    create(database, "after")
    own_server.stop()
    own_server.start()  # between two requests nobody notices
    create(database, "later")
    assert names(database) == ["after", "before", "later"]
    database.close()

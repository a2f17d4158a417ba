"""Background loops: again while there is more, pauses after errors, one replica at a time."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from support.waiting import PATIENCE, until

from visionloop.errors import UnavailableError
from visionloop_labeling import background
from visionloop_labeling.background import Background, Lease, Loop
from visionloop_labeling.database import Database, open_database
from visionloop_labeling.schema import WorkLease

ONLY_POSTGRES = pytest.mark.parametrize(
    "database_url", [pytest.param("postgres", marks=pytest.mark.postgres)], indirect=True
)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = open_database(database_url)
    yield opened
    opened.close()


def running(database: Database, *loops: Loop) -> Background:
    made = Background(database, loops)
    made.start()
    return made


def test_a_loop_goes_on_at_once_while_there_is_more_and_then_rests(database: Database) -> None:
    left = list(range(50))

    def work() -> bool:
        if left:
            left.pop()
        return bool(left)

    async def scenario() -> None:
        # A single rest of an hour would outlast the test.
        at_work = running(database, Loop("counts", 3600.0, work))
        await until(lambda: not left)
        await at_work.stop(PATIENCE)

    asyncio.run(scenario())


def test_an_error_costs_a_pause_and_ends_neither_its_loop_nor_another(
    database: Database, monkeypatch, caplog
) -> None:
    monkeypatch.setattr(background, "LONGEST_PAUSE", 0.02)
    errors = [UnavailableError("inference is away"), UnavailableError("still"), ZeroDivisionError()]
    done: list[str] = []

    def fails() -> bool:
        if errors:
            raise errors.pop(0)
        done.append("recovered")
        return False

    async def scenario() -> None:
        at_work = running(
            database,
            Loop("fails", 0.01, fails),
            Loop("works", 0.01, lambda: bool(done.append("works"))),
        )
        await until(lambda: {"recovered", "works"} <= set(done))
        await at_work.stop(PATIENCE)

    asyncio.run(scenario())
    said = [record.getMessage() for record in caplog.records if record.levelname != "INFO"]
    assert said == ["background work waits: inference is away", "background work stumbled"]


def test_the_pause_grows_with_every_error_up_to_the_longest(database: Database) -> None:
    run = background._Run(
        Loop("fails", 1.0, bool), Lease(database, "fails", "me"), Background(database, [])
    )
    pauses = [run._after(UnavailableError("away")) for _ in range(12)]
    assert all(2.0**n / 2 <= pause <= 2.0**n for n, pause in enumerate(pauses[:5], start=1))
    assert min(pauses[6:]) >= background.LONGEST_PAUSE / 2
    assert max(pauses) <= background.LONGEST_PAUSE


def test_stopping_waits_for_the_work_in_progress(database: Database) -> None:
    entered, leave = threading.Event(), threading.Event()
    finished: list[bool] = []

    def work() -> bool:
        entered.set()
        leave.wait(PATIENCE)
        finished.append(True)
        return True

    async def scenario() -> None:
        at_work = running(database, Loop("slow", 3600.0, work))
        await until(entered.is_set)
        stopping = asyncio.create_task(at_work.stop(PATIENCE))
        await until(lambda: at_work.stopping)
        assert not finished
        leave.set()
        await stopping

    asyncio.run(scenario())
    assert finished == [True]


@ONLY_POSTGRES
def test_one_of_two_replicas_works_and_the_other_takes_over(
    database: Database, database_url: str
) -> None:
    other_database = open_database(database_url)
    who: list[str] = []

    def named(name: str) -> Callable[[], bool]:
        return lambda: bool(who.append(name))

    async def scenario() -> None:
        first = running(database, Loop("drain", 0.01, named("first")))
        await until(lambda: len(who) >= 3)
        second = running(other_database, Loop("drain", 0.01, named("second")))
        await until(lambda: len(who) >= 20)
        assert set(who) == {"first"}
        await first.stop(PATIENCE)
        await until(lambda: "second" in who)
        await second.stop(PATIENCE)

    asyncio.run(scenario())
    assert who == sorted(who), "they took turns instead of handing over"
    other_database.close()


@ONLY_POSTGRES
def test_work_that_shares_itself_out_runs_on_every_replica(
    database: Database, database_url: str
) -> None:
    other_database = open_database(database_url)
    who: set[str] = set()

    async def scenario() -> None:
        loops = [
            Loop("import", 0.01, lambda name=name: bool(who.add(name)), one_replica=False)
            for name in ("first", "second")
        ]
        both = [running(database, loops[0]), running(other_database, loops[1])]
        await until(lambda: who == {"first", "second"})
        await asyncio.gather(*(one.stop(PATIENCE) for one in both))

    asyncio.run(scenario())
    other_database.close()


@ONLY_POSTGRES
def test_a_dead_replicas_lease_runs_out(database: Database) -> None:
    dead, alive = Lease(database, "drain", "dead"), Lease(database, "drain", "alive")
    assert dead.take()
    assert not alive.take()
    alive.give_back()  # not its to give
    assert not alive.take()
    with database.write() as session:
        session.get_one(WorkLease, "drain").until -= background.LEASE + timedelta(seconds=1)
    assert alive.take()
    assert not dead.take()


@ONLY_POSTGRES
def test_work_longer_than_a_lease_keeps_it(database: Database, monkeypatch) -> None:
    monkeypatch.setattr(background, "LEASE", timedelta(seconds=0.3))
    other = Lease(database, "cut", "other")
    leave = threading.Event()
    entered = threading.Event()

    def work() -> bool:
        entered.set()
        leave.wait(PATIENCE)
        return False

    async def scenario() -> None:
        at_work = running(database, Loop("cut", 3600.0, work))
        await until(entered.is_set)
        deadlines = set()
        while len(deadlines) < 5:  # prolonged four times: longer than a lease
            with database.read() as session:
                deadlines.add(session.get_one(WorkLease, "cut").until)
            assert not await asyncio.to_thread(other.take)
        leave.set()
        await at_work.stop(PATIENCE)

    asyncio.run(scenario())
    assert other.take(), "given back at the end"

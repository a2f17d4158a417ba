"""Import jobs: rows once whatever happens, leases, cancelling, uploads that go away."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, update
from support.imports import bound, picture, queue, receipts, run, tarred, worker, zipped

from visionloop.errors import (
    ConflictError,
    NotFoundError,
    OverloadedError,
    RefusedError,
    UnavailableError,
    VisionloopError,
)
from visionloop.telemetry import labeling as metrics
from visionloop.telemetry.metrics import values
from visionloop_labeling import import_claims, import_jobs, import_receipts
from visionloop_labeling.import_claims import LeaseLostError
from visionloop_labeling.import_jobs import JobState
from visionloop_labeling.receipts import Outcome
from visionloop_labeling.schema import ImportJob, Item, LabelEvent

FILES = {f"set/{'cats' if n % 2 else 'dogs'}/{n}.png": picture(n) for n in range(12)}
ARCHIVE = zipped(FILES)
ALBUM = bound(*((name.rpartition("/")[2], data) for name, data in FILES.items()))


def count(core, table) -> int:
    with core.database.read() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def imported_again() -> float:
    """Rows of import jobs whose image was there, as this process has counted them."""
    found = values()[metrics.INGEST_IMAGES.metric.name]
    return found.get(("import", "duplicate"), [0.0])[0]


def expire_leases(core) -> None:
    """As if a minute had passed since their holders died."""
    with core.database.write() as session:
        past = datetime.now(UTC) - timedelta(seconds=1)
        session.execute(update(ImportJob).values(lease_until=past))


def assert_done_once(core, job) -> None:
    job = import_jobs.find(core.database, job.dataset, job.key)
    assert job.state == JobState.DONE, job.message
    stored = receipts(core, job)
    assert [row.ordinal for row in stored] == list(range(12))
    assert {row.outcome for row in stored} == {"accepted"}
    assert job.counts == {"accepted": 12}
    assert (job.rows, job.checkpoint) == (12, 12)
    assert count(core, Item) == count(core, LabelEvent) == 12


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("pack", [zipped, tarred, lambda files: tarred(files, "w:gz")])
def test_the_first_folder_is_the_class(core, pack) -> None:
    files = {
        "set/cats/1.png": picture(1),
        "set/cats/deep/2.png": picture(2),
        "set/dogs/3.png": picture(3),
        "set/readme.txt": b"hello",
        "__MACOSX/set/cats/._1.png": b"x",
    }
    job = run(core, "archive", pack(files))
    assert job.state == JobState.DONE, job.message
    labels = {one.source: one.class_name for one in core.labels().values()}
    assert labels == {
        "set/cats/1.png": "cats", "set/cats/deep/2.png": "cats", "set/dogs/3.png": "dogs",
    }  # fmt: skip
    assert "1 files" in job.message
    assert not list(core.store.list("staging/"))


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_folders_of_splits_are_looked_through(core) -> None:
    run(core, "archive", zipped({"x/train/a/1.png": picture(1), "x/val/b/2.png": picture(2)}))
    assert {one.class_name for one in core.labels().values()} == {"a", "b"}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_bad_rows_are_refused_alone_and_counted(core) -> None:
    files = {**FILES, "set/cats/bad.png": b"no image", "set/cats/../x.png": b"x"}
    job = run(core, "archive", zipped(files))
    assert (job.state, job.counts) == (JobState.DONE, {"accepted": 12, "rejected": 2})
    page = import_receipts.page(core.database, job, -1, Outcome.REJECTED, 10)
    assert [(one.ordinal, one.reason) for one in page] == [
        (12, "not_an_image"), (13, "unsafe_name"),
    ]  # fmt: skip
    assert import_receipts.page(core.database, job, 11, None, 1)[0].ordinal == 12


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_source_that_is_none_fails_with_words_and_leaves_nothing(core) -> None:
    job = run(core, "archive", b"no archive at all")
    assert job.state == JobState.FAILED
    assert "send a ZIP, TAR or TAR.GZ" in job.message
    assert not list(core.store.list("staging/"))


def test_the_same_key_is_one_import_and_another_request_under_it_is_refused(core) -> None:
    first = queue(core, "archive", ARCHIVE, idempotency_key="k")
    assert queue(core, "archive", ARCHIVE, idempotency_key="k").key == first.key
    assert len(list(core.store.list("staging/"))) == 1
    with pytest.raises(ConflictError, match="used for another import"):
        queue(core, "archive", zipped({}), idempotency_key="k")
    with pytest.raises(ConflictError):
        queue(core, "archive", ARCHIVE, idempotency_key="k", classes=False)
    with pytest.raises(NotFoundError):
        queue(core, "archive", ARCHIVE, dataset="none")
    assert len(list(core.store.list("staging/"))) == 1


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("meanwhile", [False, True], ids=["before", "meanwhile"])
def test_too_many_imports_are_refused_and_leave_no_upload(
    core, monkeypatch: pytest.MonkeyPatch, meanwhile: bool
) -> None:
    monkeypatch.setattr(import_jobs, "MAX_UNFINISHED", 1)
    if meanwhile:  # the others come while the upload is on its way
        stage = import_jobs._stage

        def slow(*args: Any) -> str:
            key = stage(*args)
            monkeypatch.setattr(import_jobs, "_stage", stage)
            queue(core, "archive", ARCHIVE)
            return key

        monkeypatch.setattr(import_jobs, "_stage", slow)
    else:
        queue(core, "archive", ARCHIVE)
    with pytest.raises(RefusedError, match="has 1 imports that have not ended"):
        queue(core, "archive", zipped({}))
    assert len(list(core.store.list("staging/"))) == 1  # of the first


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_same_archive_again_is_all_duplicates(core) -> None:
    run(core, "archive", ARCHIVE)
    before = imported_again()
    again = run(core, "archive", ARCHIVE)
    assert again.counts == {"duplicate": 12}
    assert imported_again() == before + 12
    assert count(core, Item) == 12
    assert not any(label.disputed for label in core.labels().values())


class _DiedError(BaseException):
    """What a kill does to a thread: nothing after it runs."""


@pytest.mark.parametrize("rows_before", [0, 5, 12])
@pytest.mark.parametrize(
    ("kind", "data", "said"),
    [("archive", ARCHIVE, {}), ("images", ALBUM, {"label": "cats"})],
    ids=["archive", "images"],
)
def test_a_worker_that_dies_leaves_rows_that_are_not_taken_twice(
    core, kind: str, data: bytes, said: dict[str, str], rows_before: int
) -> None:
    job = queue(core, kind, data, **said)

    def dying(rows: Iterator) -> Iterator:
        for number, row in enumerate(rows):
            if number == rows_before:
                raise _DiedError
            core.submit(row)  # durable; its receipt never reaches the worker
        raise _DiedError

    first = worker(core, dying)
    with pytest.raises(_DiedError):
        first.work()
    assert count(core, Item) == rows_before
    expire_leases(core)
    assert worker(core).work()
    assert_done_once(core, job)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_on_sqlite_the_lease_of_a_killed_process_is_void_at_once(core) -> None:
    job = queue(core, "archive", ARCHIVE)
    assert import_claims.claim(core.database, "killed") is not None
    assert worker(core).work()
    assert_done_once(core, job)


@pytest.mark.postgres
@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_replicas_share_jobs_and_respect_leases(core) -> None:
    jobs = [queue(core, "archive", zipped({f"a/{n}.png": picture(n)})) for n in range(6)]
    held = import_claims.claim(core.database, "other")
    assert held is not None
    threads = [threading.Thread(target=lambda: [0 for _ in iter(worker(core).work, False)])
               for _ in range(2)]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    states = [import_jobs.find(core.database, "cells", job.key).state for job in jobs]
    assert states == [JobState.RUNNING] + [JobState.DONE] * 5
    held.renew()
    expire_leases(core)
    assert worker(core).work()
    with pytest.raises(LeaseLostError):
        held.renew()
    assert import_jobs.find(core.database, "cells", jobs[0].key).state == JobState.DONE


def test_a_cancelled_job_stops_and_keeps_what_it_has(core) -> None:
    job = queue(core, "archive", ARCHIVE)
    begun = 0

    def cancelling(rows: Iterator) -> Iterator:
        nonlocal begun
        for row in rows:
            begun += 1
            if begun == 5:
                import_jobs.cancel(core.database, job.dataset, job.key)
            yield from core.submit(row)

    at_work = worker(core, cancelling)
    assert at_work.work()
    assert import_jobs.find(core.database, job.dataset, job.key).state == JobState.CANCELLED
    assert at_work.work()  # its upload
    assert not at_work.work()
    assert not list(core.store.list("staging/"))
    assert import_jobs.cancel(core.database, job.dataset, job.key).state == JobState.CANCELLED
    done = run(core, "archive", zipped({"a/1.png": picture(1)}))
    with pytest.raises(RefusedError, match="is done"):
        import_jobs.cancel(core.database, done.dataset, done.key)


def test_a_job_waits_while_the_ingest_is_away_and_goes_on(core) -> None:
    job = queue(core, "archive", ARCHIVE)

    def away(rows: Iterator) -> Iterator:
        yield from core.submit(next(rows))
        raise UnavailableError("the service is shutting down")

    worker(core, away).work()
    waiting = import_jobs.find(core.database, job.dataset, job.key)
    assert (waiting.state, waiting.message) == (
        JobState.RUNNING, "waits: the service is shutting down",
    )  # fmt: skip
    assert import_claims.claim(core.database, "impatient") is None
    expire_leases(core)
    worker(core).work()
    assert_done_once(core, job)


@pytest.mark.parametrize("error", [UnavailableError("away"), OverloadedError("busy")])
def test_an_outage_of_any_length_ends_no_job(core, error: VisionloopError) -> None:
    job = queue(core, "archive", ARCHIVE)

    def away(_rows: Iterator) -> Iterator:
        raise error
        yield  # a generator, as the ingest is

    for _ in range(2 * import_claims.FRUITLESS_CLAIMS):
        assert worker(core, away).work()
        waiting = import_jobs.find(core.database, job.dataset, job.key)
        assert (waiting.state, waiting.message) == (JobState.RUNNING, f"waits: {error}")
        expire_leases(core)
    assert worker(core).work()
    assert_done_once(core, job)


def test_a_job_that_kills_its_workers_ends(core) -> None:
    job = queue(core, "archive", ARCHIVE)
    for number in range(import_claims.FRUITLESS_CLAIMS):
        assert import_claims.claim(core.database, f"killed-{number}") is not None
        expire_leases(core)
    assert import_claims.claim(core.database, "last") is None
    failed = import_jobs.find(core.database, job.dataset, job.key)
    assert failed.state == JobState.FAILED
    assert "begun 5 times" in failed.message


def test_uploads_that_no_job_names_go_after_a_day(core, monkeypatch: pytest.MonkeyPatch) -> None:
    core.store.put("staging/lost", b"x")
    job = queue(core, "archive", ARCHIVE)
    assert import_jobs.discard_abandoned(core.database, core.store) == 0
    monkeypatch.setattr(import_jobs, "ABANDONED", timedelta(seconds=-60))
    assert import_jobs.discard_abandoned(core.database, core.store) == 1
    worker(core).work()
    assert_done_once(core, job)

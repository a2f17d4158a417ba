"""Prefixes of a real S3 server: incremental, exactly once, only where the operator allows."""

from typing import Any

import pytest
from sqlalchemy import select
from support.imports import picture, queue, receipts, run, worker

from visionloop.objectstore import ObjectStore, open_store
from visionloop_labeling import import_jobs
from visionloop_labeling.import_jobs import JobState
from visionloop_labeling.schema import SourceObject

pytestmark = [
    pytest.mark.s3,
    pytest.mark.parametrize("database_url", ["sqlite"], indirect=True),
]


@pytest.fixture
def bucket(s3_url: str) -> ObjectStore:
    store = open_store(f"{s3_url}/photos")
    for n in range(6):
        store.put(f"{'cats' if n % 2 else 'dogs'}/{n}.png", picture(n))
    store.put("notes.txt", b"x")
    return store


def sync(core: Any, bucket: ObjectStore, folder: str = "", **said: Any):
    url = bucket.url + folder
    allowed = {"prefixes": (bucket.url,)}
    return run(core, "s3", None, allowed, url=url, **said)


def outcomes(core: Any) -> dict[str, str]:
    with core.database.read() as session:
        return {
            one.key.rpartition("photos/")[2]: one.outcome
            for one in session.scalars(select(SourceObject))
        }


def test_a_sync_takes_what_is_new_and_changed_and_nothing_else(core, bucket) -> None:
    first = sync(core, bucket, classes=True)
    assert (first.state, first.counts) == (JobState.DONE, {"accepted": 6}), first.message
    assert "1 objects that are no images" in first.message
    labels = {one.source.removeprefix(bucket.url): one.class_name for one in core.labels().values()}
    assert labels["/cats/1.png"] == "cats"
    assert sync(core, bucket).rows == 0
    bucket.put("dogs/new.png", picture(20))
    bucket.put("cats/1.png", picture(21))
    bucket.put("cats/bad.png", b"no image")
    again = sync(core, bucket, "/cats")  # one ledger for the bucket, whatever prefix is asked for
    assert again.counts == {"accepted": 1, "rejected": 1}
    assert sync(core, bucket).counts == {"accepted": 1}
    assert sync(core, bucket).rows == 0
    retried = sync(core, bucket, retry_refused=True)
    assert (retried.rows, retried.counts) == (1, {"rejected": 1})
    assert outcomes(core)["cats/bad.png"] == "rejected"


def test_a_killed_sync_goes_on_whatever_the_bucket_did_meanwhile(core, bucket) -> None:
    job = queue(core, "s3", None, url=bucket.url)
    allowed = {"prefixes": (bucket.url,)}

    def dying(rows):
        for number, row in enumerate(rows):
            if number == 3:
                raise KeyboardInterrupt
            core.submit(row)

    with pytest.raises(KeyboardInterrupt):
        worker(core, dying, **allowed).work()
    bucket.put("aaa/first-in-the-listing.png", picture(30))
    bucket.delete("dogs/4.png")
    assert worker(core, **allowed).work()
    done = import_jobs.find(core.database, "cells", job.key)
    assert done.counts == {"accepted": 6, "rejected": 1}, done.message
    [refused] = [row for row in receipts(core, job) if row.outcome == "rejected"]
    assert refused.reason == "no_such_image"
    assert len({row.sha256 for row in receipts(core, job)} - {""}) == 6
    assert "" not in outcomes(core).values()
    assert sync(core, bucket).rows == 0


def test_what_a_cancelled_sync_left_is_taken_by_the_next(core, bucket) -> None:
    job = queue(core, "s3", None, url=bucket.url)

    def cancelling(rows):
        yield from core.submit(next(rows))
        import_jobs.cancel(core.database, "cells", job.key)
        yield from core.submit(next(rows))

    worker(core, cancelling, prefixes=(bucket.url,)).work()
    assert list(outcomes(core).values()).count("") >= 4
    assert sum(sync(core, bucket).counts.values()) >= 4
    assert "" not in outcomes(core).values()
    assert len(core.labels()) == 0
    assert len(outcomes(core)) == 6


def test_prefixes_that_nobody_allowed_are_refused(core, s3_url: str) -> None:
    ours = f"{s3_url}/photos"
    foreign = ["s3://other-bucket/photos", "file:///etc", "s3://visionloop", f"{ours}x", ""]
    for url in (*foreign, f"{ours}/../secret"):
        allowed = {"prefixes": (ours,) if url else ()}
        job = run(core, "s3", None, allowed, url=url or ours)
        assert job.state == JobState.FAILED
        assert "may not be imported from" in job.message or "between slashes" in job.message
    assert outcomes(core) == {}


def test_a_bucket_that_cannot_be_read_is_said_without_its_details(
    core, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = "s3://no-such-bucket/photos"
    wrong = run(core, "s3", None, {"prefixes": (nowhere,)}, url=nowhere)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    url = f"{s3_url}/photos"
    secret = run(core, "s3", None, {"prefixes": (url,)}, url=url)
    for job in (wrong, secret):
        assert job.state == JobState.FAILED
        assert "may not read it" in job.message
        assert "127.0.0.1" not in job.message

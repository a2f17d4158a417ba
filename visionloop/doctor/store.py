"""The store: can this program read and write where it must, are conditions honoured, do the clocks
agree?

Everything is really done, with the program's own credentials: the least rights that a policy grants
are proved, not guessed. What is written is one object of one byte under `.probe/` in each folder,
and it is removed.
"""

import os
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from visionloop.doctor.findings import Finding, Findings
from visionloop.errors import NotFoundError, PermissionDeniedError, VisionloopError
from visionloop.objectstore import ObjectStore, open_existing_store

# S3 refuses signed requests that are 15 minutes off. Far below that, times in histories, snapshots
# and prediction ids already mislead people.
CLOCK_WARNS = timedelta(seconds=10)
CLOCK_FAILS = timedelta(minutes=5)


def check_store(
    findings: Findings, url: str, *, reads: Sequence[str], writes: Sequence[str]
) -> ObjectStore | None:
    """Finds out about `url`; `reads` and `writes` are folders. None when it cannot be used at all.

    One attempt more than the first, where a program would be patient: people wait for the answer.
    """
    os.environ.setdefault("AWS_MAX_ATTEMPTS", "2")
    store = _opened(findings, url, [*reads, *writes][0])
    if store is None:
        return None
    for folder in reads:
        with findings.checking(f"read {folder}/"):
            findings.add(_reading(store, folder))
    writable = []
    for folder in writes:
        with findings.checking(f"write {folder}/"):
            store.probe(folder)
            findings.add(Finding.ok(f"write {folder}/", "written, rewritten on condition, removed"))
            writable.append(folder)
    if writable:
        with findings.checking("clock"):
            findings.add(_clock(store, writable[0]))
    return store


def _opened(findings: Findings, url: str, folder: str) -> ObjectStore | None:
    """The store, if it answers at all; one request says whether address and credentials are right.

    That a listing is refused may be the policy's wish: the checks of the folders tell.
    """
    try:
        store = open_existing_store(url)
        next(iter(store.list(f"{folder}/")), None)
    except PermissionDeniedError:
        return store
    except NotFoundError as error:
        said = f"{error}; the first program that writes makes it"
        findings.add(
            Finding.warning("store", said)
            if url.startswith("file:")
            else Finding.failed("store", error)
        )
        return None
    except VisionloopError as error:
        findings.add(Finding.failed("store", error))
        return None
    findings.add(Finding.ok("store", f"{store.url} answers"))
    return store


def _reading(store: ObjectStore, folder: str) -> Finding:
    first = next(iter(store.list(f"{folder}/")), None)
    if first is None:
        return Finding.ok(f"read {folder}/", "can be listed; nothing is there yet")
    store.stat(first.key)  # listing and reading are two rights
    return Finding.ok(f"read {folder}/", "can be listed and read")


def _clock(store: ObjectStore, folder: str) -> Finding:
    """This machine's clock beside the one that dates the store's objects."""
    key = f"{folder}/.probe/{uuid.uuid4().hex}"
    before = datetime.now(UTC)
    store.put_if_absent(key, b"1")
    try:
        written = store.stat(key).modified
    finally:
        store.delete(key)
    return clock_finding(before, written, datetime.now(UTC))


def clock_finding(before: datetime, written: datetime, after: datetime) -> Finding:
    """What a store's time of a write that lay between two of ours says. S3 cuts off fractions."""
    if written < before:
        ahead = before.replace(microsecond=0) - written
    else:
        ahead = min(after - written, timedelta(0))
    apart = abs(ahead)
    if apart < CLOCK_WARNS:
        return Finding.ok("clock", f"agrees with the store's within {_seconds(CLOCK_WARNS)}")
    side = "ahead of" if ahead > timedelta(0) else "behind"
    said = (
        f"this machine's clock is {_seconds(apart)} {side} the store's; let NTP set both clocks "
        "(S3 refuses requests from 15 minutes on)"
    )
    return (Finding.failed if apart >= CLOCK_FAILS else Finding.warning)("clock", said)


def _seconds(time: timedelta) -> str:
    return f"{time.total_seconds():.0f} s"

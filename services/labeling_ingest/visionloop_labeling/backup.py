"""Backups of an installation: what is copied, in which order, and the way back.

A run has three steps, and none of them stops a program: the small objects that change, here called
*names*; the database, by pg_dump; then all other objects, which never change and are shared by all
days. docs/backup.md says why no other order will do. In the target:

    days/<day>/…              the names of that day
    databases/<day>.dump      pg_dump's custom format
    objects/…                 everything else, copied once
    complete/<day>.json       written LAST: without it there is no such day
    store.json                whose backups these are: those of two stores would become one

An object's copy serves all days, so it is never replaced by other bytes: what changed in the store
is damaged, and is told.

The price: every object passes through this process once, small ones through memory (eight at a
time, 256 MiB), large ones through a file; and the listing of the target is held in memory, some
300 bytes an object.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path
from typing import Final, Literal

from pydantic import Field

from visionloop.errors import (
    ConfigurationError,
    ConflictError,
    CorruptError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
)
from visionloop.objectstore import ObjectStat, ObjectStore
from visionloop.record import Record, Sha256, parse_record, record_bytes
from visionloop_labeling.dump_header import MAGIC
from visionloop_labeling.object_copies import each, fetched, write

# Small, and moved or removed: kept for each day. What they name never changes. They are copied in
# this order, while they move: pointers at snapshots before the snapshots are listed, or the day may
# have a pointer at one that it lacks; aliases after their history, which their last move completes.
NAMES: Final = (
    "datasets/*/refs/*",
    "datasets/*/snapshots/*/manifest.json",
    "inbox/*",
    "models/*/history/*",
    "models/*/aliases.json",
)
MADE_ANEW: Final = ("derived/*", "staging/*", "models/*/checkpoints/*")
DAYS: Final = "days/"
DATABASES: Final = "databases/"
OBJECTS: Final = "objects/"
COMPLETE: Final = "complete/"
OWNER: Final = "store.json"
DAY: Final = "%Y-%m-%dT%H-%M-%SZ"  # so that names sort by time
# Blobs, images in quarantine, parts of snapshots: their name is the sha256 of their bytes.
_NAMED_BY_CONTENT: Final = re.compile(
    r"(?:(?:blobs|quarantine)/sha256/../../|datasets/[^/]+/parts/)([0-9a-f]{64})(?:\.parquet)?"
)


class CompleteDay(Record):
    """What `complete/<day>.json` says."""

    format_version: Literal[1] = 1
    day: str
    names: int = Field(ge=0)
    dump_bytes: int = Field(ge=1)
    dump_sha256: Sha256
    postgres: str = ""  # the server's version, as 18.4
    pg_dump: str = ""  # its own, which pg_restore must have and Postgres may not be older than
    copied: int = Field(ge=0, description="objects that no day before had")
    copied_bytes: int = Field(ge=0)
    damaged: int = Field(0, ge=0, description="objects of the store that were not copied")


@dataclass(frozen=True, slots=True)
class Copied:
    """What step 3 did. The damaged ones, by key, were left out; copies that were there stay."""

    objects: int
    bytes: int
    damaged: list[str]


class Owner(Record):
    """What `store.json` says."""

    format_version: Literal[1] = 1
    store: str  # its URL
    server: str  # two servers may have buckets of one name; empty: AWS, or a folder

    def __str__(self) -> str:
        return f"{self.store} at {self.server}" if self.server else self.store


def claim(store: ObjectStore, target: ObjectStore, server: str = "") -> None:
    """Makes the target the store's, which is at `server`.

    It is read before and after it is written, so that this holds for a target that knows no
    conditions for writes, too. Raises RefusedError where it has another one's backups.
    """
    ours = Owner(store=store.url, server=server)
    owner = _owner(target)
    if owner is None:
        try:
            target.put_if_absent(OWNER, record_bytes(ours))
        except ConflictError:
            pass  # somebody was faster, and is read below
        except ConfigurationError:  # its server refuses requests with conditions
            target.put(OWNER, record_bytes(ours))
        owner = _owner(target)
    if owner != ours:
        raise RefusedError(
            f"{target.url} has backups of {owner}, and this is {ours}: give each store a "
            f"target of its own. Where it only moved to another address, remove {OWNER} there"
        )


def _owner(target: ObjectStore) -> Owner | None:
    try:
        return parse_record(Owner, target.get(OWNER).data, OWNER)
    except NotFoundError:
        return None


def day_of(now: datetime) -> str:
    """The name of a run that begins now (UTC)."""
    return now.astimezone(UTC).strftime(DAY)


def check_clock(target: ObjectStore, day: str) -> None:
    """Raises RefusedError where a complete day is later than the run that begins now.

    Days are kept, and the latest is restored, by their names: of a clock that is behind, this day
    would be the first to be forgotten.
    """
    latest = max(complete_days(target), default="")
    if latest > day:
        raise RefusedError(
            f"by this machine's clock it is {day}, and {target.url} has a backup of {latest}: set "
            f"the clock. Where it was ahead then, remove {COMPLETE}{latest}.json there"
        )


def is_name(key: str) -> bool:
    """Whether the object is one of a day's own."""
    return any(fnmatchcase(key, pattern) for pattern in NAMES)


def is_object(key: str) -> bool:
    """Whether it is one that all days share."""
    return not any(fnmatchcase(key, pattern) for pattern in (*NAMES, *MADE_ANEW))


def copy_names(store: ObjectStore, target: ObjectStore, day: str) -> int:
    """Step 1; the number of names.

    What went away since it was listed is left out: a correction was taken in, and the dump has it.
    """

    def copied(one: ObjectStat) -> bool:
        try:
            data = store.get(one.key).data
        except NotFoundError:
            return False
        target.put(f"{DAYS}{day}/{one.key}", data)
        return True

    count = 0
    for pattern in NAMES:  # one after the other
        listed = store.list(pattern.partition("*")[0])
        count += sum(each((one for one in listed if fnmatchcase(one.key, pattern)), copied))
    return count


def keep_dump(target: ObjectStore, day: str, dump: Path) -> tuple[int, str]:
    """Step 2's end: the dump goes to the target; its bytes and sha256.

    Raises RefusedError for a file that is no dump.
    """
    digest = hashlib.sha256()
    with dump.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise RefusedError(f"{dump} is not what pg_dump --format=custom writes")
        file.seek(0)
        while block := file.read(2**20):
            digest.update(block)
        size = file.tell()
    target.upload(dump, f"{DATABASES}{day}.dump")
    return size, digest.hexdigest()


def copy_objects(store: ObjectStore, target: ObjectStore, scratch: Path | None = None) -> Copied:
    """Step 3: what the target lacks.

    `scratch` has room for the largest object; None: the system's folder for temporary files.
    """
    there = {
        one.key.removeprefix(OBJECTS): (one.size, one.modified) for one in target.list(OBJECTS)
    }

    def lacks(one: ObjectStat) -> bool:
        size, modified = there.get(one.key, (-1, one.modified))
        return size != one.size or one.modified > modified

    def digest_expected(key: str) -> str | None:
        if found := _NAMED_BY_CONTENT.fullmatch(key):
            return found[1]
        if key not in there:
            return None
        with fetched(target, OBJECTS + key, there[key][0], scratch) as (_, sha256):
            return sha256

    damaged: list[str] = []

    def copied(one: ObjectStat) -> int | None:
        expected = digest_expected(one.key)
        try:
            with fetched(store, one.key, one.size, scratch) as (content, sha256):
                if expected not in (None, sha256):
                    damaged.append(one.key)
                    return None
                write(target, OBJECTS + one.key, content)
                return one.size
        except NotFoundError:  # out of quarantine, or of a version that never came to be
            return None

    wanted = (one for one in store.list() if is_object(one.key) and lacks(one))
    count = size = 0
    for done in each(wanted, copied):
        if done is not None:
            count, size = count + 1, size + done
    return Copied(count, size, sorted(damaged))


def complete(target: ObjectStore, day: CompleteDay) -> None:
    """The end of a run: from now on the day can be restored."""
    target.put(f"{COMPLETE}{day.day}.json", record_bytes(day))


def complete_days(target: ObjectStore) -> list[str]:
    """The days that can be restored, oldest first."""
    keys = (one.key.removeprefix(COMPLETE) for one in target.list(COMPLETE))
    return sorted(key.removesuffix(".json") for key in keys if key.endswith(".json"))


def read_day(target: ObjectStore, day: str = "") -> CompleteDay:
    """What a complete day has, the latest if none is named. Raises NotFoundError."""
    days = complete_days(target)
    if not days or (day and day not in days):
        raise NotFoundError(
            f"{target.url} has no complete backup{f' {day}' if day else ''}"
            f"{f'; the latest is {days[-1]}' if days else ''}"
        )
    key = f"{COMPLETE}{day or days[-1]}.json"
    return parse_record(CompleteDay, target.get(key).data, key)


def forget(target: ObjectStore, keep: int) -> list[str]:
    """Removes what is older than the latest `keep` complete days; the days that went.

    By number and not by age, so that backups which fail for a month leave those before in place.
    Objects stay: all days share them.
    """
    if keep < 1:
        raise InvalidInputError(f"keep is {keep}; the latest day is never removed", field="keep")
    days = complete_days(target)
    if len(days) <= keep:
        return []
    oldest = days[-keep]
    for folder in (COMPLETE, DATABASES, DAYS):  # so that half a day is never called complete
        for one in list(target.list(folder)):
            day = one.key.removeprefix(folder).partition("/")[0].partition(".")[0]
            if day < oldest:
                target.delete(one.key)
    return days[:-keep]


def restore(
    target: ObjectStore, day: CompleteDay, store: ObjectStore, scratch: Path | None = None
) -> int:
    """All objects and the day's names, in this order, into an empty store; their number.

    One that was broken off goes on: objects that are there are not copied again. `scratch` is that
    of `copy_objects`. Raises RefusedError where the store holds anything else, for a program may be
    working with it, and CorruptError where the target has lost names of the day.
    """
    folder = f"{DAYS}{day.day}/"
    names = list(target.list(folder))
    if len(names) != day.names:
        raise CorruptError(
            f"{target.url}/{folder} has {len(names)} names, and had {day.names}: does a rule of "
            "the bucket remove objects? Take another day"
        )
    there = {one.key: one.size for one in store.list()}
    objects = {one.key.removeprefix(OBJECTS) for one in target.list(OBJECTS)}
    if foreign := sorted(there.keys() - objects - {one.key.removeprefix(folder) for one in names}):
        raise RefusedError(
            f"{store.url} is not empty, it has {foreign[0]}; restore into a new prefix"
        )

    def back(without: str) -> Callable[[ObjectStat], None]:
        def copied(one: ObjectStat) -> None:
            with fetched(target, one.key, one.size, scratch) as (content, _):
                write(store, one.key.removeprefix(without), content)

        return copied

    listed = target.list(OBJECTS)
    missing = (one for one in listed if there.get(one.key.removeprefix(OBJECTS)) != one.size)
    for _ in chain(each(missing, back(OBJECTS)), each(names, back(folder))):
        pass
    return len(objects) + len(names)


def fetch_dump(target: ObjectStore, day: CompleteDay, path: Path) -> None:
    """The day's dump, checked by its digest. Raises CorruptError."""
    key = f"{DATABASES}{day.day}.dump"
    target.download(key, path, sha256=day.dump_sha256, size=day.dump_bytes)

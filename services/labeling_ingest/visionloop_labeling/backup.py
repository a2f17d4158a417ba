"""Backups of an installation: what is copied, in which order, and the way back.

A run has three steps, and none of them stops a program: the small objects that change, here called
*names*; the database, by pg_dump; then all other objects, which never change and are shared by all
days. docs/backup.md says why no other order will do. In the target:

    days/<day>/…              the names of that day
    databases/<day>.dump      pg_dump's custom format
    objects/…                 everything else, copied once
    complete/<day>.json       written LAST: without it there is no such day
    store.json                whose backups these are: those of two stores would become one

The price: every object passes through this process once, an object's bytes at a time (256 MiB for
eight small ones), and the listing of the target is held in memory, some 300 bytes an object.
"""

import hashlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import Final, Literal

from pydantic import Field

from visionloop.errors import ConflictError, InvalidInputError, NotFoundError, RefusedError
from visionloop.objectstore import ObjectStat, ObjectStore
from visionloop.objectstore.transfers import in_parallel
from visionloop.record import Record, Sha256, parse_record, record_bytes

# Small, and moved or removed: kept for each day. What they name never changes.
NAMES: Final = (
    "models/*/aliases.json",
    "models/*/history/*",
    "datasets/*/refs/*",
    "datasets/*/snapshots/*/manifest.json",
    "inbox/*",
)
MADE_ANEW: Final = ("derived/*", "staging/*", "models/*/checkpoints/*")
DAYS: Final = "days/"
DATABASES: Final = "databases/"
OBJECTS: Final = "objects/"
COMPLETE: Final = "complete/"
OWNER: Final = "store.json"
_DAY: Final = "%Y-%m-%dT%H-%M-%SZ"  # so that names sort by time
_DUMP_BEGINS: Final = b"PGDMP"  # pg_dump's custom format
_SMALL_BYTES: Final = 32 * 2**20  # several of these at a time, larger ones one by one
_BATCH: Final = 256


class CompleteDay(Record):
    """What `complete/<day>.json` says."""

    format_version: Literal[1] = 1
    day: str
    names: int = Field(ge=0)
    dump_bytes: int = Field(ge=1)
    dump_sha256: Sha256
    copied: int = Field(ge=0, description="objects that no day before had")
    copied_bytes: int = Field(ge=0)


class Owner(Record):
    """What `store.json` says."""

    format_version: Literal[1] = 1
    store: str  # its URL


def claim(store: ObjectStore, target: ObjectStore) -> None:
    """Makes the target the store's. Raises RefusedError where it has another one's backups."""
    try:
        target.put_if_absent(OWNER, record_bytes(Owner(store=store.url)))
    except ConflictError:
        owner = parse_record(Owner, target.get(OWNER).data, OWNER)
        if owner.store != store.url:
            raise RefusedError(
                f"{target.url} has backups of {owner.store}, and this is {store.url}: give each "
                "store a target of its own"
            ) from None


def day_of(now: datetime) -> str:
    """The name of a run that begins now (UTC)."""
    return now.astimezone(UTC).strftime(_DAY)


def is_name(key: str) -> bool:
    """Whether the object is one of a day's own."""
    return any(fnmatchcase(key, pattern) for pattern in NAMES)


def is_object(key: str) -> bool:
    """Whether it is one that all days share."""
    return not any(fnmatchcase(key, pattern) for pattern in (*NAMES, *MADE_ANEW))


def copy_names(store: ObjectStore, target: ObjectStore, day: str) -> int:
    """Step 1; the number of names."""
    folders = sorted({pattern.partition("*")[0] for pattern in NAMES})
    found = (one for folder in folders for one in store.list(folder) if is_name(one.key))
    count, _ = _copy(store, found, target, f"{DAYS}{day}/")
    return count


def keep_dump(target: ObjectStore, day: str, dump: Path) -> tuple[int, str]:
    """Step 2's end: the dump goes to the target; its bytes and sha256.

    Raises RefusedError for a file that is no dump.
    """
    digest = hashlib.sha256()
    with dump.open("rb") as file:
        if file.read(len(_DUMP_BEGINS)) != _DUMP_BEGINS:
            raise RefusedError(f"{dump} is not what pg_dump --format=custom writes")
        file.seek(0)
        while block := file.read(2**20):
            digest.update(block)
        size = file.tell()
    target.upload(dump, f"{DATABASES}{day}.dump")
    return size, digest.hexdigest()


def copy_objects(store: ObjectStore, target: ObjectStore) -> tuple[int, int]:
    """Step 3: what the target lacks; how many objects that were, and their bytes."""
    there = {
        one.key.removeprefix(OBJECTS): (one.size, one.modified) for one in target.list(OBJECTS)
    }

    def lacks(one: ObjectStat) -> bool:
        size, modified = there.get(one.key, (-1, one.modified))
        return size != one.size or one.modified > modified

    found = (one for one in store.list() if is_object(one.key) and lacks(one))
    return _copy(store, found, target, OBJECTS)


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


def restore(target: ObjectStore, day: str, store: ObjectStore) -> int:
    """All objects and the day's names, in this order, into an empty store; their number.

    Raises RefusedError where the store holds anything: a program may be working with it.
    """
    if next(iter(store.list()), None) is not None:
        raise RefusedError(f"{store.url} is not empty; restore into a new prefix")
    objects, _ = _copy(target, target.list(OBJECTS), store, "", OBJECTS)
    folder = f"{DAYS}{day}/"
    names, _ = _copy(target, target.list(folder), store, "", folder)
    return objects + names


def fetch_dump(target: ObjectStore, day: CompleteDay, path: Path) -> None:
    """The day's dump, checked by its digest. Raises CorruptError."""
    key = f"{DATABASES}{day.day}.dump"
    target.download(key, path, sha256=day.dump_sha256, size=day.dump_bytes)


def _copy(
    source: ObjectStore,
    found: Iterable[ObjectStat],
    target: ObjectStore,
    folder: str,
    without: str = "",
) -> tuple[int, int]:
    """Puts what was found into `folder` of the target; the number of objects and bytes.

    What went away since it was listed is left out: a correction was taken in, and the dump has it.
    """

    def copied(one: ObjectStat) -> int | None:
        try:
            data = source.get(one.key).data
        except NotFoundError:
            return None
        target.put(folder + one.key.removeprefix(without), data)
        return len(data)

    count = size = 0
    for batch in _batches(found):
        small = [one for one in batch if one.size <= _SMALL_BYTES]
        large = (one for one in batch if one.size > _SMALL_BYTES)
        sizes = [*in_parallel(copied, small), *map(copied, large)]
        kept = [one for one in sizes if one is not None]
        count += len(kept)
        size += sum(kept)
    return count, size


def _batches(found: Iterable[ObjectStat]) -> Iterator[list[ObjectStat]]:
    rest = iter(found)
    while batch := list(islice(rest, _BATCH)):
        yield batch

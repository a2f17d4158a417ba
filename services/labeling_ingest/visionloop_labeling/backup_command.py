"""`visionloop-labeling backup …`: what the chart's CronJob runs around pg_dump, and the way back.

`begin` and `finish` are the first and the last container of its pod. Between them, in an image of
Postgres, pg_dump writes the file that `finish` keeps. Its connection comes by a service file, which
`begin` makes of the database's address: an address in arguments would show its password to
everybody on the node who may list processes.
"""

import argparse
import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeAlias

import psycopg
from psycopg.conninfo import conninfo_to_dict

from visionloop.cli.output import Output
from visionloop.errors import (
    ConfigurationError,
    CorruptError,
    NotFoundError,
    PermissionDeniedError,
)
from visionloop.flags import StrictParser
from visionloop.objectstore import ObjectStore, S3Account, open_store
from visionloop_labeling import backup, backup_report, dump_header
from visionloop_labeling.backup_report import BackupReport
from visionloop_labeling.commands import database_flags, database_url

SERVICE: Final = "visionloop"  # PGSERVICE, in the file of PGSERVICEFILE
DUMP: Final = "labels.dump"
_NAMED: Final = 20  # damaged objects, in one line
_TARGET: Final = "BACKUP_"  # before the names of the AWS variables
_Verb: TypeAlias = Callable[[argparse.Namespace, Output], None]


def run(arguments: Sequence[str]) -> int:
    """Runs one step; gives its exit code. Raises VisionloopError."""
    options = parser().parse_args(arguments)
    output = Output(as_json=options.json)
    verb: _Verb = options.verb
    verb(options, output)
    output.flush()
    return 0


def parser() -> StrictParser:
    """The command's flags."""
    made = StrictParser(
        "visionloop-labeling backup",
        description="Backs up store and database of an installation on Postgres. The target's key "
        "and server are in BACKUP_AWS_ACCESS_KEY_ID, BACKUP_AWS_SECRET_ACCESS_KEY, "
        "BACKUP_AWS_ENDPOINT_URL_S3, BACKUP_AWS_REGION and BACKUP_AWS_CA_BUNDLE, or those of the "
        "store.",
    )
    verbs = made.add_subparsers(required=True, metavar="COMMAND")

    def verb(name: str, does: _Verb, text: str) -> StrictParser:
        parents = [database_flags()] if name == "begin" else []
        one: StrictParser = verbs.add_parser(name, parents=parents, help=text, description=text)
        one.set_defaults(verb=does)
        if not parents:
            one.add_argument("--json", action="store_true", help="one JSON document on stdout")
        one.add_argument(
            "--target",
            default=os.environ.get("VISIONLOOP_BACKUP_TARGET", ""),
            help="where backups are; VISIONLOOP_BACKUP_TARGET does as well",
        )
        if name != "list":
            one.add_argument("--store", default=os.environ.get("VISIONLOOP_STORE", ""))
        return one

    begin = verb("begin", _begin, "copy the names, and write pg_dump's service file")
    begin.add_argument("--service-file", type=Path, required=True, help="for PGSERVICEFILE")
    finish = verb("finish", _finish, "keep the dump, copy the objects, forget old days")
    finish.add_argument("--keep", type=int, default=30, help="complete days to keep (30)")
    for one in (begin, finish):
        one.add_argument("--folder", type=Path, required=True, help=f"of {DUMP}")
    verb("list", _list, "the days that can be restored")
    back = verb("restore", _restore, "a day's objects into an empty store, and its dump to a file")
    back.add_argument("--day", default="", help="as `list` shows it; the latest")
    back.add_argument("--dump", type=Path, required=True, help="file for pg_restore")
    return made


def _begin(options: argparse.Namespace, output: Output) -> None:
    store, target = _both(options)
    backup.claim(store, target, _server() if store.url.startswith("s3:") else "")
    day = backup.day_of(datetime.now(UTC))
    backup.check_clock(target, day)
    _write_private(options.service_file, service_file(database_url(options)))
    names = backup.copy_names(store, target, day)
    options.folder.mkdir(parents=True, exist_ok=True)
    (options.folder / DUMP).unlink(missing_ok=True)  # of a try before
    (options.folder / "day").write_text(f"{day} {names}", encoding="utf-8")
    output.result({"day": day, "names": names})
    output.line(f"{day}: {names} names")


def _finish(options: argparse.Namespace, output: Output) -> None:
    store, target = _both(options)
    try:
        day, names = (options.folder / "day").read_text(encoding="utf-8").split()
        size, sha256 = backup.keep_dump(target, day, options.folder / DUMP)
        postgres, pg_dump = dump_header.versions(options.folder / DUMP)
    except FileNotFoundError as error:
        raise NotFoundError(
            f"{error.filename} is not there: `begin` and pg_dump come before"
        ) from None
    copied = backup.copy_objects(store, target, options.folder)
    done = backup.CompleteDay(
        day=day, names=int(names), dump_bytes=size, dump_sha256=sha256,
        postgres=postgres, pg_dump=pg_dump,
        copied=copied.objects, copied_bytes=copied.bytes, damaged=len(copied.damaged),
    )  # fmt: skip
    backup.complete(target, done)
    with suppress(PermissionDeniedError):  # an identity that only reads the store
        backup_report.leave(store, BackupReport(day=day, damaged=done.damaged))
    if copied.damaged:
        raise CorruptError(
            f"{day} is complete, but {done.damaged} objects of {store.url} are not what their "
            f"name or their copy says: {', '.join(copied.damaged[:_NAMED])}. They were not copied, "
            "their copies stay, and no day is forgotten until they are mended"
        )
    gone = backup.forget(target, options.keep)
    output.result({**done.model_dump(), "forgotten": gone})
    output.line(
        f"{day} is complete: a dump of {size} bytes, {copied.objects} new objects of "
        f"{copied.bytes} bytes"
    )
    for one in gone:
        output.line(f"{one} is forgotten")


def _list(options: argparse.Namespace, output: Output) -> None:
    target = _target(options)
    days = [backup.read_day(target, day) for day in backup.complete_days(target)]
    output.result([one.model_dump() for one in days])
    output.table(
        (
            "day",
            "names",
            "bytes of the dump",
            "by pg_dump",
            "new objects",
            "their bytes",
            "damaged",
        ),
        [
            (d.day, d.names, d.dump_bytes, d.pg_dump, d.copied, d.copied_bytes, d.damaged)
            for d in days
        ],
    )


def _restore(options: argparse.Namespace, output: Output) -> None:
    target = _target(options)
    day = backup.read_day(target, options.day)
    store = _store(options)
    backup.fetch_dump(target, day, options.dump)  # first: it may fail at once, objects take hours
    objects = backup.restore(target, day, store, options.dump.parent)
    output.result({"day": day.day, "objects": objects})
    output.line(f"{day.day}: {objects} objects are in {options.store}, the dump is {options.dump}")
    if major := day.pg_dump.partition(".")[0]:
        output.line(f"pg_restore {major} takes it, or a newer one, into Postgres {major} or newer")


def _both(options: argparse.Namespace) -> tuple[ObjectStore, ObjectStore]:
    """Store and target. Raises ConfigurationError where one lies in the other."""
    store, target = _store(options), _target(options)
    elsewhere = S3Account.from_environment(_TARGET).endpoint.rstrip("/")
    same_server = elsewhere in ("", _server())
    if same_server and f"{target.url}/".startswith(f"{store.url}/"):
        raise ConfigurationError(
            f"--target {target.url} lies in the store {store.url}: it would be copied into itself, "
            "and what the programs may delete is no backup",
            field="target",
        )
    return store, target


def _store(options: argparse.Namespace) -> ObjectStore:
    if not options.store:
        raise ConfigurationError(
            "--store is missing; name it (or set VISIONLOOP_STORE)", field="store"
        )
    return open_store(options.store)


def _server() -> str:
    """Where the store is; empty: AWS, or a folder."""
    general = os.environ.get("AWS_ENDPOINT_URL", "")
    return os.environ.get("AWS_ENDPOINT_URL_S3", general).rstrip("/")


def _target(options: argparse.Namespace) -> ObjectStore:
    if not options.target:
        raise ConfigurationError(
            "--target is missing; name where backups are (or set VISIONLOOP_BACKUP_TARGET)",
            field="target",
        )
    return open_store(options.target, S3Account.from_environment(_TARGET))


def service_file(url: str) -> str:
    """The address as libpq's service file. Raises ConfigurationError for another database."""
    plain = re.sub(r"^postgres(ql)?(\+psycopg)?://", "postgresql://", url)
    if not plain.startswith("postgresql://"):
        raise ConfigurationError(
            "--database is not a Postgres; docs/backup.md has the way for SQLite", field="database"
        )
    try:
        words = conninfo_to_dict(plain)
    except psycopg.ProgrammingError as error:
        raise ConfigurationError(
            "--database is not an address that libpq takes", field="database"
        ) from error
    lines = [f"{name}={value}" for name, value in words.items() if value is not None]
    if any("\n" in line for line in lines):
        raise ConfigurationError("--database holds a line break", field="database")
    return "\n".join([f"[{SERVICE}]", *lines, ""])


def _write_private(path: Path, text: str) -> None:
    """For this user alone: it holds a password."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600, exist_ok=False)
    path.write_text(text, encoding="utf-8")

"""`visionloop-labeling rebuild`: the tables that follow from the label log, written anew."""

from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy import select

from visionloop.cli.output import Output
from visionloop.errors import ConfigurationError
from visionloop.flags import StrictParser
from visionloop_labeling import datasets, validation
from visionloop_labeling.commands import database_flags, database_url
from visionloop_labeling.database import Database, open_database
from visionloop_labeling.engines import sqlite_file
from visionloop_labeling.rebuild import Rebuilt, rebuild
from visionloop_labeling.schema import Dataset

DIFFERENCES = 1  # exit code of --check


def run(arguments: Sequence[str]) -> int:
    """Runs the command; gives its exit code. Raises VisionloopError."""
    options = _parser().parse_args(arguments)
    output = Output(as_json=options.json)
    url = database_url(options)
    file = sqlite_file(url)
    if file is not None and not file.exists():  # to open it would make an empty one
        raise ConfigurationError(
            f"--database: there is no database {file}; name the service's", field="database"
        )
    # It locks whole datasets for long: on SQLite the service must not wait for it.
    database = open_database(url)
    try:
        names = options.datasets or _all_names(database)
        found = {name: _rebuild(database, name, keep=not options.check) for name in names}
    finally:
        database.close()
    _tell(found, output, checked=options.check)
    output.flush()
    differ = any(one.differing for one in found.values())
    return DIFFERENCES if options.check and differ else 0


def _parser() -> StrictParser:
    parser = StrictParser(
        "visionloop-labeling rebuild",
        parents=[database_flags()],
        description="Folds the label log anew into the tables that follow from it (current labels, "
        "places in the queue, counts) and says where they differed. A dataset is locked meanwhile; "
        "with SQLite stop the service first.",
    )
    parser.add_argument("datasets", nargs="*", metavar="DATASET", help="without any: all of them")
    parser.add_argument(
        "--check",
        action="store_true",
        help="change nothing; the exit code is 1 where something differs",
    )
    return parser


def _all_names(database: Database) -> list[str]:
    with database.read() as session:
        return list(session.scalars(select(Dataset.name).order_by(Dataset.name)))


def _rebuild(database: Database, name: str, *, keep: bool) -> Rebuilt:
    with database.write() as session:
        dataset = datasets.find(session, validation.dataset_name(name), lock=True)
        found = rebuild(session, dataset)
        if not keep:
            session.rollback()
        return found


def _tell(found: dict[str, Rebuilt], output: Output, *, checked: bool) -> None:
    output.result({name: asdict(one) for name, one in found.items()})
    output.table(
        ("dataset", "images", "differences"),
        [(name, one.images, one.differing) for name, one in found.items()],
    )
    for name, one in found.items():
        for difference in one.shown:
            output.line(
                f"{name}: {difference.of}: {difference.what} was {difference.stored!r}, the log "
                f"has {difference.from_log!r}"
            )
        if one.differing > len(one.shown):
            output.line(f"{name}: and {one.differing - len(one.shown)} more")
    if any(one.differing for one in found.values()):
        output.line("nothing was changed" if checked else "all of it was written anew")

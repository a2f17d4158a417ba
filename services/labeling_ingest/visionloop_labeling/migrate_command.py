"""`visionloop-labeling migrate`: the tables brought up to date, apart from serving.

What an init container runs before the service starts. Several may run at once: one migrates under
Postgres' advisory lock, the others wait and find nothing to do. Serving migrates as well, so a
deployment without this step is not wrong; with it, a migration that fails ends before any pod of
the new version takes a request, and says why in a log of its own.
"""

from collections.abc import Sequence

from visionloop.cli.output import Output
from visionloop.flags import StrictParser
from visionloop_labeling.commands import database_flags, database_url
from visionloop_labeling.database import open_database, revision


def run(arguments: Sequence[str]) -> int:
    """Migrates; gives the exit code. Raises VisionloopError."""
    options = parser().parse_args(arguments)
    database = open_database(database_url(options), connections=1)
    try:
        found = revision(database)
    finally:
        database.close()
    output = Output(as_json=options.json)
    output.result({"revision": found})
    output.line(f"the database is at revision {found}")
    output.flush()
    return 0


def parser() -> StrictParser:
    """The command's flags."""
    return StrictParser(
        "visionloop-labeling migrate",
        parents=[database_flags()],
        description="Brings the database's tables up to date; several may run it at once.",
    )

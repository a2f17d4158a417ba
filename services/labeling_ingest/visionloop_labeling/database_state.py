"""What is in the database, without changing it: reachable, of which version, with which rights."""

import sqlite3
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Final

from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, inspect, text
from sqlalchemy.exc import DatabaseError
from sqlalchemy.pool import NullPool

from visionloop_labeling.database import MIGRATIONS, unusable
from visionloop_labeling.engines import connect, sqlite_file
from visionloop_labeling.schema import Table

_REVISION_TABLE: Final = "alembic_version"


class Kept(Enum):
    """Whose tables are there."""

    NOTHING = auto()
    CURRENT = auto()
    OLDER = auto()
    NEWER = auto()
    FOREIGN = auto()


@dataclass(frozen=True, slots=True)
class State:
    """`revision` is that of the tables ("" without), `newest` the one that this program knows.

    `file` is SQLite's; the rest is Postgres'. `connections_free` is None where it is not known.
    """

    server: str
    kept: Kept
    revision: str
    newest: str
    file: Path | None = None
    may_make_tables: bool = True
    connections_free: int | None = None


def look(url: str) -> State:
    """Raises ConfigurationError for a bad URL, UnavailableError when nobody answers."""
    file = sqlite_file(url)
    if file is not None:
        return _look_at_file(url, file)
    engine, _ = connect(url, connections=1)
    try:
        with engine.connect() as connection:
            revision, kept = _tables(connection)
            return State(
                server=f"Postgres {_scalar(connection, 'SHOW server_version')}",
                kept=kept,
                revision=revision,
                newest=_newest(),
                may_make_tables=bool(
                    _scalar(connection, "SELECT has_schema_privilege(current_schema(), 'CREATE')")
                ),
                connections_free=_connections_free(connection),
            )
    except DatabaseError as error:
        raise unusable(url, error) from error
    finally:
        engine.dispose()


def _look_at_file(url: str, file: Path) -> State:
    server = f"SQLite {sqlite3.sqlite_version}, {file}"
    if not file.exists():
        return State(server, Kept.NOTHING, "", _newest(), file)
    engine = _reading(file)
    try:
        with engine.connect() as connection:
            revision, kept = _tables(connection)
    except DatabaseError as error:
        raise unusable(url, error) from error
    finally:
        engine.dispose()
    return State(server, kept, revision, _newest(), file)


def _reading(file: Path) -> Engine:
    """Beside the service that may hold the file: it is only read."""
    return create_engine(
        "sqlite://",
        creator=lambda: sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True),
        poolclass=NullPool,
    )


def _tables(connection: Connection) -> tuple[str, Kept]:
    """The revision of the tables, and whose they are."""
    names = set(inspect(connection).get_table_names())
    if _REVISION_TABLE not in names:
        foreign = names & set(Table.metadata.tables)
        return "", Kept.FOREIGN if foreign else Kept.NOTHING
    revision = MigrationContext.configure(connection).get_current_revision() or ""
    known = [script.revision for script in _scripts().walk_revisions()]  # newest first
    if not revision:
        return "", Kept.NOTHING
    if revision not in known:
        return revision, Kept.NEWER
    return revision, Kept.CURRENT if revision == known[0] else Kept.OLDER


def _newest() -> str:
    return _scripts().get_current_head() or ""


def _scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return ScriptDirectory.from_config(config)


def _connections_free(connection: Connection) -> int | None:
    """Of those for ordinary users; None where this user may not see the others."""
    most = int(str(_scalar(connection, "SHOW max_connections")))
    reserved = int(str(_scalar(connection, "SHOW superuser_reserved_connections")))
    used = _scalar(
        connection, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
    )
    return most - reserved - int(str(used))


def _scalar(connection: Connection, statement: str) -> object:
    return connection.execute(text(statement)).scalar()

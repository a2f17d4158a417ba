"""Opening the database: engines, transactions, locks, migrations.

SQLite is for one process: WAL, every write transaction BEGIN IMMEDIATE, and an exclusive lock on
`<file>.lock` for as long as the program runs, so that a second program is refused in words instead
of corrupting assumptions. `synchronous=FULL` makes a commit durable before its receipt; the price
is one fsync a commit, which ingest shares among up to 64 rows. Postgres takes any number of
replicas: writers of one dataset take its row lock, migrations an advisory lock.
"""

import fcntl
import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any

from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DatabaseError, OperationalError
from sqlalchemy.orm import Session

from visionloop.errors import (
    ConfigurationError,
    CorruptError,
    UnavailableError,
    VisionloopError,
)
from visionloop_labeling.schema import Table

_MIGRATIONS = Path(__file__).parent / "migrations"
_ADVISORY_LOCK = 0x76_69_73_69_6F_6E  # "vision"
_BUSY_TIMEOUT_MS = 30_000
# As many as there are threads that may want one, so that none fails waiting for another.
_CONNECTIONS = 48
_WRITES = "visionloop_writes"
_log = logging.getLogger(__name__)


class Database:
    """One opened database. `read()` and `write()` give sessions; both are safe from any thread."""

    def __init__(self, engine: Engine, lock_file: IO[str] | None) -> None:
        self._engine = engine
        self._writing_engine = engine.execution_options(**{_WRITES: True})
        self._lock_file = lock_file
        # SQLite has one writer; queueing here is fair, its busy handler is not.
        self._writer = threading.Lock() if self.single_process else None

    @property
    def single_process(self) -> bool:
        """True when no other process can be writing (SQLite)."""
        return self._engine.dialect.name == "sqlite"

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A consistent view of each statement; nothing is written."""
        with _reachable(), Session(self._engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def view(self) -> Iterator[Session]:
        """One state of the database for as many statements as it takes; nothing is written.

        Nobody waits for it. The price of a long one: what writers replace meanwhile is kept (dead
        rows in Postgres, a longer log in SQLite, where every read transaction is such a view).
        """
        with self.read() as session:
            if not self.single_process:
                session.connection(
                    execution_options={
                        "isolation_level": "REPEATABLE READ",
                        "postgresql_readonly": True,
                    }
                )
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """One transaction: committed when the block ends, rolled back when it raises."""
        with (
            self._writer or nullcontext(),
            _reachable(),
            Session(self._writing_engine, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    def close(self) -> None:
        """Closes all connections and lets the next program in."""
        self._engine.dispose()
        if self._lock_file is not None:
            self._lock_file.close()


def insert_missing(
    session: Session, table: type[Table], rows: Sequence[Mapping[str, object]]
) -> None:
    """Inserts the rows that are not there yet; another writer may be doing the same right now."""
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    session.execute(dialect.insert(table).on_conflict_do_nothing(), rows)


def open_database(url: str) -> Database:
    """Opens and migrates the database at `url` (sqlite:///file or postgresql://…).

    Raises ConfigurationError for a bad URL or a SQLite file that another program holds, and
    UnavailableError when the database cannot be reached.
    """
    engine, lock_file = _connect(url)
    opened = Database(engine, lock_file)
    try:
        _migrate(engine)
    except (DatabaseError, CommandError) as error:
        opened.close()
        raise _unusable(url, error) from error
    return opened


def _unusable(url: str, error: DatabaseError | CommandError) -> VisionloopError:
    shown = make_url(url).render_as_string(hide_password=True)
    if isinstance(error, CommandError):
        return ConfigurationError(
            f"database {shown} was made by a newer version of this program ({error}); run that one",
            field="database",
        )
    if isinstance(error, OperationalError):
        return UnavailableError(
            f"database {shown} cannot be used: {_one_line(error)}; check that it is there and that "
            "this user may write to it"
        )
    return ConfigurationError(
        f"database {shown} cannot be used: {_one_line(error)}; name another file or database",
        field="database",
    )


def _one_line(error: DatabaseError) -> str:
    return " ".join(str(error.orig).split())


@contextmanager
def _reachable() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        # Its words name hosts and users: they are for the log, not for callers.
        _log.error("the database failed", extra={"error": _one_line(error)})
        raise UnavailableError(
            "the database cannot be used right now (the service's log says why); try again"
        ) from error


def _connect(url: str) -> tuple[Engine, IO[str] | None]:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigurationError(
            "--database is not a database URL; use sqlite:///path/to/labeling.db or "
            "postgresql://user@host/name",
            field="database",
        ) from error
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername == "postgresql+psycopg":
        # REPEATABLE READ would make every wait for a row lock a serialisation failure.
        engine = create_engine(
            parsed, pool_pre_ping=True, isolation_level="READ COMMITTED", max_overflow=_CONNECTIONS
        )
        return engine, None
    if parsed.drivername != "sqlite":
        raise ConfigurationError(
            f"--database: {parsed.drivername} is not supported; use sqlite:///path or "
            "postgresql://user@host/name",
            field="database",
        )
    if not parsed.database or parsed.database == ":memory:":
        raise ConfigurationError(
            "--database needs a file: labels kept in memory are lost; use sqlite:///path/to/file",
            field="database",
        )
    path = Path(parsed.database).resolve()  # one lock, by whatever link the file is reached
    lock_file = _lock(path)
    engine = create_engine(parsed, max_overflow=_CONNECTIONS)
    event.listen(engine, "connect", _on_sqlite_connect)
    event.listen(engine, "begin", _on_sqlite_begin)
    return engine, lock_file


def _lock(path: Path) -> IO[str]:
    lock_path = path.with_name(path.name + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock_file = lock_path.open("a+", encoding="ascii")
    except OSError as error:
        raise ConfigurationError(
            f"--database: {lock_path} cannot be opened ({error.strerror}); name a file in a folder "
            "that this program may write to",
            field="database",
        ) from error
    try:
        fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock_file.seek(0)
        holder = lock_file.read(20).strip() or "unknown"
        lock_file.close()
        raise ConfigurationError(
            f"--database: {path} is in use by process {holder}; SQLite is for one program at a "
            "time: stop that one, or use Postgres for several replicas",
            field="database",
        ) from error
    lock_file.truncate(0)
    lock_file.write(f"{os.getpid()}\n")
    lock_file.flush()
    return lock_file


def _on_sqlite_connect(connection: Any, _record: Any) -> None:
    # The driver must not begin transactions by itself: _on_sqlite_begin does, and says which kind.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _on_sqlite_begin(connection: Any) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _migrate(engine: Engine) -> None:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    with (
        engine.execution_options(**{_WRITES: True}).connect() as connection,
        _unchecked_references(connection),
        connection.begin(),
    ):
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


@contextmanager
def _unchecked_references(connection: Connection) -> Iterator[None]:
    """SQLite changes a table by making it anew; dropping the old one would break references."""
    if connection.dialect.name != "sqlite":
        yield
        return
    driver: Any = connection.connection.driver_connection
    driver.execute("PRAGMA foreign_keys=OFF")  # has no effect within a transaction
    try:
        yield
        broken = driver.execute("PRAGMA foreign_key_check").fetchone()
    finally:
        driver.execute("PRAGMA foreign_keys=ON")
    if broken is not None:
        raise CorruptError(f"the database has references to nothing: {tuple(broken)!r}")

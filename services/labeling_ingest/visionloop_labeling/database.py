"""The opened database: transactions, what goes wrong with them in words, migrations.

One code path for both databases (`engines` connects to them). Reading sees one moment throughout;
writing sees what others committed before it took its locks, and takes the dataset's lock first, so
that writers of one dataset queue and nobody deadlocks. What is lost with a connection is told as
UnavailableError: the caller says it again, and idempotency keys make that harmless.
"""

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any, Final

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, Engine, func, make_url, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DatabaseError, DBAPIError, OperationalError, TimeoutError
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool

from visionloop.errors import (
    ConfigurationError,
    CorruptError,
    OverloadedError,
    UnavailableError,
    VisionloopError,
)
from visionloop_labeling.engines import (
    DEFAULT_CONNECTIONS,
    READ_ONLY,
    SQLITE_CONNECTIONS,
    WRITES,
    connect,
)
from visionloop_labeling.schema import Table, plain

MIGRATIONS = Path(__file__).parent / "migrations"
_ADVISORY_LOCK = 0x76_69_73_69_6F_6E  # "vision"
_RETRY_SECONDS: Final = 1.0
# SQLSTATEs that are no OperationalError and yet nobody's mistake: a transaction that stood idle or
# lasted for too long. For writers also a server that has become a standby.
_ENDED: Final = frozenset({"25P03", "25P04"})
_CONTENDED: Final = frozenset({"55P03", "40P01", "40001"})  # lock timeout, deadlock, serialisation
_log = logging.getLogger(__name__)


class Database:
    """One opened database. `read()` and `write()` give sessions; both are safe from any thread.

    Both raise UnavailableError when the database cannot be reached or others hold it for too long,
    and OverloadedError when all of this program's connections are busy. Neither is nested: a thread
    that waits for a second connection could wait for ever.
    """

    def __init__(self, engine: Engine, lock_file: IO[str] | None, most: int) -> None:
        """`most` connections to Postgres at once."""
        self._engine = engine
        self._most = most
        self._writing_engine = engine.execution_options(**{WRITES: True})
        self._reading_engine = engine
        if not self.single_process:
            self._reading_engine = engine.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
        self._lock_file = lock_file
        # SQLite has one writer; queueing here is fair, its busy handler is not.
        self._writer = threading.Lock() if self.single_process else None

    @property
    def single_process(self) -> bool:
        """True when no other process can be writing (SQLite)."""
        return self._engine.dialect.name == "sqlite"

    @contextmanager
    def read(self) -> Iterator[Session]:
        """One state of the database for all statements; nothing is written, and nobody waits."""
        with _in_words(_ENDED), Session(self._reading_engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def view(self) -> Iterator[Session]:
        """`read()` for work that takes long: no timeout ends it.

        Nobody waits for it. Its price: what writers replace meanwhile is kept (dead rows in
        Postgres, a longer log in SQLite).
        """
        with self.read() as session:
            if not self.single_process:
                session.execute(text("SET LOCAL statement_timeout = 0"))
                session.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """One transaction: committed when the block ends, rolled back when it raises."""
        with (
            self._writer or nullcontext(),
            _in_words(_ENDED | {READ_ONLY}),
            Session(self._writing_engine, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    def connections(self) -> tuple[int, int]:
        """How many connections this program uses now, and how many it may."""
        pool = self._engine.pool
        in_use = pool.checkedout() if isinstance(pool, QueuePool) else 0
        return in_use, SQLITE_CONNECTIONS if self.single_process else self._most

    def close(self) -> None:
        """Closes all connections and lets the next program in."""
        self._engine.dispose()
        if self._lock_file is not None:
            self._lock_file.close()


def insert_missing(
    session: Session, table: type[Table], rows: Sequence[Mapping[str, object]]
) -> None:
    """Inserts the rows that are not there yet; another writer may be doing the same right now.

    It waits for that one: writers of several rows give them in one order.
    """
    session.execute(_dialect(session).insert(plain(table)).on_conflict_do_nothing(), rows)


def insert_new(session: Session, table: type[Table], row: Mapping[str, object]) -> bool:
    """Inserts a row unless there is one that it may not stand beside; whether it did.

    Were one to look first and insert then, two at once could both find nothing. It waits for a
    writer that inserts the same right now, and inserts when that one gives up.
    """
    added = _dialect(session).insert(plain(table)).values(row).on_conflict_do_nothing()
    return session.execute(added.returning(plain(table).c.id)).first() is not None


def take_ids(session: Session, table: type[Table], count: int, *, above: int = 0) -> Iterator[int]:
    """Row ids for `count` new rows, ascending; `above` is the highest that is taken and unwritten.

    Rows that have their ids are written in one go at the end of a transaction, each once and as it
    became; without, each must be written first to get one.
    """
    if not count:
        return iter(())
    if session.get_bind().dialect.name == "postgresql":
        sequence = func.pg_get_serial_sequence(table.__tablename__, "id")
        taken = select(func.nextval(sequence)).select_from(func.generate_series(1, count))
        return iter(sorted(session.scalars(taken)))
    # Nobody else writes, and SQLite itself would go on from here as well.
    last = session.scalar(select(func.max(plain(table).c.id))) or 0
    first = max(last, above) + 1
    return iter(range(first, first + count))


def open_database(url: str, *, connections: int = DEFAULT_CONNECTIONS) -> Database:
    """Opens and migrates the database at `url` (sqlite:///file or postgresql://…).

    Raises ConfigurationError for a bad URL or a SQLite file that another program holds, and
    UnavailableError when the database cannot be reached.
    """
    engine, lock_file = connect(url, connections)
    opened = Database(engine, lock_file, connections)
    try:
        migrate(engine)
    except (DatabaseError, CommandError) as error:
        opened.close()
        raise unusable(url, error) from error
    return opened


def open_beside(url: str) -> Database:
    """Opens a database that the service may be using right now, for short transactions.

    Where nobody has it, it is opened as the service opens it. Raises as `open_database` does, and
    ConfigurationError when the running service is of another version: its tables are not ours.
    """
    engine, lock_file = connect(url, connections=1, beside=True)
    opened = Database(engine, lock_file, 1)
    try:
        if lock_file is None and opened.single_process:
            _check_revision(opened)
        else:
            migrate(engine)
    except (DatabaseError, CommandError) as error:
        opened.close()
        raise unusable(url, error) from error
    except VisionloopError:
        opened.close()
        raise
    return opened


def _check_revision(database: Database) -> None:
    found = revision(database)
    newest = ScriptDirectory(str(MIGRATIONS)).get_current_head()
    if found != newest:
        raise ConfigurationError(
            f"the service that has the database is of another version (its tables are {found}, "
            f"this program's {newest}); use that version, or stop the service first",
            field="database",
        )


def migrate(engine: Engine, revision: str = "head") -> None:
    """Brings the tables to `revision`; of several replicas that start at once, one does it."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    with (
        engine.execution_options(**{WRITES: True}).connect() as connection,
        _unchecked_references(connection),
        connection.begin(),
    ):
        if connection.dialect.name == "postgresql":
            # The others wait for as long as it takes.
            connection.execute(text("SET LOCAL lock_timeout = 0"))
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def revision(database: Database) -> str:
    """The name of the newest migration that the tables have seen."""
    with database.read() as session:
        return str(session.scalar(text("SELECT version_num FROM alembic_version")))


def unusable(url: str, error: DatabaseError | CommandError) -> VisionloopError:
    """Why the database at `url` cannot be opened, in words, without its password."""
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


def _dialect(session: Session) -> Any:
    """Where the database's own INSERT is; one of the two modules, alike in what is used here."""
    return postgresql if session.get_bind().dialect.name == "postgresql" else sqlite


def _one_line(error: DBAPIError) -> str:
    return " ".join(str(error.orig).split())


@contextmanager
def _in_words(ended: frozenset[str]) -> Iterator[None]:
    """What the database says names hosts and users: it is for the log, not for callers."""
    try:
        yield
    except TimeoutError as error:
        raise OverloadedError(
            "all of this replica's database connections are busy; try again in a moment",
            retry_after_seconds=_RETRY_SECONDS,
        ) from error
    except DBAPIError as error:
        state = getattr(error.orig, "sqlstate", None)
        lost = isinstance(error, OperationalError) or error.connection_invalidated
        if not lost and state not in ended:
            raise
        _log.error("the database failed", extra={"error": _one_line(error)})
        raise UnavailableError(
            "others were writing the same for too long; try again"
            if state in _CONTENDED
            else "the database cannot be used right now (the service's log says why); try again",
            retry_after_seconds=_RETRY_SECONDS,
        ) from error


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

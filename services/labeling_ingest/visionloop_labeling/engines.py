"""Connecting to the database: one engine for SQLite, one for Postgres.

SQLite is for one process: WAL, every write transaction BEGIN IMMEDIATE, and an exclusive lock on
`<file>.lock` for as long as the program runs, so that a second program is refused in words instead
of corrupting assumptions. Only a command whose transactions are short, and touch nothing that the
service remembers, may work `beside` it. `synchronous=FULL` makes a commit durable before its
receipt; the price is one fsync a commit, which ingest shares among up to 128 rows.

Postgres takes any number of replicas. A replica takes at most `connections` connections (four
replicas of the default fit into Postgres' own default of 100); who finds them all busy waits. No
statement and no wait for a lock lasts for ever, and the server notices within a minute when a
replica is gone whose transaction is open: so a dead replica never holds a dataset for long.
"""

import fcntl
import os
from pathlib import Path
from typing import IO, Any, Final

from sqlalchemy import URL, Engine, ExceptionContext, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from visionloop.errors import ConfigurationError

WRITES: Final = "visionloop_writes"  # execution option: the transaction will write
DEFAULT_CONNECTIONS: Final = 24
# Longer than any queue of writers that we accept, shorter than a client's patience.
LOCK_SECONDS: Final = 20
STATEMENT_SECONDS: Final = 300  # the longest are the cut and the migration of a large dataset
_BUSY_SECONDS: Final = 30
SQLITE_CONNECTIONS: Final = 53  # as many as there are threads that may want one
_KEPT_OPEN: Final = 5
_CONNECT_SECONDS: Final = 5
_SERVER_SETTINGS: Final = {
    "lock_timeout": f"{LOCK_SECONDS}s",
    "statement_timeout": f"{STATEMENT_SECONDS}s",
    # A frozen replica; one that was killed is noticed by its socket, one whose machine is gone by
    # the keep-alives: 30 s + 3 × 10 s.
    "idle_in_transaction_session_timeout": "60s",
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}
READ_ONLY: Final = "25006"  # SQLSTATE of a write to a server that has become a standby


def connect(
    url: str, connections: int = DEFAULT_CONNECTIONS, *, beside: bool = False
) -> tuple[Engine, IO[str] | None]:
    """The engine for `url`, and for SQLite the lock that keeps other programs out.

    With `beside`, a SQLite file that another program holds is opened without that lock.

    Raises ConfigurationError for a bad URL or a SQLite file that another program holds. Postgres is
    not contacted yet.
    """
    parsed = _parsed(url)
    if parsed.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
        return _postgres(parsed.set(drivername="postgresql+psycopg"), connections), None
    if parsed.drivername != "sqlite":
        raise ConfigurationError(
            f"--database: {parsed.drivername} is not supported; use sqlite:///path or "
            "postgresql://user@host/name",
            field="database",
        )
    return _sqlite(parsed, beside=beside)


def sqlite_file(url: str) -> Path | None:
    """The file that a SQLite URL names; None for another database. Raises ConfigurationError."""
    parsed = _parsed(url)
    return _file(parsed) if parsed.drivername == "sqlite" else None


def _parsed(url: str) -> URL:
    try:
        return make_url(url)
    except ArgumentError as error:
        raise ConfigurationError(
            "--database is not a database URL; use sqlite:///path/to/labeling.db or "
            "postgresql://user@host/name",
            field="database",
        ) from error


def _postgres(url: URL, connections: int) -> Engine:
    settings = " ".join(f"-c {name}={value}" for name, value in _SERVER_SETTINGS.items())
    own = url.query.get("options", "")  # what the operator says stands last, and so it counts
    defaults: dict[str, Any] = {
        "connect_timeout": _CONNECT_SECONDS,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        # With several hosts in the URL: the one that takes writes.
        "target_session_attrs": "read-write",
    }
    arguments = {name: value for name, value in defaults.items() if name not in url.query}
    engine = create_engine(
        url.difference_update_query(["options"]),
        connect_args={**arguments, "options": f"{settings} {own}".strip()},
        # READ COMMITTED, because REPEATABLE READ would make every wait for a row lock a
        # serialisation failure.
        isolation_level="READ COMMITTED",
        pool_pre_ping=True,  # so a restart of the server between two requests goes unnoticed
        pool_size=min(_KEPT_OPEN, connections),
        max_overflow=connections - min(_KEPT_OPEN, connections),
        pool_timeout=_BUSY_SECONDS,
    )
    event.listen(engine, "handle_error", _on_postgres_error)
    return engine


def _on_postgres_error(context: ExceptionContext) -> None:
    """After a failover the pool's connections lead to a standby: they are given up."""
    if getattr(context.original_exception, "sqlstate", None) != READ_ONLY:
        return
    connection = context.connection
    if connection is not None and connection.get_execution_options().get(WRITES, False):
        context.is_disconnect = True


def _file(url: URL) -> Path:
    if not url.database or url.database == ":memory:":
        raise ConfigurationError(
            "--database needs a file: labels kept in memory are lost; use sqlite:///path/to/file",
            field="database",
        )
    return Path(url.database).resolve()  # one lock, by whatever link the file is reached


def _sqlite(url: URL, *, beside: bool) -> tuple[Engine, IO[str] | None]:
    path = _file(url)
    lock_file = _lock(path)
    if lock_file is None and not beside:
        raise ConfigurationError(
            f"--database: {path} is in use by process {_holder(path)}; SQLite is for one program "
            "at a time: stop that one, or use Postgres for several replicas",
            field="database",
        )
    engine = create_engine(url, pool_size=_KEPT_OPEN, max_overflow=SQLITE_CONNECTIONS - _KEPT_OPEN)
    event.listen(engine, "connect", _on_sqlite_connect)
    event.listen(engine, "begin", _on_sqlite_begin)
    return engine, lock_file


def _lock_path(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _lock(path: Path) -> IO[str] | None:
    """The lock, held; None when another program holds it."""
    lock_path = _lock_path(path)
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
    except BlockingIOError:
        lock_file.close()
        return None
    lock_file.truncate(0)
    lock_file.write(f"{os.getpid()}\n")
    lock_file.flush()
    return lock_file


def _holder(path: Path) -> str:
    with _lock_path(path).open(encoding="ascii") as lock_file:
        return lock_file.read(20).strip() or "unknown"


def _on_sqlite_connect(connection: Any, _record: Any) -> None:
    # The driver must not begin transactions by itself: _on_sqlite_begin does, and says which kind.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={_BUSY_SECONDS * 1000}")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _on_sqlite_begin(connection: Any) -> None:
    writes = connection.get_execution_options().get(WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

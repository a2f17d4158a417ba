"""The core of labeling-ingest on a fresh database of each kind and a fresh folder.

A test that takes `core` (or `database_url`) runs on SQLite, and in CI on a real Postgres as well.
What is about one of them says so: @pytest.mark.parametrize("database_url", ["sqlite"],
indirect=True).
"""

import os
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.fresh_database import fresh_sqlite
from support.labeling_site import Site, open_site
from support.postgres import PostgresServer

from visionloop.images import Limits
from visionloop.objectstore import ObjectStore, open_store
from visionloop.snapshot import SnapshotRepository, SnapshotRow
from visionloop_labeling import datasets, labels, snapshots
from visionloop_labeling.database import Database, open_database
from visionloop_labeling.datasets import DatasetSettings
from visionloop_labeling.exports import ExportedLabel, pages
from visionloop_labeling.ingest import Ingest
from visionloop_labeling.labels import Recorded
from visionloop_labeling.receipts import ImageRow, Receipt, Way
from visionloop_labeling.snapshots import Cut

DATASET = "cells"
# CI runs the core's tests on both databases. Where every minute counts, what is about Postgres runs
# on Postgres and the rest on SQLite; ALL_DATABASES=1 asks for both.
BOTH = "1" in (os.environ.get("REQUIRE_ALL"), os.environ.get("ALL_DATABASES"))
ON_POSTGRES = pytest.param("postgres", marks=pytest.mark.postgres)
DATABASES = ["sqlite", ON_POSTGRES] if BOTH else ["sqlite"]


@dataclass
class Core:
    """Database, store and ingest, with the calls that tests make over and over."""

    database: Database
    store: ObjectStore
    ingest: Ingest
    _next: int = field(default=0)

    def create(self, name: str = DATASET, settings: DatasetSettings | None = None) -> None:
        with self.database.write() as session:
            datasets.create(session, name, settings)

    def submit(self, *rows: ImageRow) -> list[Receipt]:
        return self.ingest.commit([self.ingest.prepare(row) for row in rows])

    def add(self, image: bytes, label: str | None = None, **fields: object) -> Receipt:
        """One row in a batch of its own; an import's label unless told otherwise."""
        self._next += 1
        values = {"dataset": DATASET, "author_kind": "import", "ordinal": 0, "way": Way.GRPC}
        values |= fields
        values.setdefault("batch", f"added-{self._next}")
        return self.submit(ImageRow(image=image, label=label, **values))[0]

    def submit_all(self, images: Iterable[tuple[bytes, str | None]]) -> list[Receipt]:
        """Images with labels as one batch, in groups as a stream sends them."""
        self._next += 1
        batch = f"all-{self._next}"
        rows = [
            ImageRow(DATASET, batch, number, image, label, author_kind="import", way=Way.GRPC)
            for number, (image, label) in enumerate(images)
        ]
        groups = [rows[start : start + 64] for start in range(0, len(rows), 64)]
        return [receipt for group in groups for receipt in self.submit(*group)]

    def say(self, sha256: str, label: str, kind: str = "human", **fields: object) -> Recorded:
        """A label for an image that is there."""
        values = {"event_id": "", "author": "", **fields}
        statement = labels.statement(class_name=label, author_kind=kind, **values)
        return labels.submit(self.database, DATASET, sha256, statement)

    def labels(self, name: str = DATASET) -> dict[str, ExportedLabel]:
        """The current labels by digest."""
        return {one.sha256: one for page in pages(self.database, name) for one in page}

    def cut(self) -> Cut:
        return snapshots.cut(self.database, self.store, DATASET)

    def rows(self, cut: Cut) -> list[SnapshotRow]:
        """The rows that a reader of the snapshot sees."""
        return SnapshotRepository(self.store).read(DATASET, cut.manifest.id).rows


@pytest.fixture(scope="session")
def migrated_postgres(postgres_server: PostgresServer) -> str:
    """The name of a database with the tables, to use as a template."""
    name = postgres_server.create()
    open_database(postgres_server.url(name)).close()
    return name


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a fresh database of each kind, with the tables in it."""
    if request.param == "sqlite":
        yield fresh_sqlite(tmp_path / "labeling.db")
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = server.create(request.getfixturevalue("migrated_postgres"))
    yield server.url(name)
    server.drop(name)


@pytest.fixture
def core(database_url: str, tmp_path: Path) -> Iterator[Core]:
    database = open_database(database_url)
    store = open_store(f"file://{tmp_path / 'store'}")
    ingest = Ingest(database, store, Limits())
    made = Core(database, store, ingest)
    made.create()
    yield made
    ingest.close()
    database.close()


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Async tests run on asyncio, as the service does."""
    return "asyncio"


@pytest.fixture(scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory, anyio_backend: str) -> AsyncIterator[Site]:
    """A service with accounts, for all tests of a module."""
    async with open_site(tmp_path_factory.mktemp("site")) as made:
        yield made

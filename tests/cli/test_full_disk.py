"""Commands on a disk that takes no more: one sentence, its exit code, nothing half-written."""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.small_disk import FULL, SmallDisk, small_disk

from visionloop.cli import import_sources, labels
from visionloop.cli.main import main
from visionloop.demo import __main__ as demo
from visionloop.errors import DiskFullError


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", "1m") as made:
        yield made


def test_an_import_that_packs_a_folder(
    disk: SmallDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(disk.folder))
    source = tmp_path / "yolo"
    source.mkdir()
    (source / "image.jpg").write_bytes(bytes(50_000))
    disk.fill()
    with (
        pytest.raises(DiskFullError, match=f"{FULL}.*by TMPDIR"),
        import_sources.packed(source, None),
    ):
        pass
    assert {one.name for one in disk.folder.iterdir()} <= {"ballast"}
    disk.empty()
    with import_sources.packed(source, None) as archive:
        assert archive.stat().st_size > 50_000


def test_an_export(disk: SmallDisk) -> None:
    target = disk.folder / "labels.csv"
    target.write_bytes(b"of before")
    disk.fill()
    with pytest.raises(DiskFullError, match=f"{FULL}.*by --output"), labels._written_to(target):
        labels._write(target, [bytes(20_000), bytes(20_000)])
    assert target.read_bytes() == b"of before"


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_suite(disk: SmallDisk, flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    disk.fill()
    code = main(["up", "--data", str(disk.folder / "data"), *flags])
    disk.empty()
    told = capsys.readouterr().err
    assert code == 69, told
    [line] = told.splitlines()
    assert f"cannot write {disk.folder / 'data'}: " in line
    assert "by --data" in line


def test_a_demo(
    disk: SmallDisk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["demo", "--output", str(disk.folder / "demo")])
    disk.fill()
    code = demo.main()
    disk.empty()
    told = capsys.readouterr().err
    assert code == 69, told
    [line] = told.splitlines()
    assert "see" in line or "by --output" in line

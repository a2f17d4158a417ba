"""A full disk is one sentence: which path, how much was wanted, what is free, what moves it."""

import errno
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.small_disk import FULL, SmallDisk, small_disk

from visionloop.disk_space import bytes_in_words, room_anywhere, room_for, temporary_folder
from visionloop.errors import DiskFullError
from visionloop.objectstore.local import written_whole


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", "1m") as made:
        yield made


def test_it_says_what_was_wanted_what_is_free_and_what_moves_it(disk: SmallDisk) -> None:
    path = disk.folder / "array.npy"
    disk.fill()
    with pytest.raises(DiskFullError) as full, room_for(path, wanted=2500, setting="--cache"):
        path.write_bytes(bytes(2500))
    free = "0 B" if disk.mounted else r"[\d.]+ [kMGT]?B"
    words = rf"cannot write {re.escape(str(path))}: {FULL} \(2\.5 kB wanted, {free} free\); "
    words += "make room there, or name another place by --cache"
    assert re.fullmatch(words, str(full.value))
    assert (full.value.exit_code, full.value.grpc_code, full.value.reason) == (
        69,
        "UNAVAILABLE",
        "disk_full",
    )


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_quota_and_a_limit_are_full_disks_too(number: int, tmp_path: Path) -> None:
    with pytest.raises(DiskFullError, match=re.escape(os.strerror(number))), room_for(tmp_path):
        raise OSError(number, os.strerror(number))


def test_other_troubles_pass(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), room_for(tmp_path), room_anywhere({}):
        (tmp_path / "nowhere" / "file").write_bytes(b"")


def test_the_nearest_setting_counts() -> None:
    with (
        pytest.raises(DiskFullError, match=r"or name another place by --cache$"),
        room_for(Path("/far"), setting="TMPDIR"),
        room_for(Path("/near"), setting="--cache"),
        room_for(Path("/here")),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_file_is_whole_or_not_there(disk: SmallDisk) -> None:
    path = disk.folder / "bundle.json"
    with written_whole(path) as file:
        file.write(b"before")
    disk.fill()
    with pytest.raises(DiskFullError, match=r"bundle\.json"), written_whole(path) as file:
        file.write(bytes(10_000))
    assert path.read_bytes() == b"before"
    assert {one.name for one in disk.folder.iterdir()} <= {"bundle.json", "ballast"}
    disk.empty()
    with written_whole(path) as file:
        file.write(bytes(10_000))
    assert path.stat().st_size == 10_000


def test_a_temporary_folder_names_tmpdir(disk: SmallDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(disk.folder))

    def export() -> None:
        with temporary_folder("test-") as folder:
            disk.fill()
            (folder / "model.onnx").write_bytes(bytes(10_000))

    with pytest.raises(DiskFullError, match="by TMPDIR"):
        export()
    assert {one.name for one in disk.folder.iterdir()} <= {"ballast"}


def test_no_folder_at_all_for_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "nowhere")])
    with pytest.raises(DiskFullError, match=r"none can be written.*TMPDIR"), temporary_folder("x"):
        pass


def test_the_last_net_tells_all_places(disk: SmallDisk) -> None:
    disk.fill()
    with pytest.raises(DiskFullError) as full, room_anywhere({"--cache": disk.folder}):
        (disk.folder / "file").write_bytes(bytes(4096))
    assert f"--cache {disk.folder}: " in str(full.value)
    assert "TMPDIR /" in str(full.value)


def test_inodes_are_told_apart_from_bytes(tmp_path: Path) -> None:
    """Many small files use them up first."""
    with small_disk(tmp_path / "disk", "1m,nr_inodes=16") as disk:
        if not disk.mounted:
            return  # a limit on files' sizes knows no inodes

        def write(path: Path) -> None:
            with room_for(path, wanted=0):
                path.write_bytes(b"")

        for number in range(15):  # the folder itself has one
            write(disk.folder / str(number))
        with pytest.raises(DiskFullError, match="wanted, no room for another file's name"):
            write(disk.folder / "one more")


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2_345_678, "2.3 MB")]
)
def test_bytes_in_words(count: int, words: str) -> None:
    assert bytes_in_words(count) == words

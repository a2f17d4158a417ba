"""What only the file store can meet: links, modes, other files in the way, killed writers."""

import errno
import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.forked import forked_at_first
from support.small_disk import FULL, small_disk

from visionloop.errors import (
    ConfigurationError,
    ConflictError,
    DiskFullError,
    InvalidInputError,
    NotFoundError,
    PermissionDeniedError,
    VisionloopError,
)
from visionloop.objectstore import ObjectStore, open_store
from visionloop.objectstore.local import remove_abandoned


def visible(folder: Path) -> list[str]:
    """The plain files of a store's folder, without the store's own."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and ".visionloop" not in path.parts
    )


class TestLinks:
    def test_a_link_out_of_the_store_is_not_followed(
        self, file_store: ObjectStore, tmp_path: Path
    ) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "secret").write_bytes(b"secret")
        root = tmp_path / "store"
        (root / "folder").symlink_to(outside)
        (root / "file").symlink_to(outside / "secret")
        for key in ("folder/secret", "file"):
            for call in (
                lambda key=key: file_store.get(key),
                lambda key=key: file_store.stat(key),
                lambda key=key: file_store.put(key, b"changed"),
                lambda key=key: file_store.put_if_absent(key, b"changed"),
                lambda key=key: file_store.delete(key),
                lambda key=key: file_store.download(key, tmp_path / "out", sha256="0" * 64),
            ):
                with pytest.raises(PermissionDeniedError, match="symbolic link"):
                    call()
        with pytest.raises(PermissionDeniedError):
            file_store.put("folder/new", b"")
        assert list(file_store.list()) == []
        assert list(file_store.list_folders("")) == []
        assert [path.name for path in outside.iterdir()] == ["secret"]
        assert (outside / "secret").read_bytes() == b"secret"

    def test_the_root_itself_may_be_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "real")
        store = open_store(f"file://{tmp_path}/link")
        store.put("a/b", b"1")
        assert open_store(f"file://{tmp_path}/real").get("a/b").data == b"1"


class TestFolders:
    def test_a_file_in_the_way_of_the_root(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        for url in (f"file://{tmp_path}/file", f"file://{tmp_path}/file/store"):
            with pytest.raises(ConfigurationError, match="a file is in the way"):
                open_store(url)

    def test_an_object_named_like_a_folder(self, file_store: ObjectStore) -> None:
        file_store.put("a/b", b"1")
        for write in (file_store.put, file_store.put_if_absent):
            for key in ("a", "a/b/c"):
                with pytest.raises((InvalidInputError, ConflictError)):
                    write(key, b"2")
        assert [stat.key for stat in file_store.list()] == ["a/b"]

    @pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
    def test_a_root_that_cannot_be_made(self) -> None:
        with pytest.raises(VisionloopError, match="/proc/self/store") as caught:
            open_store("file:///proc/self/store")
        assert caught.value.exit_code != 0

    def test_a_read_only_folder(self) -> None:
        """In a process that is not root, since root may write everywhere."""
        with tempfile.TemporaryDirectory() as folder:
            store = open_store(f"file://{folder}/store")
            store.put("a/b", b"1")
            for path in [Path(folder), *Path(folder).rglob("*")]:
                path.chmod(0o555)
            done = subprocess.run(
                [sys.executable, "-c", WITHOUT_RIGHTS, store.url], capture_output=True, text=True
            )
            for path in [Path(folder), *Path(folder).rglob("*")]:
                path.chmod(0o755)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("Permission denied; check owner and mode") == 4


WITHOUT_RIGHTS = """
import os, sys
from visionloop.errors import PermissionDeniedError
from visionloop.objectstore import open_store
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
store = open_store(sys.argv[1])
assert store.get("a/b").data == b"1"
assert len(list(store.list())) == 1
for write in (
    lambda: store.put("a/c", b""),
    lambda: store.put_if_absent("x/y", b""),
    lambda: store.delete("a/b"),
    store.probe,
):
    try:
        write()
    except PermissionDeniedError as error:
        print(error)
"""


class TestFileSystemsThatLackSomething:
    """Which this machine has not, so the system call's answer is put in its place."""

    @pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK])
    def test_no_hard_links(
        self, file_store: ObjectStore, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "link", refuse)
        for call in (file_store.probe, lambda: file_store.put_if_absent("key", b"1")):
            with pytest.raises(ConfigurationError, match="one file system that has hard links"):
                call()

    def test_a_full_disk(self, tmp_path: Path) -> None:
        """Nothing changes and nothing stays, what is there can be read and removed, and with room
        again all is well."""
        source = tmp_path / "source"
        source.write_bytes(bytes(20_000))
        with small_disk(tmp_path / "disk") as disk:
            store = open_store((disk.folder / "store").as_uri())
            store.put("key", b"1")
            store.put("other", b"1")
            disk.fill()
            etag = store.stat("key").etag
            for size, call in (
                ("20.0 kB", lambda: store.put("key", bytes(20_000))),
                ("1 B", lambda: store.put_if_absent("folder/new", b"2")),
                ("2 B", lambda: store.compare_and_swap("key", b"22", etag)),
                ("20.0 kB", lambda: store.upload(source, "new")),
            ):
                with pytest.raises(DiskFullError, match=rf"{FULL} \({size} wanted, .*by --store"):
                    call()
            assert visible(disk.folder / "store") == ["key", "other"]
            assert list((disk.folder / "store/.visionloop/unfinished").iterdir()) == []
            assert store.get("key").data == b"1"
            store.delete("other")
            disk.empty()
            store.compare_and_swap("key", b"22", etag)
            store.upload(source, "new")
            assert visible(disk.folder / "store") == ["key", "new"]


class TestWriters:
    def test_readers_see_whole_objects_while_they_are_replaced(
        self, file_store: ObjectStore
    ) -> None:
        contents = [bytes([number]) * 200_000 for number in range(4)]
        file_store.put("key", contents[0])
        done = threading.Event()

        def replace() -> None:
            for number in range(60):
                file_store.put("key", contents[number % 4])
            done.set()

        writer = threading.Thread(target=replace)
        writer.start()
        seen = 0
        while not done.is_set():
            assert file_store.get("key").data in contents
            seen += 1
        writer.join()
        assert seen > 0

    def test_one_writer_at_a_time_between_the_check_and_the_rename(
        self, file_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With that gap made wide: without the lock every thread would win."""
        etag = file_store.put("key", b"start")
        true_utime = os.utime
        barrier = threading.Barrier(4)

        def slow_utime(*arguments: object, **options: object) -> None:
            time.sleep(0.05)
            true_utime(*arguments, **options)  # type: ignore[arg-type]

        def swap(number: int) -> bool:
            barrier.wait()
            try:
                file_store.compare_and_swap("key", f"{number}".encode(), etag)
            except ConflictError:
                return False
            return True

        monkeypatch.setattr(os, "utime", slow_utime)
        with ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(swap, range(4))) == 1

    def test_a_child_that_was_forked_meanwhile_keeps_nobody_waiting(
        self, file_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        true_utime = os.utime
        with ThreadPoolExecutor(1) as pool, forked_at_first() as fork:

            def forking(*arguments: object, **options: object) -> None:
                fork()
                true_utime(*arguments, **options)  # type: ignore[arg-type]

            monkeypatch.setattr(os, "utime", forking)  # under the lock
            file_store.put("key", b"1")
            pool.submit(file_store.put, "key", b"2").result(10)

    def test_etags_differ_within_one_tick_of_the_clock(
        self, file_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = time.time_ns()
        monkeypatch.setattr(time, "time_ns", lambda: now)
        etags = [file_store.put("key", b"same") for _ in range(50)]
        assert len(set(etags)) == 50

    def test_a_failed_write_leaves_nothing(self, file_store: ObjectStore, tmp_path: Path) -> None:
        file_store.put("key", b"1")
        with pytest.raises(ConflictError):
            file_store.put_if_absent("key", b"2")
        with pytest.raises(ConflictError):
            file_store.compare_and_swap("key", b"2", "stale")
        with pytest.raises(NotFoundError):
            file_store.upload(tmp_path / "missing", "other")
        root = tmp_path / "store"
        assert visible(root) == ["key"]
        assert list((root / ".visionloop" / "unfinished").iterdir()) == []

    def test_what_killed_writers_left_is_removed_in_time(
        self, file_store: ObjectStore, tmp_path: Path
    ) -> None:
        file_store.put("key", b"1")
        unfinished = tmp_path / "store" / ".visionloop" / "unfinished"
        for name, age_seconds in (("old", 2 * 24 * 3600), ("young", 60)):
            (unfinished / name).write_bytes(b"half")
            written = time.time() - age_seconds
            os.utime(unfinished / name, (written, written))
        assert [stat.key for stat in file_store.list()] == ["key"]
        open_store(file_store.url)
        assert [path.name for path in unfinished.iterdir()] == ["young"]

    def test_what_cannot_be_removed_keeps_nothing_else(self, tmp_path: Path) -> None:
        for name in ("first", "not a file/inside", "last"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(b"half")
        left = [tmp_path / name for name in ("gone", "first", "not a file", "last")]
        for path in left[1:]:
            os.utime(path, (0, 0))
        remove_abandoned(left)
        assert [path.name for path in tmp_path.iterdir()] == ["not a file"]


def test_what_is_called_there_already_is_durable(
    file_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its writer may be between the name and the sync of its folder; a power cut loses the name."""
    file_store.put_if_absent("a/b", b"content")
    synced: list[Path] = []
    monkeypatch.setattr("visionloop.objectstore.file.sync_folder", synced.append)
    with pytest.raises(ConflictError):
        file_store.put_if_absent("a/b", b"content")
    assert synced == [tmp_path / "store" / "a"]

"""The contract that all stores keep, on a folder and on a real S3 server."""

import hashlib
import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from visionloop.errors import ConflictError, CorruptError, InvalidInputError, NotFoundError
from visionloop.objectstore import ObjectStore, open_store

SPAWN = multiprocessing.get_context("spawn")


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def winners(count: int, attempt: Callable[[int], object]) -> list[int]:
    """Runs `attempt(0..count-1)` at the same moment; returns who met no ConflictError."""
    barrier = threading.Barrier(count)

    def run(number: int) -> int | None:
        barrier.wait()
        try:
            attempt(number)
        except ConflictError:
            return None
        return number

    with ThreadPoolExecutor(count) as pool:
        return [number for number in pool.map(run, range(count)) if number is not None]


class TestReadAndWrite:
    def test_what_was_put_comes_back(self, store: ObjectStore) -> None:
        etag = store.put("a/b.bin", b"\x00\xff")
        stored = store.get("a/b.bin")
        assert (stored.key, stored.data, stored.etag) == ("a/b.bin", b"\x00\xff", etag)

    def test_put_replaces_and_the_etag_follows(self, store: ObjectStore) -> None:
        first = store.put("key", b"old")
        second = store.put("key", b"new")
        assert store.get("key").data == b"new"
        assert first != second == store.get("key").etag

    def test_an_empty_object(self, store: ObjectStore, tmp_path: Path) -> None:
        store.put("empty", b"")
        assert store.get("empty").data == b""
        store.download("empty", tmp_path / "empty", sha256=digest(b""), size=0)
        assert (tmp_path / "empty").read_bytes() == b""

    def test_stat_agrees_with_get_and_list(self, store: ObjectStore) -> None:
        store.put("folder/key", b"12345")
        stat = store.stat("folder/key")
        assert (stat.key, stat.size, stat.etag) == ("folder/key", 5, store.get("folder/key").etag)
        assert abs(stat.modified - datetime.now(UTC)) < timedelta(minutes=5)
        assert stat.modified.utcoffset() == timedelta(0)
        (listed,) = store.list("folder/")
        assert (listed.key, listed.size, listed.etag) == (stat.key, stat.size, stat.etag)

    def test_missing(self, store: ObjectStore, tmp_path: Path) -> None:
        store.put("folder/key", b"")
        for key in ("nothing", "folder", "folder/other"):
            with pytest.raises(NotFoundError, match=key):
                store.get(key)
            with pytest.raises(NotFoundError, match=key):
                store.stat(key)
            with pytest.raises(NotFoundError, match=key):
                store.download(key, tmp_path / "file", sha256=digest(b""))
        with pytest.raises(NotFoundError):
            store.upload(tmp_path / "no such file", "key")
        assert not (tmp_path / "file").exists()

    def test_delete_twice(self, store: ObjectStore) -> None:
        store.put("folder/key", b"1")
        store.delete("folder/key")
        store.delete("folder/key")
        store.delete("never/was")
        with pytest.raises(NotFoundError):
            store.get("folder/key")

    @pytest.mark.parametrize("name", ["über straße.jpg", "a+b=c&d?e#f%20g", "~tilde", "日本"])
    def test_names_of_the_world(self, store: ObjectStore, name: str) -> None:
        store.put(f"{name}/{name}", name.encode())
        assert store.get(f"{name}/{name}").data == name.encode()
        assert [stat.key for stat in store.list(f"{name}/")] == [f"{name}/{name}"]
        assert list(store.list_folders("")) == [name]

    @pytest.mark.parametrize(
        "key", ["", "/a", "../a", "a/../b", "a//b", "a\\b", "a\0", "a/", "é" * 451]
    )
    def test_bad_keys_are_refused_by_every_call(
        self, store: ObjectStore, key: str, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_bytes(b"")
        calls: list[Callable[[], object]] = [
            lambda: store.get(key),
            lambda: store.put(key, b""),
            lambda: store.put_if_absent(key, b""),
            lambda: store.compare_and_swap(key, b"", "etag"),
            lambda: store.stat(key),
            lambda: store.delete(key),
            lambda: store.upload(tmp_path / "file", key),
            lambda: store.download(key, tmp_path / "out", sha256=digest(b"")),
        ]
        for call in calls:
            with pytest.raises(InvalidInputError) as caught:
                call()
            assert caught.value.field == "key"
        assert list(store.list()) == []


class TestListing:
    def test_prefixes(self, store: ObjectStore) -> None:
        for key in ("a/1", "a/2", "a/b/3", "ab", "c"):
            store.put(key, b"")
        assert {stat.key for stat in store.list()} == {"a/1", "a/2", "a/b/3", "ab", "c"}
        assert {stat.key for stat in store.list("a")} == {"a/1", "a/2", "a/b/3", "ab"}
        assert [stat.key for stat in store.list("a/")] == ["a/1", "a/2", "a/b/3"]
        assert [stat.key for stat in store.list("a/b/3")] == ["a/b/3"]
        assert list(store.list("nothing/here")) == []

    def test_folders(self, store: ObjectStore) -> None:
        for key in ("m/b/1/x", "m/a/1", "m/file", "other/z/1"):
            store.put(key, b"")
        assert list(store.list_folders("m/")) == ["a", "b"]
        assert list(store.list_folders("")) == ["m", "other"]
        assert list(store.list_folders("nothing/")) == []
        with pytest.raises(InvalidInputError):
            list(store.list_folders("m"))

    def test_a_folder_is_gone_with_its_last_object(self, file_store: ObjectStore) -> None:
        file_store.put("m/a/1", b"")
        file_store.delete("m/a/1")
        assert list(file_store.list_folders("m/")) == []

    def test_more_than_one_page_in_the_order_of_names(self, store: ObjectStore) -> None:
        keys = [f"many/{number:04}" for number in range(1005)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key: store.put(key, b""), keys))
        assert [stat.key for stat in store.list("many/")] == keys

    def test_two_prefixes_of_one_place_do_not_see_each_other(self, store_url: str) -> None:
        one, two = open_store(f"{store_url}/one"), open_store(f"{store_url}/two")
        one.put("key", b"1")
        assert list(two.list()) == []
        with pytest.raises(NotFoundError):
            two.get("key")
        assert [stat.key for stat in open_store(store_url).list()] == ["one/key"]


class TestConditions:
    def test_put_if_absent_once(self, store: ObjectStore) -> None:
        etag = store.put_if_absent("key", b"first")
        for data in (b"second", b"first"):
            with pytest.raises(ConflictError, match="key"):
                store.put_if_absent("key", data)
        assert store.get("key").data == b"first"
        assert store.get("key").etag == etag

    def test_compare_and_swap(self, store: ObjectStore) -> None:
        first = store.compare_and_swap("key", b"1", None)
        second = store.compare_and_swap("key", b"2", first)
        assert store.get("key").etag == second
        for stale in (first, None):
            with pytest.raises(ConflictError):
                store.compare_and_swap("key", b"3", stale)
        assert store.get("key").data == b"2"

    def test_swap_of_what_went_away(self, store: ObjectStore) -> None:
        etag = store.put("key", b"1")
        store.delete("key")
        with pytest.raises(ConflictError):
            store.compare_and_swap("key", b"2", etag)
        with pytest.raises(NotFoundError):
            store.get("key")

    def test_a_deleted_key_is_absent_again(self, store: ObjectStore) -> None:
        store.put_if_absent("key", b"1")
        store.delete("key")
        store.put_if_absent("key", b"2")
        assert store.get("key").data == b"2"

    @pytest.mark.parametrize("same", [False, True], ids=["own-bytes", "same-bytes"])
    def test_threads_race_for_an_absent_key(self, store: ObjectStore, same: bool) -> None:
        data = [b"x" if same else f"{number}".encode() for number in range(8)]
        won = winners(8, lambda number: store.put_if_absent("key", data[number]))
        assert len(won) == 1
        assert store.get("key").data == data[won[0]]

    def test_threads_race_to_swap(self, store: ObjectStore) -> None:
        etag = store.put("key", b"start")
        won = winners(8, lambda n: store.compare_and_swap("key", f"{n}".encode(), etag))
        assert len(won) == 1
        assert store.get("key").data == f"{won[0]}".encode()

    def test_processes_lose_no_increment(self, store: ObjectStore, store_url: str) -> None:
        store.put("counter", b"0")
        processes = [SPAWN.Process(target=add_with_retries, args=(store_url, 5)) for _ in range(3)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0, 0, 0]
        assert store.get("counter").data == b"15"

    def test_processes_race_for_absent_keys(self, store: ObjectStore, store_url: str) -> None:
        with SPAWN.Pool(3) as pool:
            won = pool.starmap(claim_all, [(store_url, name, 10) for name in ("a", "b", "c")])
        assert sorted(number for numbers in won for number in numbers) == list(range(10))
        for name, numbers in zip(("a", "b", "c"), won, strict=True):
            assert all(store.get(f"claims/{n}").data == name.encode() for n in numbers)

    @pytest.mark.parametrize("folder", ["", "models", "a/b"])
    def test_the_probe_passes_and_leaves_nothing(self, store: ObjectStore, folder: str) -> None:
        store.probe(folder)
        assert list(store.list()) == []


def add_with_retries(url: str, times: int) -> None:
    store = open_store(url)
    for _ in range(times):
        while True:
            current = store.get("counter")
            try:
                store.compare_and_swap("counter", b"%d" % (int(current.data) + 1), current.etag)
                break
            except ConflictError:
                continue


def claim_all(url: str, name: str, count: int) -> list[int]:
    store = open_store(url)
    won = []
    for number in range(count):
        try:
            store.put_if_absent(f"claims/{number}", name.encode())
            won.append(number)
        except ConflictError:
            continue
    return won


class TestFiles:
    # Below and above what travels in one piece, and not a multiple of a part.
    @pytest.mark.parametrize("size", [1, 300_000, 40 * 2**20 + 17])
    def test_there_and_back(self, store: ObjectStore, tmp_path: Path, size: int) -> None:
        data = os.urandom(size)
        (tmp_path / "source").write_bytes(data)
        etag = store.upload(tmp_path / "source", "big/file")
        assert store.stat("big/file").size == size
        assert store.stat("big/file").etag == etag
        target = tmp_path / "new folder" / "target"
        store.download("big/file", target, sha256=digest(data), size=size)
        assert target.read_bytes() == data
        assert store.download("big/file", target, sha256=None) == digest(data)

    def test_upload_replaces(self, store: ObjectStore, tmp_path: Path) -> None:
        store.put("key", b"old")
        (tmp_path / "source").write_bytes(b"new")
        store.upload(tmp_path / "source", "key")
        assert store.get("key").data == b"new"

    @pytest.mark.parametrize("size", [1000, 33 * 2**20])
    def test_altered_or_torn_is_refused_and_nothing_is_left(
        self, store: ObjectStore, tmp_path: Path, size: int
    ) -> None:
        data = bytes(size)
        store.put("key", data[:-1] + b"!")
        folder = tmp_path / "download"
        with pytest.raises(CorruptError, match="key has the digest"):
            store.download("key", folder / "file", sha256=digest(data), size=size)
        store.put("key", data[:-1])
        with pytest.raises(CorruptError, match=f"{size - 1} bytes, expected {size}"):
            store.download("key", folder / "file", sha256=digest(data), size=size)
        with pytest.raises(CorruptError, match="digest"):
            store.download("key", folder / "file", sha256=digest(data))
        assert list(folder.iterdir()) == []

    def test_a_refused_download_keeps_the_file_that_was_there(
        self, store: ObjectStore, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_bytes(b"good")
        store.put("key", b"bad")
        with pytest.raises(CorruptError):
            store.download("key", tmp_path / "file", sha256=digest(b"good"))
        assert (tmp_path / "file").read_bytes() == b"good"

    def test_a_file_of_the_longest_name(self, file_store: ObjectStore, tmp_path: Path) -> None:
        """255 bytes, which are 85 letters here: while it is written it has another name."""
        file_store.put("key", b"1")
        file_store.download("key", tmp_path / ("東" * 85), sha256=digest(b"1"))
        assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["東" * 85]

    def test_many_threads_share_one_store(self, store: ObjectStore, tmp_path: Path) -> None:
        def round_trip(number: int) -> bool:
            data = bytes([number]) * 10_000
            store.put(f"threads/{number}", data)
            path = tmp_path / f"{number}"
            store.download(f"threads/{number}", path, sha256=digest(data))
            return path.read_bytes() == data

        with ThreadPoolExecutor(16) as pool:
            assert all(pool.map(round_trip, range(48)))

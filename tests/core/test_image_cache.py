"""The node's image cache under several processes, damage and a full disk."""

import multiprocessing
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest
from support.forked import forked_at_first

from visionloop.errors import CorruptError, InvalidInputError, NotFoundError
from visionloop.image_cache import ImageCache
from visionloop.objectstore.base import StoredObject
from visionloop.objectstore.file import FileStore
from visionloop.snapshot import blob_key

SPAWN = multiprocessing.get_context("spawn")


class CountedStore(FileStore):
    """Notes every object that is fetched, by any process."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.log = root.with_name("fetched")
        self.before_get: Callable[[], None] = lambda: None

    def get(self, key: str) -> StoredObject:
        self.before_get()
        with self.log.open("a") as log:
            log.write(f"{key[-64:]}\n")
        return super().get(key)

    def fetched(self) -> Counter[str]:
        return Counter(self.log.read_text().split()) if self.log.exists() else Counter()


@pytest.fixture
def site(tmp_path: Path) -> tuple[CountedStore, Path]:
    return CountedStore(tmp_path / "store"), tmp_path / "cache"


def put(store: FileStore, number: int, size: int = 1000) -> str:
    data = sha256(f"{number}".encode()).digest() * (size // 32)
    digest = sha256(data).hexdigest()
    store.put(blob_key(digest), data)
    return digest


def kept(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.glob("[0-9a-f][0-9a-f]/*")}


def test_an_image_is_fetched_once(site) -> None:
    store, folder = site
    digest = put(store, 1)
    for _ in range(2):  # another snapshot, another run
        cache = ImageCache(store, folder)
        assert sha256(cache.read(digest)).hexdigest() == digest
        assert cache.read(digest) == cache.read(digest)
    assert store.fetched() == {digest: 1}


def test_a_worker_that_was_forked_while_an_image_was_fetched_keeps_nobody_waiting(site) -> None:
    store, folder = site
    digest = put(store, 1)
    cache = ImageCache(store, folder, max_bytes=10**6)
    with ThreadPoolExecutor(1) as pool, forked_at_first() as fork:
        store.before_get = fork
        whole = cache.read(digest)
        (folder / digest[:2] / digest).unlink()
        assert pool.submit(cache.read, digest).result(10) == whole  # under the same lock


def test_what_is_torn_is_fetched_anew(site) -> None:
    store, folder = site
    digest = put(store, 1)
    cache = ImageCache(store, folder)
    whole = cache.read(digest)
    for torn in (b"", whole[:-1], whole[:-1] + b"x"):
        (folder / digest[:2] / digest).write_bytes(torn)
        assert cache.read(digest) == whole
    assert store.fetched() == {digest: 4}


def test_what_the_store_has_lost_or_altered_is_named_and_not_kept(site) -> None:
    store, folder = site
    cache = ImageCache(store, folder)
    altered = put(store, 1)
    store.put(blob_key(altered), b"something else")
    with pytest.raises(CorruptError, match=f"image {altered} has the digest"):
        cache.read(altered)
    with pytest.raises(NotFoundError, match=f"image {'0' * 64} is in the snapshot but not in"):
        cache.read("0" * 64)
    with pytest.raises(InvalidInputError, match="not a sha256"):
        cache.read("../../../../etc/passwd")
    assert kept(folder) == {}


def test_without_a_usable_folder_images_are_still_read(site) -> None:
    store, folder = site
    folder.write_text("a file where the folder should be")
    digest = put(store, 1)
    for limit in (None, 10**6):
        assert ImageCache(store, folder, max_bytes=limit).read(digest)
    assert store.fetched() == {digest: 2}


def test_the_folder_stays_within_its_bound_and_keeps_what_is_read(site) -> None:
    store, folder = site
    cache = ImageCache(store, folder, max_bytes=20_000)
    digests = [put(store, number) for number in range(60)]
    first = digests[0]
    for place, digest in enumerate(digests):
        cache.read(digest)
        # Times would be equal on a coarse clock: say which was read when.
        for name, age in ((digest, place), (first, 10_000)):
            path = folder / name[:2] / name
            if path.exists():
                os.utime(path, ns=(10**9 * (10**6 + age), 10**9 * (10**6 + age)))
        assert sum(kept(folder).values()) <= 20_000
    left = kept(folder)
    assert set(digests[-10:]) <= left.keys()
    assert first in left
    assert digests[1] not in left
    big = put(store, 100, size=30_000)
    assert len(cache.read(big)) > 20_000
    assert big not in kept(folder)


def test_a_lost_ledger_is_counted_again(site) -> None:
    store, folder = site
    cache = ImageCache(store, folder, max_bytes=20_000)
    for number in range(15):
        cache.read(put(store, number))
    for damage in (b"", b"torn\0\0"):
        (folder / ".usage").write_bytes(damage)
        cache.read(put(store, 100 + len(damage)))
        assert 0 < int((folder / ".usage").read_bytes()) <= 20_000
    with pytest.raises(InvalidInputError, match="max_bytes is 0"):
        ImageCache(store, folder, max_bytes=0)


def test_processes_of_a_node_share_one_cache(site) -> None:
    store, folder = site
    digests = [put(store, number, 50_000) for number in range(40)]
    with SPAWN.Pool(3) as pool:
        work = [(store.log.with_name("store"), folder, digests[n:] + digests[:n]) for n in range(3)]
        assert pool.starmap(read_all, work) == [40 * 49_984] * 3
    assert store.fetched() == dict.fromkeys(digests, 1)
    assert not list(folder.rglob("*.partial"))


def read_all(root: Path, folder: Path, digests: list[str]) -> int:
    cache = ImageCache(CountedStore(root), folder)
    return sum(len(cache.read(digest)) for digest in digests)

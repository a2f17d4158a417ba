"""The node's image cache under several processes, damage and a full disk; the order of a stream."""

import multiprocessing
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.forked import forked_at_first

from visionloop.errors import CorruptError, InvalidInputError, NotFoundError
from visionloop.image_cache import ImageCache
from visionloop.image_stream import AHEAD, ImageStream, Position, epoch_order
from visionloop.objectstore.base import StoredObject
from visionloop.objectstore.file import FileStore
from visionloop.snapshot import SnapshotRow, blob_key

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


def row(digest: str) -> SnapshotRow:
    return SnapshotRow(
        sha256=digest, width=1, height=1, split="train", group_id="g", class_id="a",
        label_source="human",
    )  # fmt: skip


@pytest.fixture
def rows(site) -> list[SnapshotRow]:
    return [row(put(site[0], number)) for number in range(50)]


def streams(site, rows, world: int, seed: int = 7) -> list[ImageStream]:
    cache = ImageCache(*site)
    return [ImageStream(rows, cache, seed=seed, rank=r, world=world) for r in range(world)]


def digests_of(stream: ImageStream, start: Position) -> list[str]:
    return [sample.row.sha256 for sample in stream.epoch(start)]


def test_ranks_share_an_epoch_and_each_gets_as_many(site, rows) -> None:
    shares = [digests_of(stream, Position(3)) for stream in streams(site, rows, 4)]
    assert [len(share) for share in shares] == [13] * 4
    taken = Counter(digest for share in shares for digest in share)
    assert taken.keys() == {one.sha256 for one in rows}
    assert taken.total() == 52  # two came twice, so that no rank waits for the others
    alone = digests_of(streams(site, rows, 1)[0], Position(3))
    assert [share[0] for share in shares] == alone[:4]


def test_a_run_goes_on_where_it_stopped_with_other_ranks(site, rows) -> None:
    [alone] = streams(site, rows, 1)
    whole = digests_of(alone, Position(1))
    for stream in streams(site, rows, 2):
        samples = stream.epoch(Position(1))
        done = [next(samples) for _ in range(10)]
        samples.close()
        assert done[-1].after == Position(1, 20)
    resumed = [digests_of(stream, Position(1, 20)) for stream in streams(site, rows, 3)]
    assert [one for step in zip(*resumed, strict=True) for one in step] == whole[20:]
    last = list(alone.epoch(Position(1)))[-1]
    assert last.after == Position(2)
    assert digests_of(alone, Position(2)) != whole


def test_images_are_fetched_ahead_and_no_further(site, rows) -> None:
    [stream] = streams(site, rows, 1)
    samples = stream.epoch()
    first = next(samples)
    assert sha256(first.image).hexdigest() == first.row.sha256
    samples.close()
    assert 0 < site[0].fetched().total() <= AHEAD


def test_a_lost_image_is_named_where_it_is_due(site, rows) -> None:
    store, _ = site
    [stream] = streams(site, rows, 1)
    order = digests_of(stream, Position())
    store.delete(blob_key(order[20]))
    (site[1] / order[20][:2] / order[20]).unlink()
    samples = stream.epoch()
    assert [next(samples).row.sha256 for _ in range(20)] == order[:20]
    with pytest.raises(NotFoundError, match=order[20]):
        next(samples)


def test_wrong_use_is_refused(site, rows) -> None:
    cache = ImageCache(*site)
    with pytest.raises(InvalidInputError, match="rank is 2 of 2"):
        ImageStream(rows, cache, seed=1, rank=2, world=2)
    with pytest.raises(InvalidInputError, match="no images"):
        ImageStream([], cache, seed=1)
    with pytest.raises(InvalidInputError, match="offset 60 is not in an epoch of 50"):
        next(ImageStream(rows, cache, seed=1).epoch(Position(0, 60)))


def test_the_order_is_the_same_for_ever() -> None:
    digests = [sha256(f"{number}".encode()).hexdigest() for number in range(8)]
    assert epoch_order(digests, seed=0, epoch=0).tolist() == [4, 3, 7, 5, 0, 2, 6, 1]
    assert epoch_order(digests, seed=0, epoch=1).tolist() == [4, 3, 2, 1, 7, 0, 6, 5]


@settings(max_examples=50, deadline=None)
@given(st.sets(st.binary(min_size=32, max_size=32), min_size=2), st.integers(0, 2**64))
def test_a_new_image_does_not_shuffle_the_others(digests: set[bytes], seed: int) -> None:
    names = sorted(one.hex() for one in digests)
    before = [names[1:][place] for place in epoch_order(names[1:], seed, 5)]
    after = [names[place] for place in epoch_order(names, seed, 5)]
    assert [name for name in after if name != names[0]] == before

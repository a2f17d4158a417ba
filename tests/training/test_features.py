"""Cached activations: right, reused, and never shared by things that differ."""

import os
import threading
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from support.small_disk import small_disk
from support.training_site import Site

from visionloop.errors import CorruptError
from visionloop.snapshot import SnapshotRepository
from visionloop.strict_pillow import decoder
from visionloop_training import augment, backbones, cache
from visionloop_training import features as features_module
from visionloop_training.config import AugmentConfig
from visionloop_training.data import Blobs, Dataset, dataset
from visionloop_training.distributed import Workers
from visionloop_training.features import Features
from visionloop_training.network import Network
from visionloop_training.stop import PreemptedError, Stop

FLIPPED = AugmentConfig(symmetries=["flip_horizontal"], brightness=0.3, variants=3)


def network(frozen: int) -> tuple[Network, object]:
    torch.manual_seed(0)
    backbone, pixels = backbones.build("resnet18", "none", None)
    preprocessing = pixels.preprocessing(64, "squash")
    return Network(backbone, preprocessing, 2, frozen).eval(), preprocessing


@pytest.fixture
def data(site: Site) -> Dataset:
    site.write({"4": 10, "5": 10})
    return dataset(SnapshotRepository(site.store).read("digits", "latest"))


def features(
    site: Site,
    frozen: int,
    augmentation: AugmentConfig = FLIPPED,
    workers: Workers | None = None,
    stop: Stop | None = None,
) -> Features:
    net, preprocessing = network(frozen)
    blobs = Blobs(site.store, site.folder / "cache" / "blobs")
    cached = site.folder / "cache"
    return Features(net, blobs, preprocessing, augmentation, cached, stop, workers)


def test_frozen_activations_are_what_torch_computes(site: Site, data: Dataset):
    made = features(site, 3)
    made.prepare(data.train, 3)
    assert made.computed == 3 * len(data.train)
    net, preprocessing = network(3)
    for number in (0, 1, 2):
        wanted = [(item.sha256, number) for item in data.train[:4]]
        blobs = Blobs(site.store, site.folder / "cache" / "blobs")
        pixels = blobs.prepared([sha for sha, _ in wanted], preprocessing)
        varied = [
            augment.variant(p, FLIPPED, s, n) for p, (s, n) in zip(pixels, wanted, strict=True)
        ]
        with torch.no_grad():
            expected = net.bottom(torch.from_numpy(np.stack(varied)))
        torch.testing.assert_close(made.batch(wanted), expected, rtol=5e-3, atol=5e-3)


def test_only_what_is_missing_is_computed(site: Site, data: Dataset):
    features(site, 3).prepare(data.train[:5], 2)
    again = features(site, 3)
    again.prepare(data.train, 2)
    assert again.computed == 2 * (len(data.train) - 5)
    other_point = features(site, 2)
    other_point.prepare(data.train[:5], 1)
    assert other_point.computed == 5
    other_colours = features(site, 3, AugmentConfig(brightness=0.9))
    other_colours.prepare(data.train[:5], 1)
    assert other_colours.computed == 5


@pytest.mark.parametrize("frozen", [0, 3])
def test_processes_on_one_disk_leave_no_image_to_nobody(
    site: Site, data: Dataset, monkeypatch: pytest.MonkeyPatch, frozen: int
):
    """However far the first one is when the second looks what is missing."""
    monkeypatch.setattr(features_module, "_BATCH", 2)
    for rank in range(2):
        made = features(site, frozen, workers=Workers(local_rank=rank, local=2))
        made.prepare(data.train, 2)
    whole = features(site, frozen)
    whole.prepare(data.train, 2)
    assert whole.computed == 0


def test_without_frozen_stages_pixels_are_cached_and_normalised(site: Site, data: Dataset):
    made = features(site, 0)
    made.prepare(data.train, 4)
    assert made.variants is None
    assert made.computed == len(data.train)
    net, preprocessing = network(0)
    sha = data.train[0].sha256
    pixels = Blobs(site.store, site.folder / "cache" / "blobs").prepared([sha], preprocessing)
    expected = net.normalise(torch.from_numpy(pixels[0][None]))
    assert torch.equal(made.batch([(sha, 0)]), expected)
    assert not torch.equal(made.batch([(sha, 1)]), expected)


def test_variants_are_a_pure_function_and_zero_is_the_image_itself():
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (24, 24, 3), dtype=np.uint8)
    config = AugmentConfig(
        symmetries=["flip_vertical", "rotate_90", "transverse"],
        crop_min_area=0.5,
        contrast=0.4,
    )
    assert augment.variant(image, config, "a", 0) is image
    first, again = (augment.variant(image, config, "a", 5) for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, augment.variant(image, config, "b", 5))
    assert (first.shape, first.dtype) == (image.shape, np.uint8)


def test_symmetries_are_taken_in_turn():
    image = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    names = ["flip_horizontal", "flip_vertical", "rotate_180", "rotate_90", "rotate_270"]
    config = AugmentConfig(symmetries=[*names, "transpose", "transverse"])
    seen = {augment.variant(image, config, "a", number).tobytes() for number in range(8)}
    assert len(seen) == 8  # all the symmetries of the square, each once
    assert np.array_equal(augment.variant(image, config, "a", 1), image[:, ::-1])


def test_a_torn_array_says_which_folder_to_remove(tmp_path):
    kept = cache.ArrayCache(tmp_path, "activations", "key")
    kept.put("ab" * 32, np.arange(100))
    [path] = kept.folder.rglob("*.npy")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CorruptError, match=f"remove {kept.folder}"):
        kept.get("ab" * 32)


def test_the_cache_forgets_what_was_unused_for_longest(tmp_path):
    for age, name in enumerate(("new", "old")):
        kept = cache.ArrayCache(tmp_path, "activations", name)
        kept.put("ab" * 32, np.zeros(1000, np.float32))
        os.utime(kept.folder, (1e9 - age, 1e9 - age))
    assert cache.trim(tmp_path, limit_bytes=5000) > 4000
    assert [path.name for path in (tmp_path / "activations").iterdir()] == ["new"]
    assert cache.trim(tmp_path, limit_bytes=5000) == 0


def test_the_cache_keeps_what_another_run_is_reading(tmp_path):
    used = cache.ArrayCache(tmp_path, "activations", "used")
    used.put("ab" * 32, np.zeros(1000, np.float32))
    assert cache.trim(tmp_path, limit_bytes=10) == 0
    assert used.get("ab" * 32).shape == (1000,)


def test_a_run_of_days_says_that_it_still_reads(tmp_path, monkeypatch: pytest.MonkeyPatch):
    used = cache.ArrayCache(tmp_path, "activations", "used")
    used.put("ab" * 32, np.zeros(1000, np.float32))
    os.utime(used.folder, (1e9, 1e9))
    monkeypatch.setattr(cache, "_TOUCH_SECONDS", 0.0)
    used.get("ab" * 32)
    assert cache.trim(tmp_path, limit_bytes=10) == 0


def test_a_run_that_computes_for_days_says_that_it_is_there(
    tmp_path, monkeypatch: pytest.MonkeyPatch
):
    used = cache.ArrayCache(tmp_path, "activations", "used")
    used.put("ab" * 32, np.zeros(1000, np.float32))
    os.utime(used.folder, (1e9, 1e9))
    monkeypatch.setattr(cache, "_TOUCH_SECONDS", 0.0)
    used.put("ab" * 32, np.zeros(1000, np.float32), 1)  # into a folder of the one before
    assert cache.trim(tmp_path, limit_bytes=10) == 0


def test_the_cache_forgets_graphs(tmp_path):
    graph = tmp_path / "graphs" / "old.onnx"
    graph.parent.mkdir()
    graph.write_bytes(bytes(1000))
    os.utime(graph, (1e9, 1e9))
    assert cache.trim(tmp_path, limit_bytes=10) == 1000
    assert not graph.exists()


def test_the_cache_forgets_the_versions_of_a_model_one_by_one(tmp_path):
    """The one in use keeps no other: one is fetched after each promotion."""
    for age, name in enumerate(("2-new", "1-old")):
        folder = tmp_path / "models" / "cells" / name
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(bytes(1000))
        os.utime(folder, (1e9 - age, 1e9 - age))
    assert cache.trim(tmp_path, limit_bytes=1500) == 1000
    assert [path.name for path in (tmp_path / "models" / "cells").iterdir()] == ["2-new"]


def test_trimming_bears_another_run_that_writes(tmp_path):
    kept = cache.ArrayCache(tmp_path, "activations", "key")
    done = threading.Event()

    def write() -> None:
        for number in range(1500):
            kept.put("ab" * 32, np.zeros(10), number % 5)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        assert cache.trim(tmp_path) == 0
    writer.join()


def test_a_graph_that_was_found_is_not_trimmed_before_it_is_read(
    site: Site, monkeypatch: pytest.MonkeyPatch
):
    made = features(site, 3)
    graph = site.folder / "cache" / "graphs" / f"{made._graph}.onnx"
    graph.parent.mkdir()
    graph.write_bytes(bytes(1000))
    os.utime(graph, (1e9, 1e9))
    exists = Path.exists

    def found(path: Path) -> bool:
        there = exists(path)
        if path == graph:
            cache.trim(site.folder / "cache", limit_bytes=0)  # by another run
        return there

    monkeypatch.setattr(Path, "exists", found)
    monkeypatch.setattr(features_module, "_activations", lambda path: path)
    assert made._bottom() == graph
    assert exists(graph)


def test_a_torn_graph_is_said(site: Site, data: Dataset):
    features(site, 3).prepare(data.train, 1)
    [graph] = (site.folder / "cache" / "graphs").iterdir()  # nothing unfinished is left beside it
    graph.write_bytes(graph.read_bytes()[:1000])
    with pytest.raises(CorruptError, match=f"cache: {graph} cannot be loaded"):
        features(site, 3).prepare(data.val, 1)


def test_another_decoder_gets_other_features(
    site: Site, data: Dataset, monkeypatch: pytest.MonkeyPatch
):
    """Or those of the Pillow before would be taken for its own."""
    features(site, 0).prepare(data.train, 1)
    monkeypatch.setattr(features_module, "decoder", lambda: "pillow 99.0")
    made = features(site, 0)
    made.prepare(data.train, 1)
    assert made.computed == len(data.train)
    assert f"pillow {PIL.__version__}" in decoder()
    assert "libjpeg" in decoder()


@pytest.mark.parametrize("frozen", [0, pytest.param(3, marks=pytest.mark.long)])
def test_a_full_disk_changes_no_feature(
    site: Site, data: Dataset, tmp_path: Path, frozen: int, caplog: pytest.LogCaptureFixture
):
    """The graph of the frozen stages and all arrays find no room on the cache's disk."""
    wanted = [(item.sha256, number) for item in data.train for number in (0, 1)]
    expected = features(site, frozen)
    expected.prepare(data.train, 2)
    with small_disk(tmp_path / "disk") as disk:
        full = Site(site.store, disk.folder)
        features(full, frozen)  # makes its folders
        if disk.mounted:  # a limit would count in TMPDIR, too
            disk.fill()
        made = features(full, frozen)
        made.prepare(data.train, 2)
        assert torch.equal(made.batch(wanted), expected.batch(wanted))
        if disk.mounted:
            assert not list(disk.folder.rglob("*.npy"))
            assert not list(disk.folder.rglob("*.onnx"))
            assert "features stay in memory" in caplog.text


def test_images_count_as_done_when_their_features_are_there(caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    batches = features_module._told([("sha", number) for number in range(70)])
    first = next(batches)
    assert len(first) == 32
    assert "done" not in caplog.text  # 32 were taken and none is made yet
    assert [len(batch) for batch in batches] == [32, 6]
    assert "features done: 70 of 70 images (100 %)" in caplog.text


def test_processes_look_at_one_another_while_they_compute(
    site: Site, data: Dataset, monkeypatch: pytest.MonkeyPatch
):
    """One that has nothing to compute waits a turn at most, and not for all that another has."""
    monkeypatch.setattr(features_module, "_BATCH", 4)
    monkeypatch.setattr(features_module, "_TURN_SECONDS", 0.0)
    told: list[bool] = []

    class Two(Workers):
        def any(self, told_here: bool) -> bool:
            told.append(told_here)
            return told_here or len(told) < 9  # the other one needs nine turns

    features(site, 3, workers=Two()).prepare(data.train, 1)
    assert len(data.train) > 8
    assert told[:3] == [True] * 3
    assert told[-1] is False
    assert len(told) == 9


def test_one_that_waits_for_another_can_be_stopped(site: Site, data: Dataset):
    stop = Stop()

    class Waiting(Workers):
        def any(self, _told: bool) -> bool:
            stop.tell()
            return True

    made = features(site, 0, workers=Waiting(), stop=stop)
    with pytest.raises(PreemptedError, match="while another process computed features"):
        made.prepare([], 1)

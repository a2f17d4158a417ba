"""Variants made by other processes are the variants."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from support.process_tree import is_alive
from support.waiting import wait_for

from visionloop.errors import CorruptError, UnavailableError
from visionloop_training import augment
from visionloop_training.cache import ArrayCache
from visionloop_training.pixel_workers import PixelWorkers
from visionloop_training.recipe_config import AugmentConfig

RECIPE = AugmentConfig(crop_min_area=0.6, brightness=0.2, contrast=0.2, trivial=True)
IMAGES = [f"{number:064x}" for number in range(11)]


@pytest.fixture
def cache(tmp_path: Path) -> ArrayCache:
    made = ArrayCache(tmp_path, "pixels", "key")
    random = np.random.default_rng(0)
    for sha256 in IMAGES:
        made.put(sha256, random.integers(0, 256, (40, 40, 3), dtype=np.uint8))
    return made


def test_every_image_of_a_batch_is_its_variant_in_its_place(cache: ArrayCache) -> None:
    workers = PixelWorkers(cache, RECIPE, 3)
    for size, number in ((11, 0), (1, 2), (7, 5), (11, 6)):  # smaller ones, too, and one that grows
        wanted = [(sha256, number) for sha256 in IMAGES[:size]]
        found = workers.batch(wanted)
        assert found.shape == (size, 40, 40, 3)
        for array, (sha256, _) in zip(found, wanted, strict=True):
            image = cache.get(sha256).astype(np.uint8)
            np.testing.assert_array_equal(array, augment.variant(image, RECIPE, sha256, number))


def test_a_file_that_is_gone_is_told_and_the_next_batch_is_right(cache: ArrayCache) -> None:
    workers = PixelWorkers(cache, RECIPE, 2)
    workers.batch([(IMAGES[0], 1)])
    with pytest.raises(CorruptError, match="cannot be read"):
        workers.batch([(IMAGES[0], 1), ("f" * 64, 1), (IMAGES[1], 1)])
    found = workers.batch([(IMAGES[2], 0), (IMAGES[3], 0)])
    np.testing.assert_array_equal(found[1], cache.get(IMAGES[3]))


@pytest.mark.parametrize("gone", [True, False], ids=["gone", "perhaps not yet"])
def test_a_process_that_was_killed_is_told(cache: ArrayCache, gone: bool) -> None:
    workers = PixelWorkers(cache, RECIPE, 2)
    workers.batch([(IMAGES[0], 1), (IMAGES[1], 1)])
    killed = workers.processes[0]
    os.kill(killed, signal.SIGKILL)
    if gone:  # before it is asked
        wait_for(
            lambda: Path(f"/proc/{killed}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        )
    with pytest.raises(UnavailableError, match="killed for memory"):
        workers.batch([(IMAGES[0], 1), (IMAGES[1], 1)])


def test_none_outlives_its_run(cache: ArrayCache) -> None:
    workers = PixelWorkers(cache, RECIPE, 2)
    pids = workers.processes
    del workers
    wait_for(lambda: not any(map(is_alive, pids)))

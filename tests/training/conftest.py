"""Training's tests share two cores with all others: few threads, and none that spin."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is first imported
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest
from support.training_site import FIRST, PROBE, Site, make_site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """An empty store."""
    return make_site(tmp_path)


@pytest.fixture(scope="session")
def first_probe(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A store with version 1, a probe, promoted. Tests must not change it."""
    site = make_site(tmp_path_factory.mktemp("probed"))
    site.write(FIRST)
    site.train(*PROBE)
    return site


@pytest.fixture
def probed(first_probe: Site, tmp_path: Path) -> Site:
    """A copy of it, with its cache, to go on with."""
    return first_probe.copied(tmp_path)

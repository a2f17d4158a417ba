"""Training's tests share two cores with all others: few threads, and none that spin."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is first imported
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest
from support.training_site import FIRST, QUICK, Site, make_site

from visionloop_training import pipeline


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """An empty store."""
    return make_site(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, pipeline.Result]:
    """A store with version 1, fine-tuned and promoted. Tests must not change it."""
    site = make_site(tmp_path_factory.mktemp("trained"))
    site.write(FIRST)
    return site, site.train(*QUICK, who="tester")

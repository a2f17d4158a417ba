"""Training's tests share two cores with all others: few threads, and none that spin."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is first imported
os.environ.setdefault("OMP_NUM_THREADS", "1")

from dataclasses import dataclass
from pathlib import Path

import pytest
from support.digits import write_digits
from visionloop_training import config, pipeline

from visionloop.objectstore import ObjectStore, open_store
from visionloop.repository import ModelRepository
from visionloop.snapshot import SnapshotManifest

# The real pretrained weights on small pictures; the lower two thirds of the network frozen.
QUICK = (
    "pixels.image_size=64",
    "pixels.shape=squash",
    "augment.symmetries=[]",
    "augment.variants=2",
    "augment.brightness=0.2",
    "fit.freeze=blocks.5",
    "fit.epochs=2",
    "fit.batch_size=16",
    "fit.keep=last",
    "gate.policy=not-significantly-worse",
    "threads=1",
)
PROBE = (*QUICK, "fit.epochs=0", "fit.freeze=1.0")
FIRST = {"0": 40, "1": 40, "2": 40}


@dataclass(frozen=True)
class Site:
    """A store with a dataset of digits, and a cache folder."""

    store: ObjectStore
    folder: Path

    @property
    def url(self) -> str:
        return self.store.url

    @property
    def repository(self) -> ModelRepository:
        return ModelRepository(self.store)

    def write(self, per_class: dict[str, int], **options: object) -> SnapshotManifest:
        return write_digits(self.store, "digits", per_class, **options)  # type: ignore[arg-type]

    def train(self, *settings: str, **options: object) -> pipeline.Result:
        request = pipeline.Request(
            store=self.store,
            dataset="digits",
            model="reader",
            config=config.load(overrides=settings or PROBE),
            cache=self.folder / "cache",
            **options,  # type: ignore[arg-type]
        )
        return pipeline.run(request)


def make_site(folder: Path) -> Site:
    return Site(open_store((folder / "store").as_uri()), folder)


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

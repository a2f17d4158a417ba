"""A store with digits and a training job to run on it, in this process.

site = make_site(tmp_path); site.write({"0": 40, "1": 40}); result = site.train(*PROBE)
"""

import atexit
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from support.digits import write_digits, write_swapped

from visionloop.objectstore import ObjectStore, open_store
from visionloop.repository import ModelRepository
from visionloop.snapshot import SnapshotManifest
from visionloop_training import config, pipeline
from visionloop_training.stop import Stop
from visionloop_training.triggers import Trigger

# The real pretrained weights on small pictures; the lower two thirds of the network frozen.
QUICK = (
    "pixels.image_size=64",
    "pixels.shape=squash",
    "augment.symmetries=[]",
    "augment.variants=2",
    "augment.brightness=0.2",
    "fit.freeze=blocks.5",
    "fit.epochs=2",
    "fit.learning_rate=1e-3",
    "fit.batch_size=16",
    "fit.keep=last",
    "gate.policy=not-significantly-worse",
    "threads=1",
)
# A linear probe on random convolutions: a poor model in a second, for what needs no better one.
PROBE = (
    "backbone.name=squeezenet1_1",
    "backbone.weights=none",
    "pixels.image_size=64",
    "pixels.shape=squash",
    "fit.epochs=0",
    "fit.freeze=1.0",
    "gate.policy=not-significantly-worse",
    "threads=1",
)
FIRST = {"0": 40, "1": 40, "2": 40}


_GRAPHS = Path(tempfile.gettempdir()) / f"visionloop-test-graphs-{os.getpid()}"
atexit.register(shutil.rmtree, _GRAPHS, ignore_errors=True)


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

    @property
    def cache(self) -> Path:
        """The folder of features, made on first use."""
        cache = self.folder / "cache"
        if not cache.exists():
            # Graphs are named by their content; exporting one again for each test proves nothing.
            _GRAPHS.mkdir(exist_ok=True)
            cache.mkdir()
            (cache / "graphs").symlink_to(_GRAPHS)
        return cache

    def copied(self, folder: Path) -> "Site":
        """The same store and cache in another folder."""
        for name in ("store", "cache"):
            shutil.copytree(self.folder / name, folder / name, symlinks=True)
        return make_site(folder)

    def write(self, per_class: dict[str, int], **options: object) -> SnapshotManifest:
        return write_digits(self.store, "digits", per_class, **options)  # type: ignore[arg-type]

    def write_swapped(
        self, per_class: dict[str, int], shown: dict[str, str], each: int
    ) -> SnapshotManifest:
        """More images of each class, which show another digit: as when the world changes."""
        return write_swapped(self.store, "digits", per_class, shown, each)

    def train(self, *settings: str, **options: object) -> pipeline.Result:
        return pipeline.run(self.request(*settings, **options))

    def request(
        self, *settings: str, dataset: str = "digits", **options: object
    ) -> pipeline.Request:
        return pipeline.Request(
            store=self.store,
            dataset=dataset,
            model="reader",
            config=config.load(overrides=settings or PROBE),
            cache=self.cache,
            **options,  # type: ignore[arg-type]
        )


def make_site(folder: Path) -> Site:
    return Site(open_store((folder / "store").as_uri()), folder)


def fired(result: pipeline.Result) -> set[str]:
    """The triggers that call for training."""
    return {trigger.name for trigger in result.decision.triggers if trigger.fired}


def trigger(result: pipeline.Result, name: str) -> Trigger:
    """The trigger of this name."""
    [found] = [one for one in result.decision.triggers if one.name == name]
    return found


class StopAfter(Stop):
    """Told to stop after so many optimiser steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._left = steps

    @property
    def told(self) -> bool:
        return self._left <= 0

    def check(self, where: str) -> None:
        super().check(where)
        self._left -= where.startswith("after step")

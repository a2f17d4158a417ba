"""The version that serves now: its files, its answers, and what it has seen.

Everything about it comes from its own bundle, through its own preprocessing and graph; it
need not have been made by this program.
"""

import logging
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from visionloop.bundle import ClassifierBundle
from visionloop.disk_space import room_for
from visionloop.errors import CorruptError, NotFoundError, RefusedError
from visionloop.objectstore import ObjectStore
from visionloop.objectstore.transfers import in_parallel
from visionloop.repository import CurrentAliases, ModelRepository
from visionloop.snapshot import Snapshot, SnapshotRepository
from visionloop_training.cache import MODELS, SETTING, touch
from visionloop_training.config import TrainingConfig
from visionloop_training.data import Blobs, Item
from visionloop_training.evaluate import Scored, score
from visionloop_training.export import Session
from visionloop_training.gate import Opponent
from visionloop_training.search.space import SEARCHED

# Sections of the configuration that do not change what is made.
_BESIDE: dict[str, Any] = {"triggers": True, "card": True}
_log = logging.getLogger(__name__)


class Version:
    """One published classifier. Files are fetched, and checked, when they are first needed."""

    def __init__(self, store: ObjectStore, bundle: ClassifierBundle, cache: Path) -> None:
        self.bundle = bundle
        self._store = store
        self._cache = cache
        # Two stores may have a version of this number, and runs on both may share a cache.
        name = f"{bundle.version}-{bundle.files[bundle.graph].sha256[:16]}"
        self._folder = cache / MODELS / bundle.model / name

    @cached_property
    def folder(self) -> Path:
        """All its files, with their digests checked. Raises DiskFullError."""
        with room_for(self._folder, setting=SETTING):
            ModelRepository(self._store).fetch(self.bundle.model, self.bundle.version, self._folder)
        touch(self._folder)
        return self._folder

    @cached_property
    def session(self) -> Session:
        """Its graph in onnxruntime."""
        return Session(self.folder / self.bundle.graph, torch.get_num_threads())

    @property
    def class_ids(self) -> tuple[str, ...]:
        """Its classes in the order of its outputs."""
        return tuple(label.id for label in self.bundle.labels)

    @property
    def class_names(self) -> dict[str, str]:
        """What its classes were called, by id."""
        return {label.id: label.name for label in self.bundle.labels}

    @cached_property
    def snapshot(self) -> Snapshot | None:
        """What it was trained on; None when that is gone."""
        made_of = self.bundle.provenance
        try:
            return SnapshotRepository(self._store).read(made_of.dataset, made_of.snapshot)
        except (NotFoundError, CorruptError) as error:
            number = self.bundle.version
            _log.warning("the snapshot of version %d cannot be read: %s", number, error)
            return None

    @property
    def seen(self) -> frozenset[str]:
        """Groups and image digests that it and its body were trained and calibrated on, as far as
        their snapshots can be read (`traced`)."""
        return self._trace[0]

    @property
    def traced(self) -> bool:
        """Whether all that it has seen is known."""
        return self._trace[1]

    @cached_property
    def _trace(self) -> tuple[frozenset[str], bool]:
        seen: set[str] = set()
        whole = True
        for snapshot in (self.snapshot, *self._of_its_body()):
            if snapshot is None:
                whole = False
                continue
            known = (row for row in snapshot.rows if row.split != "test")
            seen.update(name for row in known for name in (row.group_id, row.sha256))
        return frozenset(seen), whole

    def _of_its_body(self) -> Iterator[Snapshot | None]:
        """What the body of a new head learned from, where that is of another dataset: in its own an
        image never leaves its split, so the head's snapshot says it already."""
        made_of = self.bundle.provenance
        if made_of.body_version in (None, self.bundle.version):
            return
        body = full_version(self._store, self, self._cache)
        if body is self:
            yield None  # it cannot be read any more
        elif body.bundle.provenance.dataset != made_of.dataset:
            yield body.snapshot

    @property
    def tested(self) -> frozenset[str] | None:
        """Digests of its snapshot's test images."""
        if self.snapshot is None:
            return None
        return frozenset(row.sha256 for row in self.snapshot.rows if row.split == "test")

    def output(self, kind: str) -> str:
        """The name of its output of this kind. Raises RefusedError where it has none."""
        found = self.bundle.output(kind)
        if found is None:
            raise RefusedError(
                f"stable version {self.bundle.version} of {self.bundle.model} declares no output "
                f"of kind {kind}, so no candidate can be compared with it or made from it; promote "
                "another version first"
            )
        return found.name

    def outputs(
        self, items: Sequence[Item], blobs: Blobs, names: Sequence[str]
    ) -> dict[str, NDArray[np.float32]]:
        """The outputs of these names, each (items, …), from one pass."""
        parts: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
        shas = [item.sha256 for item in items]
        for images in blobs.batches(shas, self.bundle.preprocessing):
            found = self.session(images)
            for name in names:
                parts[name].append(found[name])
        return {name: np.concatenate(arrays) for name, arrays in parts.items()}

    def answers(self, items: Sequence[Item], blobs: Blobs) -> Scored:
        """Its probabilities for the items, whose labels stay as they are."""
        probabilities = self.output("probabilities")
        return score(self.session, blobs, self.bundle.preprocessing, items, probabilities)

    def opponent(self, items: Sequence[Item], blobs: Blobs) -> Opponent:
        """What the gate compares a candidate with."""
        return Opponent(
            version=self.bundle.version,
            scored=self.answers(items, blobs),
            class_ids=self.class_ids,
            seen=self.seen,
            tested=self.tested,
            traced=self.traced,
        )


def stable(store: ObjectStore, model: str, aliases: CurrentAliases, cache: Path) -> Version | None:
    """The stable version, or None. Raises RefusedError where it is no classifier."""
    if aliases.aliases.stable is None:
        return None
    return version(store, model, aliases.aliases.stable, cache)


def version(store: ObjectStore, model: str, number: int, cache: Path) -> Version:
    """One version. Raises RefusedError where it is no classifier, NotFoundError, CorruptError."""
    bundle = ModelRepository(store).read(model, number)
    if not isinstance(bundle, ClassifierBundle):
        raise RefusedError(
            f"stable version {bundle.version} of {bundle.model} is of the task {bundle.task!r}, so "
            "no classifier can be compared with it; train under another --model name"
        )
    return Version(store, bundle, cache)


def classifiers(
    repository: ModelRepository, model: str, numbers: Sequence[int]
) -> list[ClassifierBundle]:
    """Those of the versions that are classifiers and can be read, in this order."""

    def read(number: int) -> ClassifierBundle | None:
        try:
            bundle = repository.read(model, number)
        except (NotFoundError, CorruptError) as error:
            _log.warning("version %d cannot be read: %s", number, error)
            return None
        return bundle if isinstance(bundle, ClassifierBundle) else None

    return [bundle for bundle in in_parallel(read, numbers) if bundle is not None]


def full_version(store: ObjectStore, newest: Version, cache: Path) -> Version:
    """The version of the full lane that `newest` has its body from: itself, or an earlier one.

    Where that one cannot be read any more, `newest` stands for it.
    """
    body = newest.bundle.provenance.body_version
    if body is None or body == newest.bundle.version:
        return newest
    try:
        return version(store, newest.bundle.model, body, cache)
    except (NotFoundError, CorruptError, RefusedError) as error:
        _log.warning("version %d, of whose body stable is, cannot be read: %s", body, error)
        return newest


def same_training(
    bundle: ClassifierBundle, config: TrainingConfig, *, searched: bool = False
) -> bool:
    """Whether the version was made with this configuration; `searched`: but for what a search
    would choose.

    Settings that are newer than the version count as `made_with` says.
    """
    try:
        then = made_with(bundle)
    except ValidationError:
        return False  # another program's, or of a time with other settings
    beside = {**_BESIDE, **(SEARCHED if searched else {})}
    return then.model_dump(exclude=beside) == config.model_dump(exclude=beside)


def made_with(bundle: ClassifierBundle) -> TrainingConfig:
    """The configuration of the run that made the version. Raises ValidationError where this program
    does not know it.

    Settings that are newer than the version count with their defaults: the program did then what
    these say. Only the gap's default is another than what was done before there was one: the
    version's preprocessing says that.
    """
    config = bundle.provenance.config
    pixels = config.get("pixels")
    if isinstance(pixels, dict):
        pixels = {"reducing_gap": bundle.preprocessing.reducing_gap, **pixels}
        config = {**config, "pixels": pixels}
    return TrainingConfig.model_validate(config)

"""The gauges that say what is in a dataset's latest snapshot: images by split and class, leaks.

They are told from the manifest in the store, so every replica tells the same, also after a restart.
A manifest never changes: each is read once, when its snapshot has become the latest.
"""

import logging
from collections import Counter
from typing import Final, TypeAlias

from visionloop.errors import CorruptError, NotFoundError
from visionloop.objectstore import ObjectStore
from visionloop.snapshot import SPLITS, SnapshotManifest, SnapshotRepository
from visionloop.telemetry import labeling as metrics
from visionloop.telemetry.metrics import Gauge
from visionloop_labeling.leaks import JOINED_BY

MAX_CLASSES: Final = 50  # with series of their own, in each split
OTHER: Final = "other"
_Series: TypeAlias = tuple[Gauge, tuple[str, ...]]  # with its label values
_log = logging.getLogger(__name__)


class SnapshotGauges:
    """Used by one thread at a time; blocks."""

    def __init__(self, store: ObjectStore) -> None:
        self._repository = SnapshotRepository(store)
        self._told: dict[str, tuple[str, set[_Series]]] = {}  # dataset -> snapshot, series

    def tell(self, dataset: str, snapshot: str) -> None:
        """Tells of the latest snapshot; of one that is damaged nothing, which is logged once."""
        before, series = self._told.get(dataset, ("", set()))
        if snapshot == before:
            return
        try:
            now = _described(self._repository.manifest(dataset, snapshot))
        except (CorruptError, NotFoundError) as error:
            _log.warning("a snapshot cannot be described: %s", error)
            now = {}
        for (gauge, labels), count in now.items():
            gauge.labels(*labels).set(count)
        for gauge, labels in series - now.keys():
            gauge.withdraw(*labels)
        self._told[dataset] = (snapshot, set(now))


def _described(manifest: SnapshotManifest) -> dict[_Series, int]:
    pairs = {**dict.fromkeys(JOINED_BY, 0), **manifest.leaks.pairs}
    joined: dict[_Series, int] = {
        (metrics.SNAPSHOT_LEAK_PAIRS, (manifest.dataset, joined_by)): count
        for joined_by, count in pairs.items()
    }
    images: dict[_Series, int] = {
        (metrics.SNAPSHOT_IMAGES, (manifest.dataset, split, class_id)): count
        for (split, class_id), count in images_by_class(manifest).items()
    }
    return {**joined, **images}


def images_by_class(manifest: SnapshotManifest) -> Counter[tuple[str, str]]:
    """(split, class id) -> images; what is not among the largest MAX_CLASSES is OTHER."""
    of_all = Counter[str]()
    for images in manifest.class_images.values():
        of_all.update(images)
    ids = [one.id for one in manifest.classes]
    largest = set(sorted(ids, key=lambda one: -of_all[one])[:MAX_CLASSES])
    found = Counter[tuple[str, str]]()
    for split in SPLITS:
        images = manifest.class_images.get(split, {})
        for one in ids:
            found[split, one if one in largest else OTHER] += images.get(one, 0)
    return found

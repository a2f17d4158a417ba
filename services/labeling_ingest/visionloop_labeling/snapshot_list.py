"""The snapshots of datasets in brief, for lists: each manifest is read from the store once.

A manifest never changes, so what a list shows of it is kept (under a kilobyte each) and only new
ones are fetched: a page would otherwise read every snapshot there ever was, each time.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Self

from visionloop.objectstore import ObjectStore
from visionloop.objectstore.transfers import in_parallel
from visionloop.snapshot import SnapshotManifest, SnapshotRepository


@dataclass(frozen=True, slots=True)
class SnapshotBrief:
    """What lists show of a snapshot. `classes` are counted."""

    id: str
    created: datetime
    parent: str | None
    label_sequence: int
    split_images: dict[str, int]
    classes: int

    @classmethod
    def of(cls, manifest: SnapshotManifest) -> Self:
        """From the manifest."""
        return cls(
            id=manifest.id,
            created=manifest.created,
            parent=manifest.parent,
            label_sequence=manifest.label_sequence,
            split_images=manifest.split_images,
            classes=len(manifest.classes),
        )


class SnapshotList:
    """The snapshots in a store. Safe from any thread; blocks."""

    def __init__(self, store: ObjectStore) -> None:
        self._repository = SnapshotRepository(store)
        self._known: dict[tuple[str, str], SnapshotBrief] = {}

    def of(self, dataset: str) -> list[SnapshotBrief]:
        """Those of a dataset, oldest first; empty when there is no such dataset."""
        ids = self._repository.ids(dataset)
        new = [one for one in ids if (dataset, one) not in self._known]
        for manifest in in_parallel(lambda one: self._repository.manifest(dataset, one), new):
            self._known[dataset, manifest.id] = SnapshotBrief.of(manifest)
        found = (self._known[dataset, one] for one in ids)
        return sorted(found, key=lambda one: (one.created, one.id))

"""When the labels were given that a model version was the first of its line to learn.

The label events that are new in a snapshot are those between its parent's sequence and its own.
The middle one of them stands for all: one look by dataset and sequence, however many there are.
"""

import logging
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select

from visionloop.bundle import Bundle, ClassifierBundle
from visionloop.errors import CorruptError, InvalidInputError, NotFoundError
from visionloop.objectstore import ObjectStore
from visionloop.snapshot import SnapshotManifest, SnapshotRepository
from visionloop_labeling.database import Database
from visionloop_labeling.schema import Dataset, LabelEvent

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainedOn:
    """The snapshot that a version was trained on, in its own words."""

    dataset: str
    snapshot: str

    @classmethod
    def of(cls, bundle: Bundle) -> "TrainedOn | None":
        """None where the version was not trained but added as a file."""
        if not isinstance(bundle, ClassifierBundle):
            return None
        return cls(bundle.provenance.dataset, bundle.provenance.snapshot)


class LearnedLabels:
    """Safe from any thread; blocks."""

    def __init__(self, database: Database, store: ObjectStore) -> None:
        self._database = database
        self._snapshots = SnapshotRepository(store)

    def middle(self, trained_on: TrainedOn) -> datetime | None:
        """When the middle one of the snapshot's new label events was recorded.

        None where there is none, and where the snapshot is not one of this store and database.
        Raises UnavailableError.
        """
        try:
            manifest = self._snapshots.manifest(trained_on.dataset, trained_on.snapshot)
            before = self._sequence_of(manifest.parent, manifest)
        except (CorruptError, InvalidInputError, NotFoundError) as error:
            _log.info("when a version's labels were given cannot be told: %s", error)
            return None
        new = manifest.label_sequence - before
        return self._recorded(manifest, before + (new + 1) // 2) if new > 0 else None

    def _sequence_of(self, parent: str | None, manifest: SnapshotManifest) -> int:
        if parent is None:
            return 0
        return self._snapshots.manifest(manifest.dataset, parent).label_sequence

    def _recorded(self, manifest: SnapshotManifest, sequence: int) -> datetime | None:
        query = (
            select(LabelEvent.at)
            .join(Dataset, Dataset.id == LabelEvent.dataset_id)
            .where(Dataset.name == manifest.dataset, LabelEvent.sequence == sequence)
        )
        with self._database.read() as session:
            at = session.scalar(query)
        # A database that was begun anew, or went on from a backup, has other events under these
        # sequences, and they are younger than the snapshot.
        return at if at is not None and at <= manifest.created else None

"""The gauges that describe stored data: what waits, what is labelled, what snapshots have and lack.

They are counted when Prometheus asks; where that takes long (a million images), they are left alone
for fifty times as long, so that counting takes at most 2 % of the time. The price is a value that
may be half a minute old there. Every replica tells the same.
"""

import threading
import time
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from visionloop.objectstore import ObjectStore
from visionloop.snapshot_latest import LatestPointer
from visionloop.telemetry import labeling as metrics
from visionloop_labeling.database import Database
from visionloop_labeling.schema import (
    Dataset,
    ImageGroup,
    Item,
    LabelClass,
    QualityFlag,
    SplitCount,
)
from visionloop_labeling.snapshot_gauges import SnapshotGauges
from visionloop_labeling.splits import SPLITS

QUICK_SECONDS: Final = 0.1  # what takes less is done for every scrape
REST: Final = 50.0  # times what it took
# Those of `quality`: each has a series from the start, so that a panel shows 0 and not a gap.
_FLAGS: Final = ("dark", "bright", "low_contrast", "blurred", "tiny", "odd_aspect")


class StoredGauges:
    """Safe from any thread; `measure` blocks."""

    def __init__(self, database: Database, store: ObjectStore) -> None:
        self._database = database
        self._store = store
        self._snapshots = SnapshotGauges(store)
        self._measuring = threading.Lock()
        self._next = 0.0

    def measure(self) -> None:
        """Brings the gauges up to date, unless that is too soon, or is being done."""
        began = time.monotonic()
        if began < self._next or not self._measuring.acquire(blocking=False):
            return
        try:
            with self._database.read() as session:
                datasets = list(session.scalars(select(Dataset)))
                for dataset in datasets:
                    _splits(session, dataset)
                    _queue(session, dataset)
                    _balance(session, dataset)
                    _flags(session, dataset)
            for dataset in datasets:
                self._since_snapshot(dataset)
            took = time.monotonic() - began
            if took > QUICK_SECONDS:
                self._next = began + REST * took
        finally:
            self._measuring.release()

    def _since_snapshot(self, dataset: Dataset) -> None:
        latest = LatestPointer(self._store, dataset.name).read()
        covered = 0
        if latest is not None:
            pointer, moved = latest
            covered = pointer.label_sequence
            age = (datetime.now(UTC) - moved).total_seconds()
            metrics.SNAPSHOT_AGE_SECONDS.labels(dataset.name).set(max(0.0, age))
            self._snapshots.tell(dataset.name, pointer.id)
        since = max(0, dataset.last_sequence - covered)
        metrics.LABELS_SINCE_SNAPSHOT.labels(dataset.name).set(since)


def _splits(session: Session, dataset: Dataset) -> None:
    # Of groups, not of images: a group knows its size, and there is no join.
    query = (
        select(ImageGroup.split, func.sum(ImageGroup.size))
        .where(ImageGroup.dataset_id == dataset.id)
        .group_by(ImageGroup.split)
    )
    images = {split: int(count) for split, count in session.execute(query).tuples()}
    for split in (*SPLITS, None):
        series = metrics.DATASET_IMAGES.labels(dataset.name, split or "unassigned")
        series.set(images.get(split, 0))


def _queue(session: Session, dataset: Dataset) -> None:
    done = {
        "labelled": dataset.items_labelled,
        "review": dataset.items_in_review,
        "skipped": dataset.items_skipped,
    }
    waiting = dataset.last_position - sum(done.values())
    for state, images in {**done, "open": waiting}.items():
        metrics.QUEUE_IMAGES.labels(dataset.name, state).set(images)
    # In the index of the queue alone, and one row by its position.
    oldest = (
        select(func.min(Item.position))
        .where(Item.dataset_id == dataset.id, Item.state == "open")
        .scalar_subquery()
    )
    since = session.scalar(
        select(Item.created).where(Item.dataset_id == dataset.id, Item.position == oldest)
    )
    age = 0.0 if since is None else (datetime.now(UTC) - since).total_seconds()
    metrics.QUEUE_OLDEST_SECONDS.labels(dataset.name).set(max(0.0, age))


def _balance(session: Session, dataset: Dataset) -> None:
    counts = session.scalars(
        select(func.sum(SplitCount.images))
        .join(LabelClass, LabelClass.id == SplitCount.class_id)
        .where(LabelClass.dataset_id == dataset.id, LabelClass.state == "active")
        .group_by(SplitCount.class_id)
    )
    images = [int(count) for count in counts if count]
    ratio = max(images) / min(images) if images else 1.0
    metrics.CLASS_IMBALANCE.labels(dataset.name).set(ratio)


def _flags(session: Session, dataset: Dataset) -> None:
    query = (
        select(QualityFlag.flag, func.count())
        .where(QualityFlag.dataset_id == dataset.id)
        .group_by(QualityFlag.flag)
    )
    found = dict(session.execute(query).tuples().all())
    for flag in {*_FLAGS, *found}:
        metrics.QUALITY_FLAGS.labels(dataset.name, flag).set(found.get(flag, 0))

"""Cutting a dataset snapshot: what is labelled now, as an immutable, leak-free training set.

A cut reads one view of the database, so it holds all labels up to the dataset's last sequence then
and none after, and nobody waits for it: a million images take minutes. Writers are
locked out only while groups without a split are given to train, a thousand images at a time.
Several replicas may cut at once: the latest pointer follows the sequence. What goes in is decided
here and said in the manifest's policy:

- accepted labels (people, imports) stand in the split of their group;
- labels of apps (and of models, if the dataset says so) train only. A group that has nothing else
  is given to train for good, because a model will have seen it; where a group stands in val or test
  they are left out;
- an image that shows the same as one in a more protected split is left out of the cut (see
  `leaks`);
- labels that name a class that was split, or that do not say what the dataset's task asks, are left
  out. Every reason is counted; retracted labels are counted beside.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sqlalchemy import func, literal_column, select
from sqlalchemy.orm import Session

from visionloop.errors import NotFoundError, RefusedError
from visionloop.objectstore import ObjectStore
from visionloop.snapshot import (
    About,
    SnapshotClass,
    SnapshotDiff,
    SnapshotManifest,
    SnapshotRepository,
    SpooledContent,
    spooled,
)
from visionloop.snapshot_diff import diff_rows
from visionloop.snapshot_format import LeakReport
from visionloop.telemetry import labeling as metrics
from visionloop_labeling import datasets, leaks, validation
from visionloop_labeling.cut_rows import CutRows
from visionloop_labeling.database import Database
from visionloop_labeling.datasets import DatasetSettings
from visionloop_labeling.fold import AuthorKind, EventKind
from visionloop_labeling.schema import Dataset, LabelEvent, LabelHead
from visionloop_labeling.splits import RULE

_TRAIN_ONLY: Final = (AuthorKind.APP, AuthorKind.MODEL)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cut:
    """A snapshot and how it came about. `left_out` says why images are not in it."""

    manifest: SnapshotManifest
    created: bool
    left_out: dict[str, int]


@dataclass(frozen=True, slots=True)
class Compared:
    """Two snapshots and what changed."""

    before: SnapshotManifest
    after: SnapshotManifest
    changes: SnapshotDiff


def cut(database: Database, store: ObjectStore, dataset_name: str) -> Cut:
    """Writes a snapshot of what is labelled, unless the same content has one already.

    Raises NotFoundError for an unknown dataset, and RefusedError when nothing is labelled or the
    database is behind the store's snapshots.
    """
    validation.dataset_name(dataset_name)
    try:
        with metrics.SNAPSHOT_SECONDS.time():
            done = _cut(database, store, dataset_name)
    except Exception:
        metrics.SNAPSHOTS.labels("failed").inc()
        raise
    metrics.SNAPSHOTS.labels("created" if done.created else "unchanged").inc()
    return done


def compare(store: ObjectStore, dataset_name: str, before: str, after: str, most: int) -> Compared:
    """What changed from one snapshot to another; no list is longer than `most`.

    Both are named by an id, its beginning, or "latest". Raises as `SnapshotRepository` does.
    """
    repository = SnapshotRepository(store)
    first, second = (repository.manifest(dataset_name, one) for one in (before, after))
    changes = diff_rows(repository.stream(first), repository.stream(second), most=most)
    return Compared(first, second, changes)


def _cut(database: Database, store: ObjectStore, dataset_name: str) -> Cut:
    repository = SnapshotRepository(store)
    parent = _latest(repository, dataset_name)  # read first: the labels below are no older
    with database.view() as session:
        dataset = datasets.find(session, dataset_name)
        _check_same_history(dataset, parent)
        settings = datasets.settings_of(dataset)
        kinds = _taken_kinds(settings)
        rows = CutRows(database, session, dataset, settings.task, kinds)
        classes = [SnapshotClass(id=one.key, name=one.name) for one in rows.meanings.classes]
        with spooled(classes) as content:
            _take(content, rows, dataset)
            about = About(
                label_sequence=dataset.last_sequence,
                parent=None if parent is None else parent.id,
                task=settings.task,
                class_version=dataset.class_version,
                suggested_by=_suggested_by(session, dataset),
                leaks=LeakReport(
                    left_out={**rows.left_out, "retracted": _retracted(session, dataset)},
                    pairs=dict(rows.crossing.pairs),
                    largest_groups=leaks.largest_groups(session, dataset.id, kinds),
                ),
            )
            session.close()  # the view: what follows talks to the store only
            manifest, created = repository.write_spooled(
                dataset_name, content, _policy(settings), about
            )
    left_out = about.leaks.left_out
    _log.info(
        "snapshot cut",
        extra={
            "dataset": dataset_name,
            "snapshot": manifest.id,
            "new": created,
            "images": sum(manifest.split_images.values()),
            **{f"left_out_{reason}": count for reason, count in left_out.items()},
        },
    )
    return Cut(manifest, created, left_out)


def _take(content: SpooledContent, rows: CutRows, dataset: Dataset) -> None:
    if not content.take(rows):
        raise RefusedError(
            f'dataset "{dataset.name}" has {dataset.last_position} images and no label that a '
            f"snapshot may take{_why(rows.left_out)}; label some images first"
        )


def _why(left_out: Mapping[str, int]) -> str:
    reasons = [f"{count} {reason}" for reason, count in left_out.items() if count]
    return f" (left out: {', '.join(reasons)})" if reasons else ""


def _suggested_by(session: Session, dataset: Dataset) -> dict[str, int]:
    """Model version -> current labels whose author saw what it suggested."""
    query = (
        select(LabelEvent.suggested_by, func.count())
        .join(LabelHead, LabelHead.event_row_id == LabelEvent.id)
        .where(
            LabelEvent.dataset_id == dataset.id,
            LabelHead.item_id == LabelEvent.item_id,  # by its key
            LabelEvent.suggestion != literal_column("''"),  # as in the index of such events
        )
        .group_by(LabelEvent.suggested_by)
        .order_by(LabelEvent.suggested_by)
    )
    return dict(session.execute(query).tuples().all())


def _retracted(session: Session, dataset: Dataset) -> int:
    """Images whose label was taken back and not given again."""
    query = (
        select(func.count(LabelEvent.item_id.distinct()))
        .outerjoin(LabelHead, LabelHead.item_id == LabelEvent.item_id)
        .where(
            LabelEvent.dataset_id == dataset.id,
            LabelEvent.kind == EventKind.RETRACT,
            LabelHead.item_id.is_(None),
        )
    )
    return session.scalar(query) or 0


def _latest(repository: SnapshotRepository, dataset_name: str) -> SnapshotManifest | None:
    try:
        return repository.latest(dataset_name)
    except NotFoundError:
        return None


def _check_same_history(dataset: Dataset, parent: SnapshotManifest | None) -> None:
    """Refuses a database that was replaced or set back behind what the store has.

    It deals the splits anew, so test images of a served model could be trained on; and what it cuts
    would never become the latest snapshot, so training would go on with the old one, unnoticed.
    """
    if parent is not None and parent.label_sequence > dataset.last_sequence:
        raise RefusedError(
            f'the store has a snapshot of dataset "{dataset.name}" that covers '
            f"{parent.label_sequence} label events, and this database knows {dataset.last_sequence}"
            ": it is a new or an older one. Bring back the database that belongs to this store, or "
            "import under another dataset name"
        )


def _taken_kinds(settings: DatasetSettings) -> list[AuthorKind]:
    return [
        kind
        for kind in AuthorKind
        if kind.accepted
        or (kind is AuthorKind.APP and settings.train_on_app_labels)
        or (kind is AuthorKind.MODEL and settings.train_on_model_labels)
    ]


def _policy(settings: DatasetSettings) -> dict[str, object]:
    policy: dict[str, object] = {
        "split_rule": RULE,
        "split_ratios": settings.ratios.model_dump(),
        "label_sources": [kind.value for kind in _taken_kinds(settings)],
        "train_only_sources": [kind.value for kind in _TRAIN_ONLY],
    }
    if settings.task != "classification":  # the first snapshots had no other, and keep their ids
        policy["task"] = settings.task
    return policy

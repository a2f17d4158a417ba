"""Cutting a dataset snapshot: what is labelled now, as an immutable, leak-free training set.

One transaction gives a consistent cut: all labels up to the dataset's last sequence, none after.
What goes in is decided here and said in the manifest's policy:

- accepted labels (people, imports) stand in the split of their group;
- labels of apps (and of models, if the dataset says so) train only. A group that has nothing else
  is given to train for good, because a model will have seen it; where a group stands in val or test
  they are left out;
- an image that shows the same as one in a more protected split is left out of the cut. Groups keep
  most such pairs together; the rest are those that the group cap, or a later image that links two
  groups, left in different splits. The cut is checked again, and refused if a pair is left.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import select, update
from sqlalchemy.orm import Session, aliased

from visionloop.errors import CorruptError, NotFoundError, RefusedError
from visionloop.objectstore import ObjectStore
from visionloop.snapshot import SnapshotClass, SnapshotManifest, SnapshotRepository, SnapshotRow
from visionloop.telemetry import labeling as metrics
from visionloop_labeling import datasets, validation
from visionloop_labeling.database import Database
from visionloop_labeling.datasets import DatasetSettings
from visionloop_labeling.labels import AuthorKind
from visionloop_labeling.schema import (
    Blob,
    Dataset,
    ImageGroup,
    Item,
    LabelClass,
    LabelHead,
    NearDuplicate,
)
from visionloop_labeling.splits import PROTECTION, RULE

_PAGE: Final = 1000  # rows
_ROW_COLUMNS: Final = (
    *("sha256", "width", "height", "split", "group_id", "class_id"),
    *("attributes", "label_source", "source"),
)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cut:
    """A snapshot and how it came about. `left_out` says why images are not in it."""

    manifest: SnapshotManifest
    created: bool
    left_out: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Candidate:
    item_id: int
    pixel_sha256: str
    declared: str
    row: SnapshotRow


@dataclass(frozen=True, slots=True)
class _Content:
    rows: list[SnapshotRow]
    classes: list[SnapshotClass]
    sequence: int
    settings: DatasetSettings
    left_out: dict[str, int]


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


def _cut(database: Database, store: ObjectStore, dataset_name: str) -> Cut:
    repository = SnapshotRepository(store)
    parent = _latest(repository, dataset_name)  # read first: the labels below are no older
    with database.write() as session:
        dataset = datasets.find(session, dataset_name, lock=True)
        _check_same_history(dataset, parent)
        content = _content(session, dataset)
    manifest, created = repository.write(
        dataset_name,
        content.rows,
        content.classes,
        _policy(content.settings),
        label_sequence=content.sequence,
        leak_pairs=0,
        parent=None if parent is None else parent.id,
    )
    _log.info(
        "snapshot cut",
        extra={
            "dataset": dataset_name,
            "snapshot": manifest.id,
            "new": created,
            "images": len(content.rows),
            **{f"left_out_{reason}": count for reason, count in content.left_out.items()},
        },
    )
    return Cut(manifest, created, content.left_out)


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


def _content(session: Session, dataset: Dataset) -> _Content:
    settings = datasets.settings_of(dataset)
    kinds = _taken_kinds(settings)
    _give_rest_to_train(session, dataset, kinds)
    candidates = list(_candidates(session, dataset, kinds))
    left_out = {"protected_split": 0, "shows_the_same": 0}
    standing = [one for one in candidates if _may_stand(one.row)]
    left_out["protected_split"] = len(candidates) - len(standing)
    pairs = list(_pairs_showing_the_same(session, dataset, standing))
    exposed = _less_protected({one.item_id: one.row.split for one in standing}, pairs)
    kept = [one for one in standing if one.item_id not in exposed]
    left_out["shows_the_same"] = len(exposed)
    if _less_protected({one.item_id: one.row.split for one in kept}, pairs):
        raise CorruptError("the cut still shows the same image in two splits; report this bug")
    if not kept:
        raise RefusedError(
            f'dataset "{dataset.name}" has {dataset.last_position} images and no label that a '
            "snapshot may take; label some images first"
        )
    used = {one.row.class_id for one in kept}
    classes = [
        SnapshotClass(id=one.key, name=one.name)
        for one in datasets.classes_of(session, dataset)
        if one.key in used
    ]
    return _Content([k.row for k in kept], classes, dataset.last_sequence, settings, left_out)


def _taken_kinds(settings: DatasetSettings) -> list[AuthorKind]:
    return [
        kind
        for kind in AuthorKind
        if kind.accepted
        or (kind is AuthorKind.APP and settings.train_on_app_labels)
        or (kind is AuthorKind.MODEL and settings.train_on_model_labels)
    ]


def _policy(settings: DatasetSettings) -> dict[str, object]:
    return {
        "split_rule": RULE,
        "split_ratios": settings.ratios.model_dump(),
        "label_sources": [kind.value for kind in _taken_kinds(settings)],
        "train_only_sources": [AuthorKind.APP.value, AuthorKind.MODEL.value],
    }


def _give_rest_to_train(session: Session, dataset: Dataset, kinds: Sequence[AuthorKind]) -> None:
    """Groups without a split whose labels this snapshot takes become train."""
    labelled = (
        select(Item.group_id)
        .join(LabelHead, LabelHead.item_id == Item.id)
        .where(Item.dataset_id == dataset.id, LabelHead.author_kind.in_(kinds))
    )
    session.execute(
        update(ImageGroup)
        .where(ImageGroup.split.is_(None), ImageGroup.id.in_(labelled))
        .values(split="train", split_sequence=dataset.last_sequence)
    )


def _candidates(
    session: Session, dataset: Dataset, kinds: Sequence[AuthorKind]
) -> Iterable[_Candidate]:
    # Columns, not objects, and not all at once: ingest waits while we read.
    query = (
        select(
            Item.id,
            Item.declared_group,
            Blob.pixel_sha256,
            Item.sha256,
            Blob.width,
            Blob.height,
            ImageGroup.split,
            ImageGroup.key,
            LabelClass.key,
            Item.attributes,
            LabelHead.author_kind,
            Item.source,
        )
        .join(Blob, Blob.sha256 == Item.sha256)
        .join(ImageGroup, ImageGroup.id == Item.group_id)
        .join(LabelHead, LabelHead.item_id == Item.id)
        .join(LabelClass, LabelClass.id == LabelHead.class_id)
        .where(Item.dataset_id == dataset.id, LabelHead.author_kind.in_(kinds))
        .order_by(Item.position)
        .execution_options(yield_per=_PAGE)
    )
    for item_id, declared, pixel_sha256, *columns in session.execute(query):
        fields = dict(zip(_ROW_COLUMNS, columns, strict=True))
        yield _Candidate(item_id, pixel_sha256, declared, SnapshotRow.model_validate(fields))


def _may_stand(row: SnapshotRow) -> bool:
    return row.split == "train" or AuthorKind(row.label_source).accepted


def _pairs_showing_the_same(
    session: Session, dataset: Dataset, candidates: Sequence[_Candidate]
) -> Iterable[tuple[int, int]]:
    """Pairs of item ids; of firm links only a chain through each set, per pair of splits."""
    later, earlier = aliased(Item), aliased(Item)
    later_group, earlier_group = aliased(ImageGroup), aliased(ImageGroup)
    # Only pairs across splits: a still camera gives hundreds of pairs an image within them.
    query = (
        select(NearDuplicate.later_id, NearDuplicate.earlier_id)
        .join(later, later.id == NearDuplicate.later_id)
        .join(earlier, earlier.id == NearDuplicate.earlier_id)
        .join(later_group, later_group.id == later.group_id)
        .join(earlier_group, earlier_group.id == earlier.group_id)
        .where(later.dataset_id == dataset.id, later_group.split != earlier_group.split)
    )
    yield from session.execute(query).tuples()
    alike: dict[tuple[str, str], list[_Candidate]] = defaultdict(list)
    for one in candidates:
        alike["pixels", one.pixel_sha256].append(one)
        if one.declared:
            alike["declared", one.declared].append(one)
    for ones in alike.values():
        # Compared with the most protected of the set, every other one shows whether it must go.
        guard = max(ones, key=lambda one: PROTECTION[one.row.split])
        yield from ((guard.item_id, one.item_id) for one in ones if one is not guard)


def _less_protected(split_of: dict[int, str], pairs: Iterable[tuple[int, int]]) -> set[int]:
    """The images of `split_of` that a pair joins to one in a more protected split."""
    exposed = set()
    for first, second in pairs:
        if first not in split_of or second not in split_of:
            continue
        difference = PROTECTION[split_of[first]] - PROTECTION[split_of[second]]
        if difference:
            exposed.add(second if difference > 0 else first)
    return exposed

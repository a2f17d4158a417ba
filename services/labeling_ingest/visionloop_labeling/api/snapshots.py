"""Snapshots: cutting them, looking at them, comparing two."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Final, Self

from fastapi import APIRouter, Query
from pydantic import BaseModel

from visionloop.snapshot import SnapshotManifest, SnapshotRepository
from visionloop_labeling import datasets, validation
from visionloop_labeling.api.errors import ERRORS
from visionloop_labeling.api.resources import SnapshotOut
from visionloop_labeling.service import LabelingService
from visionloop_labeling.snapshot_list import SnapshotBrief
from visionloop_labeling.snapshots import Compared

LISTED: Final = 1000
MAX_LISTED: Final = 10_000
_Snapshot = Annotated[str, "an id, its beginning, or latest"]


class SnapshotSummary(BaseModel):
    """A snapshot in a list."""

    id: str
    created: datetime
    parent: str | None
    label_sequence: int
    split_images: dict[str, int]
    classes: int

    @classmethod
    def of(cls, brief: SnapshotBrief) -> Self:
        """From what the service knows."""
        return cls(**{name: getattr(brief, name) for name in cls.model_fields})


class ClassChangeOut(BaseModel):
    """Images of one class, or boxes, whose class was `before` and is `after` ("" for none)."""

    before: str
    after: str
    count: int


class BoxMoveOut(BaseModel):
    """A box that stands elsewhere; `iou` with where it stood."""

    sha256: str
    class_id: str
    iou: float


class DiffCountsOut(BaseModel):
    """How many there are, however many are listed."""

    added: int
    removed: int
    relabelled: int
    redrawn: int
    reweighted: int
    split_changed: int
    group_changed: int
    boxes_moved: int
    class_changes: int


class DiffOut(BaseModel):
    """What the second snapshot has, lacks or says otherwise. Lists hold sha256.

    `complete` is false where a list is longer than the limit and only its beginning is here (of the
    changes of classes the most frequent); the counts are of all.
    """

    before: str
    after: str
    complete: bool
    counts: DiffCountsOut
    added: list[str]
    removed: list[str]
    relabelled: list[str]
    redrawn: list[str]
    reweighted: list[str]
    split_changed: list[str]
    group_changed: list[str]
    boxes_moved: list[BoxMoveOut]
    boxes_added: int
    boxes_removed: int
    class_changes: list[ClassChangeOut]
    class_counts: dict[str, tuple[int, int]]


def routes(service: LabelingService) -> APIRouter:
    """Snapshots."""
    api = APIRouter(tags=["snapshots"])

    @api.post("/v1/datasets/{dataset}/snapshots", responses=ERRORS)
    async def create_snapshot(dataset: str) -> SnapshotOut:
        """Cuts a snapshot of what is labelled now; the same content gives the same id."""
        return SnapshotOut.of(await service.create_snapshot(dataset))

    @api.get("/v1/datasets/{dataset}/snapshots", responses=ERRORS)
    async def list_snapshots(dataset: str) -> list[SnapshotSummary]:
        """All snapshots of a dataset, oldest first."""

        def work() -> list[SnapshotBrief]:
            _check(service, dataset)
            return service.snapshots.of(dataset)

        return [SnapshotSummary.of(one) for one in await service.run(work)]

    @api.get("/v1/datasets/{dataset}/snapshots/{snapshot}", responses=ERRORS)
    async def show_snapshot(dataset: str, snapshot: _Snapshot) -> SnapshotManifest:
        """The manifest of a snapshot: an id, its beginning, or "latest"."""

        def work() -> SnapshotManifest:
            return _repository(service, dataset).manifest(dataset, snapshot)

        return await service.run(work)

    @api.get("/v1/datasets/{dataset}/snapshots/{snapshot}/diff", responses=ERRORS)
    async def compare_snapshots(
        dataset: str,
        snapshot: _Snapshot,
        to: Annotated[str, Query(description='An id, its beginning, or "latest".')] = "latest",
        limit: Annotated[
            int, Query(ge=0, le=MAX_LISTED, description="How many a list may hold.")
        ] = LISTED,
    ) -> DiffOut:
        """What changed from one snapshot to another. Counts are whole, lists end at the limit: all
        that changed among a million images is for `visionloop --json snapshots diff`."""
        await service.check_dataset(dataset)
        return _diff(await service.compare(dataset, snapshot, to, limit))

    return api


def _check(service: LabelingService, dataset: str) -> None:
    with service.database.read() as session:
        datasets.find(session, validation.dataset_name(dataset))


def _repository(service: LabelingService, dataset: str) -> SnapshotRepository:
    _check(service, dataset)
    return SnapshotRepository(service.store)


def _diff(compared: Compared) -> DiffOut:
    changes = compared.changes
    return DiffOut(
        before=compared.before.id,
        after=compared.after.id,
        complete=changes.complete,
        counts=DiffCountsOut(**asdict(changes.counts)),
        added=changes.added,
        removed=changes.removed,
        relabelled=changes.relabelled,
        redrawn=changes.redrawn,
        reweighted=changes.reweighted,
        split_changed=changes.split_changed,
        group_changed=changes.group_changed,
        boxes_moved=[
            BoxMoveOut(sha256=one.sha256, class_id=one.class_id, iou=one.iou)
            for one in changes.boxes_moved
        ],
        boxes_added=changes.boxes_added,
        boxes_removed=changes.boxes_removed,
        class_changes=[
            ClassChangeOut(before=one.before, after=one.after, count=one.count)
            for one in changes.class_changes
        ],
        class_counts=changes.class_counts,
    )

"""Snapshots: cutting them, looking at them, comparing two."""

from datetime import datetime
from typing import Annotated, Self

from fastapi import APIRouter, Query
from pydantic import BaseModel

from visionloop.snapshot import SnapshotDiff, SnapshotManifest, SnapshotRepository
from visionloop.snapshot_diff import diff_rows
from visionloop_labeling import datasets, validation
from visionloop_labeling.api.errors import ERRORS
from visionloop_labeling.api.resources import SnapshotOut
from visionloop_labeling.service import LabelingService
from visionloop_labeling.snapshot_list import SnapshotBrief

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


class DiffOut(BaseModel):
    """What the second snapshot has, lacks or says otherwise. Lists hold sha256."""

    before: str
    after: str
    added: list[str]
    removed: list[str]
    relabelled: list[str]
    redrawn: list[str]
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
    ) -> DiffOut:
        """What changed from one snapshot to another."""

        def work() -> DiffOut:
            repository = _repository(service, dataset)
            before, after = (repository.manifest(dataset, one) for one in (snapshot, to))
            changes = diff_rows(repository.stream(before), repository.stream(after))
            return _diff(before, after, changes)

        return await service.run(work)

    return api


def _check(service: LabelingService, dataset: str) -> None:
    with service.database.read() as session:
        datasets.find(session, validation.dataset_name(dataset))


def _repository(service: LabelingService, dataset: str) -> SnapshotRepository:
    _check(service, dataset)
    return SnapshotRepository(service.store)


def _diff(before: SnapshotManifest, after: SnapshotManifest, changes: SnapshotDiff) -> DiffOut:
    return DiffOut(
        before=before.id,
        after=after.id,
        added=changes.added,
        removed=changes.removed,
        relabelled=changes.relabelled,
        redrawn=changes.redrawn,
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

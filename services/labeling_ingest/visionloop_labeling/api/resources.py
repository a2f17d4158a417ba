"""What the HTTP API takes and gives, as typed JSON."""

from datetime import datetime
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from visionloop_labeling.datasets import DatasetSettings, DatasetSummary
from visionloop_labeling.history import HistoryEntry
from visionloop_labeling.labels import AuthorKind, EventKind
from visionloop_labeling.receipts import Outcome, Receipt
from visionloop_labeling.snapshots import Cut


class RequestBody(BaseModel):
    """Base of what callers send: a field nobody knows is a mistake, told to its sender."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ErrorOut(BaseModel):
    """Why not: a stable word, a sentence for people, and the field that is meant."""

    reason: str
    message: str
    field: str


class NewDataset(RequestBody):
    """A dataset to make; its settings never change afterwards."""

    name: Annotated[str, Field(description="1 to 63 of a-z, 0-9, '-' and '_'.")]
    settings: DatasetSettings | None = None


class ClassOut(BaseModel):
    """A class; the id never changes, the name may."""

    id: str
    name: str


class DatasetOut(BaseModel):
    """A dataset with its classes and counts."""

    name: str
    classes: list[ClassOut]
    images: int
    labelled: int
    created: datetime
    settings: DatasetSettings

    @classmethod
    def of(cls, summary: DatasetSummary) -> Self:
        """From what the service knows."""
        return cls(
            name=summary.name,
            classes=[ClassOut(id=key, name=name) for key, name in summary.classes],
            images=summary.images,
            labelled=summary.labelled,
            created=summary.created,
            settings=summary.settings,
        )


class ReceiptOut(BaseModel):
    """What became of an image. `reason` and `message` tell of a label conflict."""

    outcome: Outcome
    sha256: str
    reason: str
    message: str
    replayed: bool

    @classmethod
    def of(cls, receipt: Receipt) -> Self:
        """From what the service knows."""
        return cls(
            outcome=receipt.outcome,
            sha256=receipt.sha256,
            reason=receipt.reason,
            message=receipt.message,
            replayed=receipt.replayed,
        )


class LabelIn(RequestBody):
    """A label for an image that is there."""

    sha256: str
    label: Annotated[str, Field(description="The class's name; an unknown one is added.")]
    event_id: Annotated[
        UUID | None, Field(description="The same event is recorded once, however often it is sent.")
    ] = None
    author_kind: AuthorKind = AuthorKind.HUMAN
    author: str = ""
    base_sequence: Annotated[
        int | None,
        Field(ge=0, description="The label the author saw; a later one makes this a conflict."),
    ] = None


class LabelOut(BaseModel):
    """What became of a label; `current` is false when it changed nothing that counts."""

    sequence: int
    class_id: str
    current: bool


class EventOut(BaseModel):
    """One event. Its annotation is as it was said; `undone`: its author took it back."""

    sequence: int
    event_id: str
    sha256: str
    kind: EventKind
    annotation: dict[str, Any] | None
    class_id: str
    class_name: str
    author_kind: AuthorKind
    author: str
    at: datetime
    current: bool
    applied: bool
    undone: bool
    undoes: int | None
    base_sequence: int | None
    note: str
    suggested_by: str
    suggestion: str
    seconds: float | None
    said_at: Annotated[
        datetime | None,
        Field(description="When it was said, where it waited to be recorded."),
    ]

    @classmethod
    def of(cls, entry: HistoryEntry) -> Self:
        """From what the service knows."""
        return cls(
            sequence=entry.sequence,
            event_id=entry.event_id,
            sha256=entry.sha256,
            kind=entry.kind,
            annotation=entry.annotation,
            class_id=entry.class_key,
            class_name=entry.class_name,
            author_kind=entry.author_kind,
            author=entry.author,
            at=entry.at,
            current=entry.current,
            applied=entry.applied,
            undone=entry.undone,
            undoes=entry.undoes,
            base_sequence=entry.base_sequence,
            note=entry.note,
            suggested_by=entry.suggested_by,
            suggestion=entry.suggestion,
            seconds=entry.seconds,
            said_at=entry.said_at,
        )


class SnapshotOut(BaseModel):
    """A snapshot; `left_out` counts labelled images that are not in it, by reason."""

    id: str
    created: bool
    split_images: dict[str, int]
    groups: int
    largest_group: int
    left_out: dict[str, int]

    @classmethod
    def of(cls, cut: Cut) -> Self:
        """From what the service knows."""
        return cls(
            id=cut.manifest.id,
            created=cut.created,
            split_images=cut.manifest.split_images,
            groups=cut.manifest.groups,
            largest_group=cut.manifest.largest_group,
            left_out=cut.left_out,
        )

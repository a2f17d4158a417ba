"""What goes to and comes from the labeling-ingest service, as plain values instead of messages.

Nothing here connects to anything; `visionloop.labeling_client` does. Needs protobuf alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal, Self

from visionloop.annotation import Annotation, annotation_from, annotation_message
from visionloop.errors import InvalidInputError, VisionloopError
from visionloop.proto.v1 import labeling_pb2 as pb

AuthorKind = Literal["human", "import", "app", "model"]
Outcome = Literal["accepted", "duplicate", "rejected", "quarantined"]

EventKind = Literal["label", "retract", "skip", "flag", "unflag", "undo"]
Task = Literal["classification", "multi_label", "detection"]
ExportFormat = Literal["csv", "coco", "yolo", "folder"]

# Larger images are rejected here: as a message they would break the stream of all the others.
MAX_IMAGE_BYTES: Final = 64 * 2**20

_KINDS: dict[str, pb.AuthorKind] = {
    "human": pb.AUTHOR_KIND_HUMAN,
    "import": pb.AUTHOR_KIND_IMPORT,
    "app": pb.AUTHOR_KIND_APP,
    "model": pb.AUTHOR_KIND_MODEL,
}
_TASKS: dict[str, pb.Task] = {
    "classification": pb.TASK_CLASSIFICATION,
    "multi_label": pb.TASK_MULTI_LABEL,
    "detection": pb.TASK_DETECTION,
}
_TASK_NAMES: dict[int, Task] = {
    pb.TASK_CLASSIFICATION: "classification",
    pb.TASK_MULTI_LABEL: "multi_label",
    pb.TASK_DETECTION: "detection",
}
_EVENTS: dict[EventKind, pb.EventKind] = {
    "label": pb.EVENT_KIND_LABEL,
    "retract": pb.EVENT_KIND_RETRACT,
    "skip": pb.EVENT_KIND_SKIP,
    "flag": pb.EVENT_KIND_FLAG,
    "unflag": pb.EVENT_KIND_UNFLAG,
    "undo": pb.EVENT_KIND_UNDO,
}
_EVENT_NAMES: dict[int, EventKind] = {number: name for name, number in _EVENTS.items()}
_FORMATS: dict[str, pb.ExportRequest.Format] = {
    "csv": pb.ExportRequest.CSV,
    "coco": pb.ExportRequest.COCO,
    "yolo": pb.ExportRequest.YOLO,
    "folder": pb.ExportRequest.FOLDER,
}
_KIND_NAMES = {number: name for name, number in _KINDS.items()}
_OUTCOMES: dict[int, Outcome] = {
    pb.SubmitImageReceipt.ACCEPTED: "accepted",
    pb.SubmitImageReceipt.DUPLICATE: "duplicate",
    pb.SubmitImageReceipt.REJECTED: "rejected",
    pb.SubmitImageReceipt.QUARANTINED: "quarantined",
}


@dataclass(frozen=True, slots=True)
class LabelClass:
    """A class of a dataset: the id stays, the name may change."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class DatasetSettings:
    """What a dataset is made with, for ever. `splits` are the shares of train, val and test.

    `train_on_app_labels`, `train_on_model_labels`: whether snapshots take such labels, in train.
    """

    task: Task = "classification"
    splits: tuple[float, float, float] = (0.7, 0.1, 0.2)
    train_on_app_labels: bool = True
    train_on_model_labels: bool = False


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset with its classes and counts."""

    name: str
    classes: tuple[LabelClass, ...]
    images: int
    labelled: int
    created: datetime
    settings: DatasetSettings = DatasetSettings()


@dataclass(frozen=True, slots=True)
class SubmitImage:
    """One row to submit: an encoded image, and its label if it has one.

    (`batch`, `ordinal`) names the row for ever: sending it again is answered by the first receipt.
    Images of one `group` (a patient, a product) stay in one split. `source` is for people.
    """

    dataset: str
    batch: str
    ordinal: int
    image: bytes
    label: str | None = None
    group: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    author_kind: AuthorKind = "app"
    author: str = ""
    source: str = ""
    annotation: Annotation | None = None  # instead of `label`: whatever the image shows


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of one row. It is durable when the receipt is there.

    A rejected row has a `reason` (one stable word), a `message` for people and perhaps a `field`;
    every other one has the image's `sha256`. A quarantined one has both: it could not be decoded
    and is not in the dataset, but its bytes are kept for people to look at. `replayed` tells the
    stored answer to an earlier try.
    """

    batch: str
    ordinal: int
    outcome: Outcome
    sha256: str = ""
    reason: str = ""
    message: str = ""
    field: str = ""
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class LabelReceipt:
    """What became of one event; `current` is False when it changed nothing that counts.

    `state` is the image's place in the work after it (open, labelled, review, skipped),
    `label_sequence` that of its label, 0 for none.
    """

    sequence: int
    class_id: str
    current: bool
    state: str = ""
    label_sequence: int = 0


@dataclass(frozen=True, slots=True)
class SnapshotReceipt:
    """A snapshot: `created` is False when the same content already had this id.

    Images of a group share a split. `left_out` counts labelled images that are not in it, by
    reason.
    """

    id: str
    created: bool
    split_images: dict[str, int]
    groups: int = 0
    largest_group: int = 0
    left_out: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ExportedLabel:
    """The current label of one image; `disputed` when somebody says otherwise, undecided.

    `class_id` and `class_name` are of its first class; `annotation` is all that is said of it, None
    from a service that is older than this.
    """

    sha256: str
    class_id: str
    class_name: str
    split: str
    group: str
    attributes: dict[str, str]
    author_kind: str
    author: str
    source: str
    labelled: datetime
    sequence: int = 0
    disputed: bool = False
    annotation: Annotation | None = None


@dataclass(frozen=True, slots=True)
class LabelEvent:
    """One entry of an image's history.

    `undone`: its author took it back. `applied`: it changed something that counts when it came.
    `undoes` is the event that an undo takes back, else 0.
    """

    sequence: int
    event_id: str
    class_id: str
    class_name: str
    author_kind: str
    author: str
    at: datetime
    current: bool
    kind: EventKind = "label"
    annotation: Annotation | None = None
    note: str = ""
    undoes: int = 0
    undone: bool = False
    applied: bool = True
    suggested_by: str = ""
    suggestion: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A row on its way: a request, or the refusal of one that never leaves."""

    request: pb.SubmitImageRequest | None
    refusal: Receipt | None = None

    @classmethod
    def of(cls, row: SubmitImage) -> Self:
        """The row's request. Raises InvalidInputError for fields that no message can hold."""
        if len(row.image) > MAX_IMAGE_BYTES:
            message = (
                f"the image has {len(row.image):,} bytes; this client sends at most "
                f"{MAX_IMAGE_BYTES:,}, so scale it down"
            )
            refusal = Receipt(
                row.batch, row.ordinal, "rejected", reason="too_many_bytes", message=message,
                field="image",
            )  # fmt: skip
            return cls(None, refusal)
        try:
            request = pb.SubmitImageRequest(
                dataset=row.dataset,
                batch=row.batch,
                ordinal=row.ordinal,
                image=row.image,
                label=None if row.label is None else pb.Label(class_name=row.label),
                group=row.group,
                attributes=row.attributes,
                author_kind=author_kind(row.author_kind),
                author=row.author,
                source=row.source,
                annotation=None if row.annotation is None else annotation_message(row.annotation),
            )
        except (TypeError, ValueError) as error:
            raise InvalidInputError(
                f"row {row.ordinal} of batch {row.batch!r} cannot be sent: {error}"
            ) from error
        return cls(request)

    def size(self) -> int:
        """Bytes of its image."""
        return len(self.request.image) if self.request is not None else 0

    def receipt(self, answer: pb.SubmitImageReceipt) -> Receipt:
        """The service's answer, which must be this row's: receipts come in order."""
        if self.request is None or (answer.batch, answer.ordinal) != (
            self.request.batch,
            self.request.ordinal,
        ):
            raise VisionloopError(
                f"the labeling-ingest service answered row {answer.ordinal} of batch "
                f"{answer.batch!r} out of turn; its version and the client's do not fit"
            )
        return Receipt(
            batch=answer.batch,
            ordinal=answer.ordinal,
            outcome=_OUTCOMES.get(answer.outcome, "rejected"),
            sha256=answer.sha256,
            reason=answer.reason,
            message=answer.message,
            field=answer.field,
            replayed=answer.replayed,
        )


def event_kind(name: EventKind) -> pb.EventKind:
    """The message's value of an EventKind. Raises InvalidInputError for another word."""
    if name not in _EVENTS:
        raise InvalidInputError(f"kind is {name!r}; it must be {', '.join(_EVENTS)}", field="kind")
    return _EVENTS[name]


def author_kind(name: str) -> pb.AuthorKind:
    """The message's value of an AuthorKind. Raises InvalidInputError for another word."""
    if name not in _KINDS:
        raise InvalidInputError(
            f"author_kind is {name!r}; it must be {', '.join(_KINDS)}", field="author_kind"
        )
    return _KINDS[name]


def dataset_from(dataset: pb.Dataset) -> Dataset:
    """A Dataset from its message."""
    return Dataset(
        name=dataset.name,
        classes=tuple(LabelClass(each.id, each.name) for each in dataset.classes),
        images=dataset.images,
        labelled=dataset.labelled,
        created=dataset.created.ToDatetime(UTC),
        settings=_settings_from(dataset.settings),
    )


def settings_message(settings: DatasetSettings) -> pb.DatasetSettings:
    """The message of settings. Raises InvalidInputError for an unknown task."""
    if settings.task not in _TASKS:
        raise InvalidInputError(
            f"task is {settings.task!r}; it must be {', '.join(_TASKS)}", field="settings.task"
        )
    if len(settings.splits) != 3:
        raise InvalidInputError(
            f"splits is {settings.splits!r}; give the shares of train, val and test: 0.7, 0.1, 0.2",
            field="settings.splits",
        )
    train, val, test = settings.splits
    return pb.DatasetSettings(
        task=_TASKS[settings.task],
        ratios=pb.SplitRatios(train=train, val=val, test=test),
        train_on_app_labels=settings.train_on_app_labels,
        train_on_model_labels=settings.train_on_model_labels,
    )


def _settings_from(settings: pb.DatasetSettings) -> DatasetSettings:
    if settings.task not in _TASK_NAMES:
        return DatasetSettings()  # a service from before it told
    ratios = settings.ratios
    return DatasetSettings(
        task=_TASK_NAMES[settings.task],
        splits=(ratios.train, ratios.val, ratios.test),
        train_on_app_labels=settings.train_on_app_labels,
        train_on_model_labels=settings.train_on_model_labels,
    )


def snapshot_from(receipt: pb.SnapshotReceipt) -> SnapshotReceipt:
    """A SnapshotReceipt from its message."""
    return SnapshotReceipt(
        id=receipt.id,
        created=receipt.created,
        split_images=dict(receipt.split_images),
        groups=receipt.groups,
        largest_group=receipt.largest_group,
        left_out=dict(receipt.left_out),
    )


def format_number(name: ExportFormat) -> pb.ExportRequest.Format:
    """The message's value of a format. Raises InvalidInputError for another word."""
    if name not in _FORMATS:
        raise InvalidInputError(
            f"format is {name!r}; it must be {', '.join(_FORMATS)}", field="format"
        )
    return _FORMATS[name]


def label_from(label: pb.ExportedLabel) -> ExportedLabel:
    """An ExportedLabel from its message."""
    return ExportedLabel(
        sha256=label.sha256,
        class_id=label.class_id,
        class_name=label.class_name,
        split=label.split,
        group=label.group,
        attributes=dict(label.attributes),
        author_kind=_KIND_NAMES.get(label.author_kind, ""),
        author=label.author,
        source=label.source,
        labelled=label.labelled.ToDatetime(UTC),
        sequence=label.sequence,
        disputed=label.disputed,
        annotation=annotation_from(label.annotation) if label.HasField("annotation") else None,
    )


def event_from(event: pb.LabelEvent) -> LabelEvent:
    """A LabelEvent from its message."""
    return LabelEvent(
        sequence=event.sequence,
        event_id=event.event_id,
        class_id=event.class_id,
        class_name=event.class_name,
        author_kind=_KIND_NAMES.get(event.author_kind, ""),
        author=event.author,
        at=event.at.ToDatetime(UTC),
        current=event.current,
        kind=_EVENT_NAMES.get(event.kind, "label"),
        annotation=annotation_from(event.annotation) if event.HasField("annotation") else None,
        note=event.note,
        undoes=event.undoes,
        undone=event.undone,
        applied=event.applied,
        suggested_by=event.suggested_by,
        suggestion=event.suggestion,
    )

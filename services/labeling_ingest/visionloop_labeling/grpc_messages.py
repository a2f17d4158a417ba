"""What stands on the wire (labeling.proto), to and from what the service knows.

A number that this version has no name for is passed on as it is and refused where its field is
checked, so that the answer names it.
"""

from datetime import datetime
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import ValidationError

from visionloop.errors import InvalidInputError
from visionloop.proto.v1 import labeling_pb2 as pb
from visionloop_labeling import statements, validation
from visionloop_labeling.accounts import may_review, spoken_by
from visionloop_labeling.annotation import MAX_NOTE, Draft, Task
from visionloop_labeling.auth import CALLER
from visionloop_labeling.datasets import DatasetSettings, DatasetSummary
from visionloop_labeling.exporters import Format
from visionloop_labeling.exports import ExportedLabel
from visionloop_labeling.fold import AuthorKind, EventKind
from visionloop_labeling.grpc_annotations import annotation_message, draft_of
from visionloop_labeling.history import HistoryEntry
from visionloop_labeling.labels import Recorded, Statement
from visionloop_labeling.receipts import ImageRow, Outcome, Receipt, Way
from visionloop_labeling.snapshots import Cut

_KINDS: Final[dict[pb.AuthorKind, AuthorKind]] = {
    pb.AUTHOR_KIND_HUMAN: AuthorKind.HUMAN,
    pb.AUTHOR_KIND_IMPORT: AuthorKind.IMPORT,
    pb.AUTHOR_KIND_APP: AuthorKind.APP,
    pb.AUTHOR_KIND_MODEL: AuthorKind.MODEL,
}
_KIND_NUMBERS: Final = {kind: number for number, kind in _KINDS.items()}
_EVENTS: Final[dict[pb.EventKind, EventKind]] = {
    pb.EVENT_KIND_LABEL: EventKind.LABEL,
    pb.EVENT_KIND_RETRACT: EventKind.RETRACT,
    pb.EVENT_KIND_SKIP: EventKind.SKIP,
    pb.EVENT_KIND_FLAG: EventKind.FLAG,
    pb.EVENT_KIND_UNFLAG: EventKind.UNFLAG,
    pb.EVENT_KIND_UNDO: EventKind.UNDO,
}
_EVENT_NUMBERS: Final = {kind: number for number, kind in _EVENTS.items()}
_OUTCOMES: Final = {
    Outcome.ACCEPTED: pb.SubmitImageReceipt.ACCEPTED,
    Outcome.DUPLICATE: pb.SubmitImageReceipt.DUPLICATE,
    Outcome.REJECTED: pb.SubmitImageReceipt.REJECTED,
    Outcome.QUARANTINED: pb.SubmitImageReceipt.QUARANTINED,
}
_TASKS: Final[dict[pb.Task, Task]] = {
    pb.TASK_CLASSIFICATION: "classification",
    pb.TASK_MULTI_LABEL: "multi_label",
    pb.TASK_DETECTION: "detection",
}
_TASK_NUMBERS: Final = {task: number for number, task in _TASKS.items()}
_FORMATS: Final[dict[pb.ExportRequest.Format, Format]] = {
    pb.ExportRequest.CSV: "csv",
    pb.ExportRequest.COCO: "coco",
    pb.ExportRequest.YOLO: "yolo",
    pb.ExportRequest.FOLDER: "folder",
}


def kind_name(number: pb.AuthorKind) -> str:
    """The kind of author; what no kind has the number of stays a number, and is refused."""
    kind = AuthorKind.APP if number == pb.AUTHOR_KIND_UNSPECIFIED else _KINDS.get(number)
    return str(number) if kind is None else kind.value


def author_of(request: pb.SubmitImageRequest | pb.SubmitLabelRequest) -> str:
    """Who speaks: the caller, or whom a program speaks for."""
    return spoken_by(CALLER.get(), request.author, kind_name(request.author_kind))


def row_of(request: pb.SubmitImageRequest) -> ImageRow:
    """The row that a caller sends."""
    return ImageRow(
        dataset=request.dataset,
        batch=request.batch,
        ordinal=request.ordinal,
        image=request.image,
        label=request.label.class_name if request.HasField("label") else None,
        group=request.group,
        attributes=dict(request.attributes),
        author_kind=kind_name(request.author_kind),
        author=author_of(request),
        source=request.source,
        way=Way.GRPC,
        **_annotation_of(request),
    )


def _annotation_of(request: pb.SubmitImageRequest) -> dict[str, Any]:
    """The row's annotation, or its refusal: a bad row is answered as a row."""
    if not request.HasField("annotation"):
        return {}
    try:
        return {"annotation": draft_of(request.annotation)}
    except InvalidInputError as refusal:
        return {"refusal": refusal}


def statement_of(request: pb.SubmitLabelRequest) -> Statement:
    """What somebody says about an image. Raises InvalidInputError."""
    kind = _event_kind(request.kind)
    draft = draft_of(request.annotation) if request.HasField("annotation") else None
    if kind is EventKind.LABEL and draft is None:
        draft = Draft(classes=(validation.text(request.label.class_name, "label"),))
    return Statement(
        author_kind=statements.author_kind_named(kind_name(request.author_kind)),
        author=validation.text(author_of(request), "author", required=False),
        kind=kind,
        annotation=draft,
        event_id=validation.event_id(request.event_id) if request.event_id else None,
        base_sequence=request.base_sequence if request.HasField("base_sequence") else None,
        undoes=request.undoes if request.HasField("undoes") else None,
        note=validation.lines(request.note, "note", limit=MAX_NOTE),
        suggested_by=validation.text(request.suggested_by, "suggested_by", required=False),
        suggestion=statements.suggestion_named(request.suggestion),
        seconds=statements.checked_seconds(request.seconds)
        if request.HasField("seconds")
        else None,
        may_review=may_review(CALLER.get()),
    )


def recorded_message(recorded: Recorded) -> pb.SubmitLabelReceipt:
    """What became of a statement on the wire."""
    return pb.SubmitLabelReceipt(
        sequence=recorded.sequence,
        class_id=recorded.class_key,
        current=recorded.applied,
        state=recorded.state,
        label_sequence=recorded.label_sequence,
    )


def _event_kind(number: pb.EventKind) -> EventKind:
    if number == pb.EVENT_KIND_UNSPECIFIED:
        return EventKind.LABEL
    if number not in _EVENTS:
        raise InvalidInputError(
            f"kind {number} is not known; use one of {', '.join(EventKind)}", field="kind"
        )
    return _EVENTS[number]


def receipt_message(receipt: Receipt) -> pb.SubmitImageReceipt:
    """A receipt on the wire."""
    return pb.SubmitImageReceipt(
        batch=receipt.batch,
        ordinal=receipt.ordinal,
        outcome=_OUTCOMES[receipt.outcome],
        sha256=receipt.sha256,
        reason=receipt.reason,
        message=receipt.message,
        field=receipt.field,
        replayed=receipt.replayed,
    )


def dataset_message(summary: DatasetSummary) -> pb.Dataset:
    """A dataset on the wire."""
    return pb.Dataset(
        name=summary.name,
        classes=[pb.LabelClass(id=key, name=name) for key, name in summary.classes],
        images=summary.images,
        labelled=summary.labelled,
        created=_time(summary.created),
        settings=_settings_message(summary.settings),
    )


def label_message(label: ExportedLabel) -> pb.ExportedLabel:
    """A current label on the wire."""
    return pb.ExportedLabel(
        sha256=label.sha256,
        class_id=label.class_key,
        class_name=label.class_name,
        split=label.split,
        group=label.group,
        attributes=label.attributes,
        author_kind=_KIND_NUMBERS[label.author_kind],
        author=label.author,
        source=label.source,
        labelled=None if label.labelled is None else _time(label.labelled),
        sequence=label.sequence,
        disputed=label.disputed,
        annotation=annotation_message(label.annotation.stored(), label.names),
    )


def event_message(entry: HistoryEntry) -> pb.LabelEvent:
    """An entry of the history on the wire."""
    return pb.LabelEvent(
        sequence=entry.sequence,
        event_id=entry.event_id,
        class_id=entry.class_key,
        class_name=entry.class_name,
        author_kind=_KIND_NUMBERS[entry.author_kind],
        author=entry.author,
        at=_time(entry.at),
        current=entry.current,
        kind=_EVENT_NUMBERS[entry.kind],
        annotation=(
            None if entry.annotation is None else annotation_message(entry.annotation, entry.names)
        ),
        note=entry.note,
        undoes=entry.undoes or 0,
        undone=entry.undone,
        applied=entry.applied,
        suggested_by=entry.suggested_by,
        suggestion=entry.suggestion,
        said_at=None if entry.said_at is None else _time(entry.said_at),
    )


def _time(at: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(at)
    return stamp


def settings_of(message: pb.DatasetSettings) -> DatasetSettings:
    """The settings that a caller asks for; what he leaves open has its default."""
    values: dict[str, Any] = {}
    if message.task != pb.TASK_UNSPECIFIED:
        # A number without a name is refused by its number.
        values["task"] = _TASKS.get(message.task, str(message.task))
    if message.HasField("ratios"):
        ratios = message.ratios
        values["ratios"] = {"train": ratios.train, "val": ratios.val, "test": ratios.test}
    for field in ("train_on_app_labels", "train_on_model_labels"):
        if message.HasField(field):
            values[field] = getattr(message, field)
    try:
        return DatasetSettings.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(("settings", *(str(part) for part in first["loc"])))
        raise InvalidInputError(f"{field}: {first['msg']}", field=field) from None


def _settings_message(settings: DatasetSettings) -> pb.DatasetSettings:
    return pb.DatasetSettings(
        task=_TASK_NUMBERS[settings.task],
        ratios=pb.SplitRatios(**settings.ratios.model_dump()),
        train_on_app_labels=settings.train_on_app_labels,
        train_on_model_labels=settings.train_on_model_labels,
    )


def snapshot_message(cut: Cut) -> pb.SnapshotReceipt:
    """A cut on the wire."""
    return pb.SnapshotReceipt(
        id=cut.manifest.id,
        created=cut.created,
        split_images=cut.manifest.split_images,
        groups=cut.manifest.groups,
        largest_group=cut.manifest.largest_group,
        left_out=cut.left_out,
    )


def format_named(number: pb.ExportRequest.Format) -> str:
    """The format asked for; a number without a name is refused by its number."""
    return (
        "csv"
        if number == pb.ExportRequest.FORMAT_UNSPECIFIED
        else _FORMATS.get(number, str(number))
    )

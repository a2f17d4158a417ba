import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AuthorKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    AUTHOR_KIND_UNSPECIFIED: _ClassVar[AuthorKind]
    AUTHOR_KIND_HUMAN: _ClassVar[AuthorKind]
    AUTHOR_KIND_IMPORT: _ClassVar[AuthorKind]
    AUTHOR_KIND_APP: _ClassVar[AuthorKind]
    AUTHOR_KIND_MODEL: _ClassVar[AuthorKind]

class Task(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TASK_UNSPECIFIED: _ClassVar[Task]
    TASK_CLASSIFICATION: _ClassVar[Task]
    TASK_MULTI_LABEL: _ClassVar[Task]
    TASK_DETECTION: _ClassVar[Task]

class EventKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EVENT_KIND_UNSPECIFIED: _ClassVar[EventKind]
    EVENT_KIND_LABEL: _ClassVar[EventKind]
    EVENT_KIND_RETRACT: _ClassVar[EventKind]
    EVENT_KIND_SKIP: _ClassVar[EventKind]
    EVENT_KIND_FLAG: _ClassVar[EventKind]
    EVENT_KIND_UNFLAG: _ClassVar[EventKind]
    EVENT_KIND_UNDO: _ClassVar[EventKind]
AUTHOR_KIND_UNSPECIFIED: AuthorKind
AUTHOR_KIND_HUMAN: AuthorKind
AUTHOR_KIND_IMPORT: AuthorKind
AUTHOR_KIND_APP: AuthorKind
AUTHOR_KIND_MODEL: AuthorKind
TASK_UNSPECIFIED: Task
TASK_CLASSIFICATION: Task
TASK_MULTI_LABEL: Task
TASK_DETECTION: Task
EVENT_KIND_UNSPECIFIED: EventKind
EVENT_KIND_LABEL: EventKind
EVENT_KIND_RETRACT: EventKind
EVENT_KIND_SKIP: EventKind
EVENT_KIND_FLAG: EventKind
EVENT_KIND_UNFLAG: EventKind
EVENT_KIND_UNDO: EventKind

class DatasetSettings(_message.Message):
    __slots__ = ("task", "ratios", "train_on_app_labels", "train_on_model_labels")
    TASK_FIELD_NUMBER: _ClassVar[int]
    RATIOS_FIELD_NUMBER: _ClassVar[int]
    TRAIN_ON_APP_LABELS_FIELD_NUMBER: _ClassVar[int]
    TRAIN_ON_MODEL_LABELS_FIELD_NUMBER: _ClassVar[int]
    task: Task
    ratios: SplitRatios
    train_on_app_labels: bool
    train_on_model_labels: bool
    def __init__(self, task: _Optional[_Union[Task, str]] = ..., ratios: _Optional[_Union[SplitRatios, _Mapping]] = ..., train_on_app_labels: bool = ..., train_on_model_labels: bool = ...) -> None: ...

class SplitRatios(_message.Message):
    __slots__ = ("train", "val", "test")
    TRAIN_FIELD_NUMBER: _ClassVar[int]
    VAL_FIELD_NUMBER: _ClassVar[int]
    TEST_FIELD_NUMBER: _ClassVar[int]
    train: float
    val: float
    test: float
    def __init__(self, train: _Optional[float] = ..., val: _Optional[float] = ..., test: _Optional[float] = ...) -> None: ...

class CreateDatasetRequest(_message.Message):
    __slots__ = ("name", "settings")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    name: str
    settings: DatasetSettings
    def __init__(self, name: _Optional[str] = ..., settings: _Optional[_Union[DatasetSettings, _Mapping]] = ...) -> None: ...

class Dataset(_message.Message):
    __slots__ = ("name", "classes", "images", "labelled", "created", "settings")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    LABELLED_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    name: str
    classes: _containers.RepeatedCompositeFieldContainer[LabelClass]
    images: int
    labelled: int
    created: _timestamp_pb2.Timestamp
    settings: DatasetSettings
    def __init__(self, name: _Optional[str] = ..., classes: _Optional[_Iterable[_Union[LabelClass, _Mapping]]] = ..., images: _Optional[int] = ..., labelled: _Optional[int] = ..., created: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., settings: _Optional[_Union[DatasetSettings, _Mapping]] = ...) -> None: ...

class LabelClass(_message.Message):
    __slots__ = ("id", "name")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class ListDatasetsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListDatasetsResponse(_message.Message):
    __slots__ = ("datasets",)
    DATASETS_FIELD_NUMBER: _ClassVar[int]
    datasets: _containers.RepeatedCompositeFieldContainer[Dataset]
    def __init__(self, datasets: _Optional[_Iterable[_Union[Dataset, _Mapping]]] = ...) -> None: ...

class Label(_message.Message):
    __slots__ = ("class_name",)
    CLASS_NAME_FIELD_NUMBER: _ClassVar[int]
    class_name: str
    def __init__(self, class_name: _Optional[str] = ...) -> None: ...

class Annotation(_message.Message):
    __slots__ = ("classes", "boxes", "shapes", "attributes", "note", "nothing_there", "weight", "probabilities")
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: AttributeValue
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[AttributeValue, _Mapping]] = ...) -> None: ...
    class ProbabilitiesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    BOXES_FIELD_NUMBER: _ClassVar[int]
    SHAPES_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    NOTHING_THERE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    classes: _containers.RepeatedCompositeFieldContainer[LabelClass]
    boxes: _containers.RepeatedCompositeFieldContainer[Box]
    shapes: _containers.RepeatedCompositeFieldContainer[Shape]
    attributes: _containers.MessageMap[str, AttributeValue]
    note: str
    nothing_there: bool
    weight: float
    probabilities: _containers.ScalarMap[str, float]
    def __init__(self, classes: _Optional[_Iterable[_Union[LabelClass, _Mapping]]] = ..., boxes: _Optional[_Iterable[_Union[Box, _Mapping]]] = ..., shapes: _Optional[_Iterable[_Union[Shape, _Mapping]]] = ..., attributes: _Optional[_Mapping[str, AttributeValue]] = ..., note: _Optional[str] = ..., nothing_there: bool = ..., weight: _Optional[float] = ..., probabilities: _Optional[_Mapping[str, float]] = ...) -> None: ...

class Box(_message.Message):
    __slots__ = ("label", "x", "y", "width", "height", "attributes")
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: AttributeValue
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[AttributeValue, _Mapping]] = ...) -> None: ...
    LABEL_FIELD_NUMBER: _ClassVar[int]
    X_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    label: LabelClass
    x: float
    y: float
    width: float
    height: float
    attributes: _containers.MessageMap[str, AttributeValue]
    def __init__(self, label: _Optional[_Union[LabelClass, _Mapping]] = ..., x: _Optional[float] = ..., y: _Optional[float] = ..., width: _Optional[float] = ..., height: _Optional[float] = ..., attributes: _Optional[_Mapping[str, AttributeValue]] = ...) -> None: ...

class Shape(_message.Message):
    __slots__ = ("label", "polygon", "mask")
    class Polygon(_message.Message):
        __slots__ = ("points",)
        POINTS_FIELD_NUMBER: _ClassVar[int]
        points: _containers.RepeatedScalarFieldContainer[float]
        def __init__(self, points: _Optional[_Iterable[float]] = ...) -> None: ...
    class Mask(_message.Message):
        __slots__ = ("counts", "height", "width")
        COUNTS_FIELD_NUMBER: _ClassVar[int]
        HEIGHT_FIELD_NUMBER: _ClassVar[int]
        WIDTH_FIELD_NUMBER: _ClassVar[int]
        counts: _containers.RepeatedScalarFieldContainer[int]
        height: int
        width: int
        def __init__(self, counts: _Optional[_Iterable[int]] = ..., height: _Optional[int] = ..., width: _Optional[int] = ...) -> None: ...
    LABEL_FIELD_NUMBER: _ClassVar[int]
    POLYGON_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    label: LabelClass
    polygon: Shape.Polygon
    mask: Shape.Mask
    def __init__(self, label: _Optional[_Union[LabelClass, _Mapping]] = ..., polygon: _Optional[_Union[Shape.Polygon, _Mapping]] = ..., mask: _Optional[_Union[Shape.Mask, _Mapping]] = ...) -> None: ...

class AttributeValue(_message.Message):
    __slots__ = ("text", "number")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    text: str
    number: float
    def __init__(self, text: _Optional[str] = ..., number: _Optional[float] = ...) -> None: ...

class SubmitImageRequest(_message.Message):
    __slots__ = ("dataset", "batch", "ordinal", "image", "label", "group", "attributes", "author_kind", "author", "source", "annotation")
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    DATASET_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    ORDINAL_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_KIND_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    ANNOTATION_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    batch: str
    ordinal: int
    image: bytes
    label: Label
    group: str
    attributes: _containers.ScalarMap[str, str]
    author_kind: AuthorKind
    author: str
    source: str
    annotation: Annotation
    def __init__(self, dataset: _Optional[str] = ..., batch: _Optional[str] = ..., ordinal: _Optional[int] = ..., image: _Optional[bytes] = ..., label: _Optional[_Union[Label, _Mapping]] = ..., group: _Optional[str] = ..., attributes: _Optional[_Mapping[str, str]] = ..., author_kind: _Optional[_Union[AuthorKind, str]] = ..., author: _Optional[str] = ..., source: _Optional[str] = ..., annotation: _Optional[_Union[Annotation, _Mapping]] = ...) -> None: ...

class SubmitImageReceipt(_message.Message):
    __slots__ = ("batch", "ordinal", "outcome", "sha256", "reason", "message", "field", "replayed")
    class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OUTCOME_UNSPECIFIED: _ClassVar[SubmitImageReceipt.Outcome]
        ACCEPTED: _ClassVar[SubmitImageReceipt.Outcome]
        DUPLICATE: _ClassVar[SubmitImageReceipt.Outcome]
        REJECTED: _ClassVar[SubmitImageReceipt.Outcome]
        QUARANTINED: _ClassVar[SubmitImageReceipt.Outcome]
    OUTCOME_UNSPECIFIED: SubmitImageReceipt.Outcome
    ACCEPTED: SubmitImageReceipt.Outcome
    DUPLICATE: SubmitImageReceipt.Outcome
    REJECTED: SubmitImageReceipt.Outcome
    QUARANTINED: SubmitImageReceipt.Outcome
    BATCH_FIELD_NUMBER: _ClassVar[int]
    ORDINAL_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    batch: str
    ordinal: int
    outcome: SubmitImageReceipt.Outcome
    sha256: str
    reason: str
    message: str
    field: str
    replayed: bool
    def __init__(self, batch: _Optional[str] = ..., ordinal: _Optional[int] = ..., outcome: _Optional[_Union[SubmitImageReceipt.Outcome, str]] = ..., sha256: _Optional[str] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., field: _Optional[str] = ..., replayed: bool = ...) -> None: ...

class SubmitLabelRequest(_message.Message):
    __slots__ = ("dataset", "sha256", "label", "event_id", "author_kind", "author", "base_sequence", "kind", "annotation", "undoes", "note", "suggested_by", "suggestion", "seconds")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_KIND_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    BASE_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    ANNOTATION_FIELD_NUMBER: _ClassVar[int]
    UNDOES_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    SUGGESTED_BY_FIELD_NUMBER: _ClassVar[int]
    SUGGESTION_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    sha256: str
    label: Label
    event_id: str
    author_kind: AuthorKind
    author: str
    base_sequence: int
    kind: EventKind
    annotation: Annotation
    undoes: int
    note: str
    suggested_by: str
    suggestion: str
    seconds: float
    def __init__(self, dataset: _Optional[str] = ..., sha256: _Optional[str] = ..., label: _Optional[_Union[Label, _Mapping]] = ..., event_id: _Optional[str] = ..., author_kind: _Optional[_Union[AuthorKind, str]] = ..., author: _Optional[str] = ..., base_sequence: _Optional[int] = ..., kind: _Optional[_Union[EventKind, str]] = ..., annotation: _Optional[_Union[Annotation, _Mapping]] = ..., undoes: _Optional[int] = ..., note: _Optional[str] = ..., suggested_by: _Optional[str] = ..., suggestion: _Optional[str] = ..., seconds: _Optional[float] = ...) -> None: ...

class SubmitLabelReceipt(_message.Message):
    __slots__ = ("sequence", "class_id", "current", "state", "label_sequence")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    CURRENT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    LABEL_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    class_id: str
    current: bool
    state: str
    label_sequence: int
    def __init__(self, sequence: _Optional[int] = ..., class_id: _Optional[str] = ..., current: bool = ..., state: _Optional[str] = ..., label_sequence: _Optional[int] = ...) -> None: ...

class CreateSnapshotRequest(_message.Message):
    __slots__ = ("dataset",)
    DATASET_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    def __init__(self, dataset: _Optional[str] = ...) -> None: ...

class SnapshotReceipt(_message.Message):
    __slots__ = ("id", "created", "split_images", "groups", "largest_group", "left_out")
    class SplitImagesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class LeftOutEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    SPLIT_IMAGES_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    LARGEST_GROUP_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    id: str
    created: bool
    split_images: _containers.ScalarMap[str, int]
    groups: int
    largest_group: int
    left_out: _containers.ScalarMap[str, int]
    def __init__(self, id: _Optional[str] = ..., created: bool = ..., split_images: _Optional[_Mapping[str, int]] = ..., groups: _Optional[int] = ..., largest_group: _Optional[int] = ..., left_out: _Optional[_Mapping[str, int]] = ...) -> None: ...

class ExportLabelsRequest(_message.Message):
    __slots__ = ("dataset",)
    DATASET_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    def __init__(self, dataset: _Optional[str] = ...) -> None: ...

class ExportedLabel(_message.Message):
    __slots__ = ("sha256", "class_id", "class_name", "split", "group", "attributes", "author_kind", "author", "source", "labelled", "sequence", "disputed", "annotation")
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SHA256_FIELD_NUMBER: _ClassVar[int]
    CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    CLASS_NAME_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_KIND_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    LABELLED_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    DISPUTED_FIELD_NUMBER: _ClassVar[int]
    ANNOTATION_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    class_id: str
    class_name: str
    split: str
    group: str
    attributes: _containers.ScalarMap[str, str]
    author_kind: AuthorKind
    author: str
    source: str
    labelled: _timestamp_pb2.Timestamp
    sequence: int
    disputed: bool
    annotation: Annotation
    def __init__(self, sha256: _Optional[str] = ..., class_id: _Optional[str] = ..., class_name: _Optional[str] = ..., split: _Optional[str] = ..., group: _Optional[str] = ..., attributes: _Optional[_Mapping[str, str]] = ..., author_kind: _Optional[_Union[AuthorKind, str]] = ..., author: _Optional[str] = ..., source: _Optional[str] = ..., labelled: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., sequence: _Optional[int] = ..., disputed: bool = ..., annotation: _Optional[_Union[Annotation, _Mapping]] = ...) -> None: ...

class ExportRequest(_message.Message):
    __slots__ = ("dataset", "format", "snapshot")
    class Format(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        FORMAT_UNSPECIFIED: _ClassVar[ExportRequest.Format]
        CSV: _ClassVar[ExportRequest.Format]
        COCO: _ClassVar[ExportRequest.Format]
        YOLO: _ClassVar[ExportRequest.Format]
        FOLDER: _ClassVar[ExportRequest.Format]
    FORMAT_UNSPECIFIED: ExportRequest.Format
    CSV: ExportRequest.Format
    COCO: ExportRequest.Format
    YOLO: ExportRequest.Format
    FOLDER: ExportRequest.Format
    DATASET_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    format: ExportRequest.Format
    snapshot: str
    def __init__(self, dataset: _Optional[str] = ..., format: _Optional[_Union[ExportRequest.Format, str]] = ..., snapshot: _Optional[str] = ...) -> None: ...

class ExportPiece(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class GetHistoryRequest(_message.Message):
    __slots__ = ("dataset", "sha256")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    sha256: str
    def __init__(self, dataset: _Optional[str] = ..., sha256: _Optional[str] = ...) -> None: ...

class GetHistoryResponse(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[LabelEvent]
    def __init__(self, events: _Optional[_Iterable[_Union[LabelEvent, _Mapping]]] = ...) -> None: ...

class LabelEvent(_message.Message):
    __slots__ = ("sequence", "event_id", "class_id", "class_name", "author_kind", "author", "at", "current", "kind", "annotation", "note", "undoes", "undone", "applied", "suggested_by", "suggestion", "said_at")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    CLASS_NAME_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_KIND_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    CURRENT_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    ANNOTATION_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    UNDOES_FIELD_NUMBER: _ClassVar[int]
    UNDONE_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    SUGGESTED_BY_FIELD_NUMBER: _ClassVar[int]
    SUGGESTION_FIELD_NUMBER: _ClassVar[int]
    SAID_AT_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    event_id: str
    class_id: str
    class_name: str
    author_kind: AuthorKind
    author: str
    at: _timestamp_pb2.Timestamp
    current: bool
    kind: EventKind
    annotation: Annotation
    note: str
    undoes: int
    undone: bool
    applied: bool
    suggested_by: str
    suggestion: str
    said_at: _timestamp_pb2.Timestamp
    def __init__(self, sequence: _Optional[int] = ..., event_id: _Optional[str] = ..., class_id: _Optional[str] = ..., class_name: _Optional[str] = ..., author_kind: _Optional[_Union[AuthorKind, str]] = ..., author: _Optional[str] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., current: bool = ..., kind: _Optional[_Union[EventKind, str]] = ..., annotation: _Optional[_Union[Annotation, _Mapping]] = ..., note: _Optional[str] = ..., undoes: _Optional[int] = ..., undone: bool = ..., applied: bool = ..., suggested_by: _Optional[str] = ..., suggestion: _Optional[str] = ..., said_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

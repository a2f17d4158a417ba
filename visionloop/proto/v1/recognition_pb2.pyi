from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RecognizeRequest(_message.Message):
    __slots__ = ("model", "version", "images", "top_k", "routing_key", "priority")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    ROUTING_KEY_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    images: _containers.RepeatedCompositeFieldContainer[EncodedImage]
    top_k: int
    routing_key: str
    priority: int
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., images: _Optional[_Iterable[_Union[EncodedImage, _Mapping]]] = ..., top_k: _Optional[int] = ..., routing_key: _Optional[str] = ..., priority: _Optional[int] = ...) -> None: ...

class EncodedImage(_message.Message):
    __slots__ = ("data", "id")
    DATA_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    id: str
    def __init__(self, data: _Optional[bytes] = ..., id: _Optional[str] = ...) -> None: ...

class RecognizeResponse(_message.Message):
    __slots__ = ("model", "version", "results")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    results: _containers.RepeatedCompositeFieldContainer[ImageResult]
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., results: _Optional[_Iterable[_Union[ImageResult, _Mapping]]] = ...) -> None: ...

class ImageResult(_message.Message):
    __slots__ = ("image_id", "status", "prediction_id", "width", "height", "classification", "multi_label")
    IMAGE_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_ID_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    CLASSIFICATION_FIELD_NUMBER: _ClassVar[int]
    MULTI_LABEL_FIELD_NUMBER: _ClassVar[int]
    image_id: str
    status: ImageStatus
    prediction_id: str
    width: int
    height: int
    classification: Classification
    multi_label: MultiLabel
    def __init__(self, image_id: _Optional[str] = ..., status: _Optional[_Union[ImageStatus, _Mapping]] = ..., prediction_id: _Optional[str] = ..., width: _Optional[int] = ..., height: _Optional[int] = ..., classification: _Optional[_Union[Classification, _Mapping]] = ..., multi_label: _Optional[_Union[MultiLabel, _Mapping]] = ...) -> None: ...

class ImageStatus(_message.Message):
    __slots__ = ("code", "reason", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: int
    reason: str
    message: str
    def __init__(self, code: _Optional[int] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class Classification(_message.Message):
    __slots__ = ("labels", "not_sure", "threshold", "not_sure_reason")
    LABELS_FIELD_NUMBER: _ClassVar[int]
    NOT_SURE_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    NOT_SURE_REASON_FIELD_NUMBER: _ClassVar[int]
    labels: _containers.RepeatedCompositeFieldContainer[ScoredLabel]
    not_sure: bool
    threshold: float
    not_sure_reason: str
    def __init__(self, labels: _Optional[_Iterable[_Union[ScoredLabel, _Mapping]]] = ..., not_sure: bool = ..., threshold: _Optional[float] = ..., not_sure_reason: _Optional[str] = ...) -> None: ...

class ScoredLabel(_message.Message):
    __slots__ = ("class_id", "name", "probability")
    CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    class_id: str
    name: str
    probability: float
    def __init__(self, class_id: _Optional[str] = ..., name: _Optional[str] = ..., probability: _Optional[float] = ...) -> None: ...

class MultiLabel(_message.Message):
    __slots__ = ("labels", "not_sure", "not_sure_reason")
    LABELS_FIELD_NUMBER: _ClassVar[int]
    NOT_SURE_FIELD_NUMBER: _ClassVar[int]
    NOT_SURE_REASON_FIELD_NUMBER: _ClassVar[int]
    labels: _containers.RepeatedCompositeFieldContainer[LabelAnswer]
    not_sure: bool
    not_sure_reason: str
    def __init__(self, labels: _Optional[_Iterable[_Union[LabelAnswer, _Mapping]]] = ..., not_sure: bool = ..., not_sure_reason: _Optional[str] = ...) -> None: ...

class LabelAnswer(_message.Message):
    __slots__ = ("class_id", "name", "probability", "threshold", "present")
    CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    PRESENT_FIELD_NUMBER: _ClassVar[int]
    class_id: str
    name: str
    probability: float
    threshold: float
    present: bool
    def __init__(self, class_id: _Optional[str] = ..., name: _Optional[str] = ..., probability: _Optional[float] = ..., threshold: _Optional[float] = ..., present: bool = ...) -> None: ...

class RecognizeStreamResponse(_message.Message):
    __slots__ = ("status", "response", "retry_after_seconds")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_SECONDS_FIELD_NUMBER: _ClassVar[int]
    status: ImageStatus
    response: RecognizeResponse
    retry_after_seconds: float
    def __init__(self, status: _Optional[_Union[ImageStatus, _Mapping]] = ..., response: _Optional[_Union[RecognizeResponse, _Mapping]] = ..., retry_after_seconds: _Optional[float] = ...) -> None: ...

class SubmitFeedbackRequest(_message.Message):
    __slots__ = ("id", "prediction_id", "class_id", "wrong", "classes", "image", "image_sha256", "note")
    ID_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_ID_FIELD_NUMBER: _ClassVar[int]
    CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    WRONG_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_SHA256_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    id: str
    prediction_id: str
    class_id: str
    wrong: bool
    classes: ClassSet
    image: bytes
    image_sha256: str
    note: str
    def __init__(self, id: _Optional[str] = ..., prediction_id: _Optional[str] = ..., class_id: _Optional[str] = ..., wrong: bool = ..., classes: _Optional[_Union[ClassSet, _Mapping]] = ..., image: _Optional[bytes] = ..., image_sha256: _Optional[str] = ..., note: _Optional[str] = ...) -> None: ...

class ClassSet(_message.Message):
    __slots__ = ("class_ids",)
    CLASS_IDS_FIELD_NUMBER: _ClassVar[int]
    class_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, class_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class SubmitFeedbackResponse(_message.Message):
    __slots__ = ("id", "created", "unknown_class_ids")
    ID_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_CLASS_IDS_FIELD_NUMBER: _ClassVar[int]
    id: str
    created: bool
    unknown_class_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, id: _Optional[str] = ..., created: bool = ..., unknown_class_ids: _Optional[_Iterable[str]] = ...) -> None: ...

"""Feedback on predictions: objects in a store's inbox, which inference writes and ingest drains.

    inbox/feedback/<uuid>    one line of JSON (FeedbackHeader), a line end, the image's bytes if any

One object holds all, so it is there whole or not at all, and `head -n 1` shows what it says. The
name is the caller's own UUID and is written only where there is none: a call that is repeated after
a broken connection counts once, and other content under the same UUID is a conflict. What was
drained is gone from the inbox; whoever drains remembers the UUIDs (they name label events) for
callers that come back late.

Whatever stands here came from outside: readers check it again, and take no label from it into
validation or test data.
"""

import hashlib
import uuid
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    AwareDatetime,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from visionloop.errors import (
    ConflictError,
    CorruptError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
)
from visionloop.objectstore import ObjectStore
from visionloop.prediction_id import PredictionId
from visionloop.record import Record, Sha256, parse_record

FOLDER = "inbox/feedback/"
LONGEST_NOTE = 2000  # characters
LONGEST_CLASS_ID = 200
MOST_CLASS_IDS = 64  # of one image
LARGEST_HEADER = 128 * 1024  # bytes; the longest note and ids, escaped, fit

_ROUNDS = 8  # of a write that finds it there and a look that does not; a drain in between is one

ClassId = Annotated[str, Field(min_length=1, max_length=LONGEST_CLASS_ID)]


class FeedbackImage(Record):
    """The image that was predicted. `inline` says that its bytes follow the header."""

    sha256: Sha256
    size: Annotated[int, Field(ge=1)] | None = None
    inline: bool

    @model_validator(mode="after")
    def _size_of_what_follows(self) -> "FeedbackImage":
        if self.inline != (self.size is not None):
            raise ValueError("size is that of the bytes that follow, and there only when they do")
        return self


class FeedbackHeader(Record):
    """The first line. `verdict` is "class" with a class_id, "classes" with class_ids (all that the
    image shows, of a model of any number of classes; none: none of its classes), or "wrong".

    `class_ids` is written only where it is set, so other feedback is as it was before there were
    any; a reader that does not know them refuses them.
    """

    format_version: Literal[1] = 1
    kind: Literal["visionloop.feedback"] = "visionloop.feedback"
    id: str
    prediction_id: str
    verdict: Literal["class", "classes", "wrong"]
    class_id: ClassId | None = None
    class_ids: Annotated[tuple[ClassId, ...], Field(max_length=MOST_CLASS_IDS)] | None = None
    image: FeedbackImage
    note: Annotated[str, Field(max_length=LONGEST_NOTE)] = ""
    caller: str = ""  # whose token it was; empty on a server without tokens
    received: AwareDatetime

    @model_validator(mode="after")
    def _parts_fit(self) -> "FeedbackHeader":
        if (self.verdict == "class") != (self.class_id is not None):
            raise ValueError("class_id belongs to the verdict class, and to no other")
        if (self.verdict == "classes") != (self.class_ids is not None):
            raise ValueError("class_ids belong to the verdict classes, and to no other")
        if len(set(self.class_ids or ())) != len(self.class_ids or ()):
            raise ValueError("class_ids holds a class twice")
        check_id(self.id)
        PredictionId.parse(self.prediction_id)
        return self

    @property
    def shown(self) -> tuple[str, ...] | None:
        """The classes that the image shows; None where nobody said so."""
        return self.class_ids if self.class_id is None else (self.class_id,)

    @model_serializer(mode="wrap")
    def _without_no_class_ids(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = serialize(self)
        if self.class_ids is None:
            fields.pop("class_ids", None)
        return fields


@dataclass(frozen=True, slots=True)
class Feedback:
    """One feedback: what it says, and the encoded image where it was sent along."""

    header: FeedbackHeader
    image: bytes | None

    @property
    def prediction(self) -> PredictionId:
        """The prediction that it is about."""
        return PredictionId.parse(self.header.prediction_id)

    def to_bytes(self) -> bytes:
        """The object's content."""
        line = self.header.model_dump_json().encode()
        return line + b"\n" + (self.image or b"")

    def same_as(self, other: "Feedback") -> bool:
        """Whether both say the same; when they were received does not count."""
        mine, theirs = (f.header.model_dump(exclude={"received"}) for f in (self, other))
        return mine == theirs and self.image == other.image


def parse_feedback(data: bytes, name: str) -> Feedback:
    """The feedback in an object's bytes. Raises CorruptError naming `name` for what is torn, was
    altered, or is of a format version not known here."""
    end = data.find(b"\n", 0, LARGEST_HEADER)
    if end < 0:
        raise CorruptError(f"{name} is torn or not ours: it does not begin with a line of JSON")
    try:
        header = parse_record(FeedbackHeader, data[:end], name)
    except InvalidInputError as error:
        raise CorruptError(f"{name} is torn or not ours: {error}") from None
    image = data[end + 1 :]
    said = header.image
    if len(image) != (said.size or 0):
        raise CorruptError(
            f"{name} is torn: {len(image)} bytes follow its header, which says {said.size or 0}"
        )
    if not said.inline:
        return Feedback(header, None)
    if hashlib.sha256(image).hexdigest() != said.sha256:
        raise CorruptError(f"{name}: the image does not agree with the sha256 in its header")
    return Feedback(header, image)


def feedback_key(feedback_id: str) -> str:
    """Where the feedback of this UUID lies. Raises InvalidInputError."""
    return f"{FOLDER}{check_id(feedback_id)}"


def store_feedback(store: ObjectStore, feedback: Feedback) -> bool:
    """Writes it, once. True when it is new, False when the very same was there already.

    Durable when this returns. Raises ConflictError when the UUID stands for other content,
    UnavailableError for a store that has it and has it not, and what the store raises.
    """
    key = feedback_key(feedback.header.id)
    data = feedback.to_bytes()
    for _ in range(_ROUNDS):
        try:
            store.put_if_absent(key, data)
        except ConflictError:
            try:
                there = parse_feedback(store.get(key).data, key)
            except NotFoundError:
                continue  # drained since: what was there cannot be compared, so it is put again
            if there.same_as(feedback):
                return False
            raise ConflictError(
                f"feedback {feedback.header.id} was sent before with other content; a new "
                "feedback needs a new id"
            ) from None
        return True
    raise UnavailableError(
        f"{store.url}/{key} is there to whoever writes it, and not there to whoever reads it; try "
        "again, and look at the store if that goes on"
    )


def check_id(text: str) -> str:
    """A UUID in its usual form (8-4-4-4-12 lower-case hex digits). Raises InvalidInputError."""
    try:
        usual: str | None = str(uuid.UUID(text))
    except ValueError:
        usual = None
    if usual != text:
        raise InvalidInputError(
            f"id is {text[:80]!r}; it must be a UUID as 123e4567-e89b-42d3-a456-426614174000",
            field="id",
        )
    return text

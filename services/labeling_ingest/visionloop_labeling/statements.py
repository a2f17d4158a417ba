"""What goes into the label log and what comes back: somebody's word about an image, and the answer.

Checked here is what can be told without the image and its dataset; the rest is the log's.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from visionloop.errors import ConflictError, InvalidInputError
from visionloop_labeling import validation
from visionloop_labeling.annotation import Annotation, Draft
from visionloop_labeling.fold import AuthorKind, EventKind, ItemState

SUGGESTION_OUTCOMES: Final = ("accepted", "edited", "rejected")
MAX_SECONDS: Final = 86_400.0


class StaleLabelError(ConflictError):
    """The image's label, or what was to be undone, changed since its author read it."""

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(message)
        self.field = field

    @property
    def reason(self) -> str:
        return "conflict"


@dataclass(frozen=True, slots=True)
class Statement:
    """Somebody's word about an image. `annotation` is for labels, `undoes` for undos."""

    author_kind: AuthorKind
    author: str
    kind: EventKind = EventKind.LABEL
    annotation: Annotation | Draft | None = None
    # The UUID that makes repeating it harmless; None where something else does.
    event_id: str | None = None
    # The sequence of the label the author saw (0: none), if that matters to him.
    base_sequence: int | None = None
    # True for the label of a submitted row, which may not know of the label that is there.
    from_row: bool = False
    # The sequence of the own event to take back; None: the last one.
    undoes: int | None = None
    note: str = ""
    # The model version whose suggestion the author saw ("name:7"), and what he did with it.
    suggested_by: str = ""
    suggestion: str = ""
    # How long the author looked at it.
    seconds: float | None = None
    # When it was said, where that is not now.
    said_at: datetime | None = None
    # Whether the author may decide what is in review, and take labels away.
    may_review: bool = True


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of a statement. `disagrees_with` says which label it contradicts, in words.

    `applied` is False when the event changed nothing that counts, `outdated` when that is because
    something newer stands; `state` and `label_sequence` are the image's after it.
    """

    sequence: int
    class_key: str
    applied: bool
    state: ItemState
    label_sequence: int
    replayed: bool = False
    disagrees_with: str = ""
    outdated: bool = False


def author_kind_named(value: str) -> AuthorKind:
    """The kind of author of this name. Raises InvalidInputError."""
    try:
        return AuthorKind(value)
    except ValueError as error:
        raise InvalidInputError(
            f"author_kind {value!r} is not known; use one of {', '.join(AuthorKind)}",
            field="author_kind",
        ) from error


def suggestion_named(value: str) -> str:
    """What an author did with a suggestion. Raises InvalidInputError."""
    if value not in ("", *SUGGESTION_OUTCOMES):
        raise InvalidInputError(
            f"suggestion is {value[:20]!a}; use one of {', '.join(SUGGESTION_OUTCOMES)}",
            field="suggestion",
        )
    return value


def checked_seconds(value: float) -> float:
    """How long an author looked. Raises InvalidInputError."""
    if not 0.0 <= value <= MAX_SECONDS:
        raise InvalidInputError(
            f"seconds is {value:g}; it must be from 0 to {MAX_SECONDS:g}", field="seconds"
        )
    return value


def statement(
    *,
    event_id: str,
    author_kind: str,
    author: str,
    class_name: str = "",
    draft: Draft | None = None,
    base_sequence: int | None = None,
    may_review: bool = True,
) -> Statement:
    """A label from outside, validated. Without an event_id, repeating it records it again."""
    if draft is None:
        draft = Draft(classes=(validation.text(class_name, "label"),))
    return Statement(
        annotation=draft,
        event_id=validation.event_id(event_id) if event_id else None,
        author_kind=author_kind_named(author_kind),
        author=validation.text(author, "author", required=False),
        base_sequence=base_sequence,
        may_review=may_review,
    )

"""What was said: of one image, oldest first; in a dataset, newest first."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from visionloop_labeling import datasets, labels, validation
from visionloop_labeling.annotation import stored_class_ids
from visionloop_labeling.classes import ClassBook
from visionloop_labeling.fold import AuthorKind, EventKind
from visionloop_labeling.schema import Dataset, Item, LabelEvent, LabelHead

MAX_EVENTS: Final = 1000


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One event. Its annotation is as it was said; `names` are those its classes have now.

    `current`: it is the image's label. `undone`: its author took it back. `said_at`: when it was
    said, where it waited before it was recorded.
    """

    sequence: int
    event_id: str
    sha256: str
    kind: EventKind
    annotation: dict[str, Any] | None
    class_key: str
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
    said_at: datetime | None
    names: Mapping[str, str]


def of_image(session: Session, dataset_name: str, sha256: str) -> list[HistoryEntry]:
    """Every event of an image, oldest first. Raises NotFoundError."""
    dataset = datasets.find(session, validation.dataset_name(dataset_name))
    item = labels.find_item(session, dataset, validation.sha256(sha256))
    query = select(LabelEvent).where(LabelEvent.item_id == item.id).order_by(LabelEvent.sequence)
    return _entries(session, dataset, session.scalars(query).all())


def recent(
    session: Session, dataset: Dataset, *, author: str | None = None, limit: int = 100
) -> list[HistoryEntry]:
    """The last events of a dataset, or of one author in it, newest first."""
    query = select(LabelEvent).where(LabelEvent.dataset_id == dataset.id)
    if author is not None:
        query = query.where(LabelEvent.author == author)
    query = query.order_by(LabelEvent.sequence.desc()).limit(min(limit, MAX_EVENTS))
    return _entries(session, dataset, session.scalars(query).all())


def _entries(
    session: Session, dataset: Dataset, events: Sequence[LabelEvent]
) -> list[HistoryEntry]:
    item_ids = {event.item_id for event in events}
    digests = _digests(session, item_ids)
    heads = set(
        session.scalars(select(LabelHead.event_row_id).where(LabelHead.item_id.in_(item_ids)))
    )
    undone = set(
        session.scalars(
            select(LabelEvent.undoes).where(
                LabelEvent.item_id.in_(item_ids), LabelEvent.kind == EventKind.UNDO
            )
        )
    )
    book = ClassBook(session, dataset)
    named = {event.id: stored_class_ids(event.annotation) for event in events}
    book.learn_named(event.annotation for event in events if event.annotation)
    keys = {event_id: (found or ("",))[0] for event_id, found in named.items()}
    return [
        HistoryEntry(
            sequence=event.sequence,
            event_id=event.event_id,
            sha256=digests[event.item_id],
            kind=EventKind(event.kind),
            annotation=event.annotation,
            class_key=keys[event.id],
            class_name=book.name_of(keys[event.id]) if keys[event.id] else "",
            author_kind=AuthorKind(event.author_kind),
            author=event.author,
            at=event.at,
            current=event.id in heads,
            applied=event.applied,
            undone=event.sequence in undone,
            undoes=event.undoes,
            base_sequence=event.base_sequence,
            note=event.note,
            suggested_by=event.suggested_by,
            suggestion=event.suggestion,
            seconds=event.seconds,
            said_at=event.said_at,
            names={key: book.name_of(key) for key in (*named[event.id], *_possible(event))},
        )
        for event in events
    ]


def _possible(event: LabelEvent) -> Iterable[str]:
    """The classes that its soft label names."""
    found: Mapping[str, float] = (event.annotation or {}).get("probabilities", {})
    return found


def _digests(session: Session, item_ids: Iterable[int]) -> dict[int, str]:
    query = select(Item.id, Item.sha256).where(Item.id.in_(list(item_ids)))
    return dict(session.execute(query).tuples().all())

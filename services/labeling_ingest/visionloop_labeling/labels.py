"""The label log: events are appended, the current label is a fold over them.

Who may replace whom: a person's word stands above an import's, an import's above an app's, an
app's above a model's. An event becomes the current label if its author ranks at least as high as
the one before; otherwise it is kept in the history and marks the label as disputed. So feedback
never overwrites a person's decision, and importing an old table again does not undo corrections.

The label is also disputed when two rows bring the same image with different classes: the later row
counts (rank permitting), and the dispute stays visible in exports and history until somebody who
may decide sends a label for the image.

Only labels of people and imports are "accepted": they give a group its split.
"""

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from visionloop.errors import ConflictError, InvalidInputError, NotFoundError
from visionloop.telemetry import labeling as metrics
from visionloop_labeling import datasets, validation
from visionloop_labeling.database import Database
from visionloop_labeling.schema import (
    Dataset,
    ImageGroup,
    Item,
    LabelClass,
    LabelEvent,
    LabelHead,
    SplitCount,
)
from visionloop_labeling.splits import choose_split


class AuthorKind(StrEnum):
    """Who says it."""

    HUMAN = "human"
    IMPORT = "import"
    APP = "app"
    MODEL = "model"

    @property
    def rank(self) -> int:
        """Who may replace whom."""
        return _RANKS[self]

    @property
    def accepted(self) -> bool:
        """Whether such a label may stand in any split and gives a group its split."""
        return self in (AuthorKind.HUMAN, AuthorKind.IMPORT)


_RANKS: Final = {
    AuthorKind.MODEL: 0,
    AuthorKind.APP: 1,
    AuthorKind.IMPORT: 2,
    AuthorKind.HUMAN: 3,
}


@dataclass(frozen=True, slots=True)
class Statement:
    """Somebody says what an image shows."""

    class_name: str
    author_kind: AuthorKind
    author: str
    # The UUID that makes repeating it harmless; None where something else does.
    event_id: str | None = None
    # The sequence of the label the author saw (0: none), if that matters to him.
    base_sequence: int | None = None
    # True for the label of a submitted row, which may not know of the label that is there.
    from_row: bool = False


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of a statement. `disagrees_with` is the class that it contradicts, if any."""

    sequence: int
    class_key: str
    applied: bool
    replayed: bool = False
    disagrees_with: str = ""


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One event of an image's history."""

    sequence: int
    event_id: str
    class_key: str
    class_name: str
    author_kind: AuthorKind
    author: str
    at: datetime
    current: bool


def author_kind_named(value: str) -> AuthorKind:
    """The kind of author of this name. Raises InvalidInputError."""
    try:
        return AuthorKind(value)
    except ValueError as error:
        raise InvalidInputError(
            f"author_kind {value!r} is not known; use one of {', '.join(AuthorKind)}",
            field="author_kind",
        ) from error


class LabelLog:
    """The label log of one dataset within one transaction. The dataset is locked."""

    def __init__(self, session: Session, dataset: Dataset) -> None:
        self._session = session
        self._dataset = dataset
        # The session forgets what nobody holds, and would ask the database again for each row.
        self._classes: dict[str, LabelClass] = {}
        self._counts: dict[int, dict[str, SplitCount]] = {}
        self._recorded: list[AuthorKind] = []

    def measure(self) -> None:
        """Counts the events in the metrics, once the transaction is committed."""
        for kind in self._recorded:
            metrics.LABEL_EVENTS.labels(kind).inc()

    def class_named(self, name: str) -> LabelClass:
        """The class of this (validated) name; an unknown one is added."""
        if name not in self._classes:
            self._classes[name] = datasets.class_named(self._session, self._dataset, name)
        return self._classes[name]

    def record(self, item: Item, statement: Statement) -> Recorded:
        """Appends the statement and folds it in.

        The same event_id is recorded once: repeating it gives the first answer. Raises
        ConflictError when it was used for something else, or when the label changed since
        `base_sequence`.
        """
        if statement.event_id is not None:
            earlier = _recorded_before(self._session, item, statement, statement.event_id)
            if earlier is not None:
                return earlier
        head = self._session.get(LabelHead, item.id)
        _check_base(self._session, head, statement)
        named = self.class_named(statement.class_name)
        event = self._append(item, head, named, statement)
        contradicted = ""
        if head is not None and head.class_id != named.id:
            contradicted = self._session.get_one(LabelClass, head.class_id).name
        if head is None or event.applied:
            head = self._apply(item, head, event)
        _settle_dispute(head, statement, event, contradicts=bool(contradicted))
        self._recorded.append(statement.author_kind)
        return Recorded(event.sequence, named.key, event.applied, disagrees_with=contradicted)

    def _append(
        self, item: Item, head: LabelHead | None, named: LabelClass, statement: Statement
    ) -> LabelEvent:
        self._dataset.last_sequence += 1
        event = LabelEvent(
            event_id=statement.event_id or str(uuid.uuid4()),
            dataset_id=self._dataset.id,
            sequence=self._dataset.last_sequence,
            item_id=item.id,
            class_id=named.id,
            annotation={"classes": [named.key]},
            author_kind=statement.author_kind,
            author=statement.author,
            base_sequence=statement.base_sequence,
            applied=_applies(head, named, statement),
            at=datetime.now(UTC),
        )
        self._session.add(event)
        self._session.flush()
        return event

    def _apply(self, item: Item, head: LabelHead | None, event: LabelEvent) -> LabelHead:
        group = self._session.get_one(ImageGroup, item.group_id)
        if head is None:
            self._dataset.labelled += 1
            head = LabelHead(item_id=item.id, disputed=False)
            self._session.add(head)
        elif AuthorKind(head.author_kind).accepted and group.split is not None:
            self._count(head.class_id, group.split, -1)
        head.event_row_id = event.id
        head.sequence = event.sequence
        head.class_id = event.class_id
        head.annotation = event.annotation or {}
        head.author_kind = event.author_kind
        if AuthorKind(event.author_kind).accepted:
            if group.split is None:
                self._give_split(group, event)
            self._count(event.class_id, str(group.split), +1)
        return head

    def _give_split(self, group: ImageGroup, event: LabelEvent) -> None:
        stored = {} if event.class_id is None else self._counts_of(event.class_id)
        counts = {split: one.images for split, one in stored.items()}
        ratios = datasets.settings_of(self._dataset).ratios
        # The dataset's name is the salt: the same import elsewhere gives the same splits.
        salt = self._dataset.name
        group.split = choose_split(counts, 1, ratios, salt=salt, group=group.key)
        group.split_sequence = event.sequence

    def _count(self, class_id: int | None, split: str, change: int) -> None:
        if class_id is None:
            return
        counts = self._counts_of(class_id)
        if split not in counts:
            counts[split] = SplitCount(class_id=class_id, split=split, images=0)
            self._session.add(counts[split])
        counts[split].images += change

    def _counts_of(self, class_id: int) -> dict[str, SplitCount]:
        if class_id not in self._counts:
            query = select(SplitCount).where(SplitCount.class_id == class_id)
            self._counts[class_id] = {one.split: one for one in self._session.scalars(query)}
        return self._counts[class_id]


def find_item(session: Session, dataset: Dataset, sha256: str) -> Item:
    """The image of this digest. Raises NotFoundError."""
    item = session.scalar(select(Item).where(Item.dataset_id == dataset.id, Item.sha256 == sha256))
    if item is None:
        raise NotFoundError(
            f'dataset "{dataset.name}" has no image {sha256}; submit the image first'
        )
    return item


def submit(database: Database, dataset_name: str, sha256: str, statement: Statement) -> Recorded:
    """A label for an image that is there: validates, locks and records."""
    with database.write() as session:
        dataset = datasets.find(session, validation.dataset_name(dataset_name), lock=True)
        item = find_item(session, dataset, validation.sha256(sha256))
        log = LabelLog(session, dataset)
        recorded = log.record(item, statement)
    log.measure()
    return recorded


def statement(
    *,
    event_id: str,
    class_name: str,
    author_kind: str,
    author: str,
    base_sequence: int | None = None,
) -> Statement:
    """A statement from outside, validated. Without an event_id, repeating it records it again."""
    return Statement(
        event_id=validation.event_id(event_id) if event_id else None,
        class_name=validation.text(class_name, "label"),
        author_kind=author_kind_named(author_kind),
        author=validation.text(author, "author", required=False),
        base_sequence=base_sequence,
    )


def history(session: Session, dataset_name: str, sha256: str) -> list[HistoryEntry]:
    """Every label event of an image, oldest first. Raises NotFoundError."""
    dataset = datasets.find(session, validation.dataset_name(dataset_name))
    item = find_item(session, dataset, validation.sha256(sha256))
    head = session.get(LabelHead, item.id)
    query = (
        select(LabelEvent, LabelClass)
        .join(LabelClass, LabelClass.id == LabelEvent.class_id)
        .where(LabelEvent.item_id == item.id)
        .order_by(LabelEvent.sequence)
    )
    return [
        HistoryEntry(
            sequence=event.sequence,
            event_id=event.event_id,
            class_key=named.key,
            class_name=named.name,
            author_kind=AuthorKind(event.author_kind),
            author=event.author,
            at=event.at,
            current=head is not None and head.event_row_id == event.id,
        )
        for event, named in session.execute(query).tuples()
    ]


def _recorded_before(
    session: Session, item: Item, statement: Statement, event_id: str
) -> Recorded | None:
    event = session.scalar(select(LabelEvent).where(LabelEvent.event_id == event_id))
    if event is None:
        return None
    named = session.get_one(LabelClass, event.class_id)
    same = (event.item_id, named.name, event.author_kind, event.author, event.base_sequence) == (
        item.id,
        statement.class_name,
        statement.author_kind,
        statement.author,
        statement.base_sequence,
    )
    if not same:
        raise ConflictError(
            f"event_id {event_id} is already the label event {event.sequence} "
            f'("{named.name}"), which says something else; use a new UUID for a new label'
        )
    return Recorded(event.sequence, named.key, event.applied, replayed=True)


def _check_base(session: Session, head: LabelHead | None, statement: Statement) -> None:
    current = 0 if head is None else head.sequence
    if statement.base_sequence in (None, current):
        return
    seen = f"label {statement.base_sequence}" if statement.base_sequence else "no label"
    if head is None:
        found = "it has none"
    else:
        named = session.get_one(LabelClass, head.class_id)
        found = f'it now has label {head.sequence}, "{named.name}" ({head.author_kind})'
    raise ConflictError(
        f"the label changed since it was read: the author saw {seen} on image, {found}; read the "
        f"history and decide again with base_sequence={current}"
    )


def _applies(head: LabelHead | None, named: LabelClass, statement: Statement) -> bool:
    if head is None:
        return True
    before, now = AuthorKind(head.author_kind).rank, statement.author_kind.rank
    # A higher rank that repeats the class confirms it: that changes who stands behind the label.
    return now > before or (now == before and named.id != head.class_id)


def _settle_dispute(
    head: LabelHead, statement: Statement, event: LabelEvent, *, contradicts: bool
) -> None:
    if contradicts and (statement.from_row or not event.applied):
        head.disputed = True
    elif not statement.from_row and statement.author_kind.accepted:
        head.disputed = False

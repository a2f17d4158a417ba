"""The label log: events are appended, what follows from them is written in the same transaction.

An event is somebody's word about an image: a label, a retraction, a skip, a flag, or an undo of the
author's own last word. What becomes of it is decided by `fold`; `heads` writes it down. Three
things make it safe to repeat and to work side by side: an event's UUID is recorded once, whatever
happens to the answer; a label that names the label its author saw (`base_sequence`) is refused when
another one has come since; and the dataset's lock makes the order of commits the order of
sequences.

Everything that may be refused is refused before the first write, so that in one transaction a
refused event leaves nothing behind.
"""

import uuid
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from visionloop.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    PermissionDeniedError,
    VisionloopError,
)
from visionloop.telemetry import labeling as metrics
from visionloop_labeling import datasets, validation
from visionloop_labeling.agreement import Agreement
from visionloop_labeling.annotation import (
    Annotation,
    Draft,
    Size,
    stored_class_ids,
)
from visionloop_labeling.annotation_book import AnnotationBook
from visionloop_labeling.database import Database
from visionloop_labeling.fold import (
    AuthorKind,
    EventKind,
    ItemState,
    Standing,
    contradicts,
    fold,
    outdated,
)
from visionloop_labeling.heads import Heads
from visionloop_labeling.known_images import KnownImages
from visionloop_labeling.new_rows import NewRows
from visionloop_labeling.schema import Blob, Dataset, ImageGroup, Item, LabelEvent
from visionloop_labeling.statement_rules import check_right, is_applied, undone_by
from visionloop_labeling.statements import (
    Recorded,
    StaleLabelError,
    Statement,
    author_kind_named,
    statement,
)

__all__ = [
    "AuthorKind",
    "EventKind",
    "ItemState",
    "LabelLog",
    "Recorded",
    "StaleLabelError",
    "Statement",
    "author_kind_named",
    "find_item",
    "say_all",
    "statement",
    "submit",
]

_REFUSALS: Final = (InvalidInputError, NotFoundError, ConflictError, PermissionDeniedError)


class LabelLog:
    """The label log of one dataset within one transaction. The dataset is locked.

    With `new`, what is recorded waits there, and is written by whoever gave it.
    """

    def __init__(self, session: Session, dataset: Dataset, new: NewRows | None = None) -> None:
        self._session = session
        self._dataset = dataset
        self._new = new or NewRows(session)
        self._writes = new is None
        self.annotations = AnnotationBook(session, dataset)
        self.classes = self.annotations.classes
        self._heads = Heads(session, dataset, self.classes, self._new)
        self._recorded: list[LabelEvent] = []
        self._agreement = Agreement(session, self.classes)
        self._told: dict[int, list[LabelEvent]] = {}  # the events of images, where they are known
        self._known: KnownImages | None = None

    def measure(self) -> None:
        """Counts the events in the metrics, once the transaction is committed."""
        for event in self._recorded:
            metrics.LABEL_EVENTS.labels(event.kind, event.author_kind).inc()
            if event.seconds is not None:
                metrics.LABEL_SECONDS.observe(event.seconds)
        self._agreement.measure()

    def expect(self, said: Collection[Annotation], *, events: int | None = None) -> None:
        """Reads together what will be asked when these annotations are recorded.

        `events`: how many events there will be, where some have no annotation.
        """
        self._new.reserve(LabelEvent, len(said) if events is None else events)
        keys = {key for one in said for key in one.class_ids()}
        self.classes.learn(keys)
        found = (self.classes.find(key) for key in keys)
        self._heads.learn(self.classes.meaning(one) for one in found if one is not None)

    def know(self, images: KnownImages) -> None:
        """What recording asks about these images, and whether it came before, is known."""
        self._known = images
        self._told |= images.events
        for group in images.groups:
            self._heads.hold(group)

    def welcome(self, item: Item, group: ImageGroup) -> None:
        """This image is new: nobody has said anything about it, and it may not be written yet."""
        self._told[item.id] = []
        self._heads.hold(group)

    def record(self, item: Item, statement: Statement, *, resolved: bool = False) -> Recorded:
        """Appends the statement and folds it in; `resolved`: its annotation is what `resolve` gave.

        The same event_id is recorded once: repeating it gives the first answer. Raises
        StaleLabelError when the label changed since `base_sequence` or there is nothing to undo,
        ConflictError when the event_id was used for something else, InvalidInputError, and
        PermissionDeniedError for what only a reviewer may decide.
        """
        if statement.event_id is not None:
            earlier = self._recorded_before(item, statement, statement.event_id)
            if earlier is not None:
                return earlier
        events = self._events_of(item)
        before = fold(events)
        check_right(item, before, statement)
        self._check_base(before, statement)
        undoes = undone_by(statement, events) if statement.kind is EventKind.UNDO else None
        said = self._said(item, statement, resolved=resolved)
        event = self._event(item, statement, said, undoes)
        after = fold([*events, event])
        event.applied = is_applied(event, before, after)
        self._agreement.note(item, event, before)  # before `why` says something else
        events.append(event)
        if self._known is not None:
            self._known.recorded[event.event_id] = event
        self._heads.move(item, before, after)
        self._recorded.append(event)
        if self._writes:
            self._new.settle()
        contradicted = ""
        if event.kind == EventKind.LABEL and contradicts(before.label, event):
            contradicted = self._words(before)
        answer = self._answer(event, item, after, disagrees_with=contradicted)
        return replace(answer, outdated=outdated(before, event))

    def _said(self, item: Item, statement: Statement, *, resolved: bool) -> Annotation | None:
        said = statement.annotation
        if (said is None) == (statement.kind is EventKind.LABEL):
            raise InvalidInputError(
                f"an event of the kind {statement.kind} "
                + ("needs an annotation" if said is None else "has no annotation"),
                field="annotation",
            )
        if said is None or (resolved and isinstance(said, Annotation)):
            return said
        size = _size_of(self._session, item)
        if isinstance(said, Draft):
            return self.annotations.resolve(said, size)
        chosen = statement.author_kind is AuthorKind.HUMAN and not statement.from_row
        return self.annotations.taken(said, size, chosen=chosen)

    def _event(
        self, item: Item, statement: Statement, said: Annotation | None, undoes: int | None
    ) -> LabelEvent:
        named = () if said is None else said.class_ids()
        self._dataset.last_sequence += 1
        return self._new.add(
            LabelEvent,
            id=self._new.id_of(LabelEvent),
            event_id=statement.event_id or str(uuid.uuid4()),
            dataset_id=self._dataset.id,
            sequence=self._dataset.last_sequence,
            item_id=item.id,
            kind=statement.kind,
            from_row=statement.from_row,
            annotation=None if said is None else said.stored(),
            class_id=self.classes.get(named[0]).id if named else None,
            undoes=undoes,
            note=statement.note,
            author_kind=statement.author_kind,
            author=statement.author,
            base_sequence=statement.base_sequence,
            suggested_by=statement.suggested_by,
            suggestion=statement.suggestion,
            seconds=statement.seconds,
            at=datetime.now(UTC),
            said_at=statement.said_at,
        )

    def _events_of(self, item: Item) -> list[LabelEvent]:
        if item.id not in self._told:
            mine = select(LabelEvent).where(LabelEvent.item_id == item.id)
            found = self._session.scalars(mine.order_by(LabelEvent.sequence))
            self._told[item.id] = list(found)
        return self._told[item.id]

    def _answer(
        self,
        event: LabelEvent,
        item: Item,
        standing: Standing,
        *,
        replayed: bool = False,
        disagrees_with: str = "",
    ) -> Recorded:
        named = stored_class_ids(event.annotation)
        return Recorded(
            event.sequence,
            named[0] if named else "",
            event.applied,
            ItemState(item.state),
            standing.sequence,
            replayed=replayed,
            disagrees_with=disagrees_with,
        )

    def _recorded_before(self, item: Item, statement: Statement, event_id: str) -> Recorded | None:
        known = self._known
        if known is not None and event_id in known.event_ids:
            event = known.recorded.get(event_id)
        else:
            event = self._session.scalar(select(LabelEvent).where(LabelEvent.event_id == event_id))
        if event is None:
            return None
        if not self._is_same(event, item, statement):
            raise ConflictError(
                f"event_id {event_id} is already the {event.kind} event {event.sequence}, which "
                "says something else; use a new UUID for a new event"
            )
        return self._answer(event, item, fold(self._events_of(item)), replayed=True)

    def _is_same(self, event: LabelEvent, item: Item, statement: Statement) -> bool:
        undoes = event.undoes if statement.undoes is None else statement.undoes
        stored = (event.item_id, event.kind, event.author_kind, event.author, event.note)
        stated = (item.id, statement.kind, statement.author_kind, statement.author, statement.note)
        if stored != stated or (event.base_sequence, event.undoes) != (
            statement.base_sequence,
            undoes,
        ):
            return False
        said = statement.annotation
        if said is None or event.annotation is None:
            return (said is None) == (event.annotation is None)
        known = self.annotations.known(said, _size_of(self._session, item))
        return known == self.classes.resolved(event.annotation)

    def _check_base(self, standing: Standing, statement: Statement) -> None:
        current = standing.sequence
        if statement.base_sequence in (None, current):
            return
        seen = f"label {statement.base_sequence}" if statement.base_sequence else "no label"
        if standing.label is None:
            found = "it has none"
        else:
            label = standing.label
            found = f"it now has label {current}, {self._words(standing)} ({label.author_kind})"
        raise StaleLabelError(
            f"the label changed since it was read: the author saw {seen} on image, {found}; read "
            f"the history and decide again with base_sequence={current}",
            field="base_sequence",
        )

    def _words(self, standing: Standing) -> str:
        said = {} if standing.label is None else standing.label.annotation or {}
        return self.annotations.words(Annotation.model_validate(said))


def find_item(session: Session, dataset: Dataset, sha256: str) -> Item:
    """The image of this digest. Raises NotFoundError."""
    item = session.scalar(select(Item).where(Item.dataset_id == dataset.id, Item.sha256 == sha256))
    if item is None:
        raise _no_image(dataset, sha256)
    return item


def _no_image(dataset: Dataset, sha256: str) -> NotFoundError:
    return NotFoundError(f'dataset "{dataset.name}" has no image {sha256}; submit the image first')


def submit(database: Database, dataset_name: str, sha256: str, statement: Statement) -> Recorded:
    """A statement on an image that is there: validates, locks and records."""
    answer = say_all(database, dataset_name, [(sha256, statement)])[0]
    if isinstance(answer, VisionloopError):
        raise answer
    return answer


def say_all(
    database: Database,
    dataset_name: str,
    statements: Sequence[tuple[str, Statement] | VisionloopError],
) -> list[Recorded | VisionloopError]:
    """Statements on images (by sha256) in one transaction; what is refused is refused alone.

    What was refused before it came here keeps its place in the answers.
    """
    answers: list[Recorded | VisionloopError] = []
    with database.write() as session:
        dataset = datasets.find(session, validation.dataset_name(dataset_name), lock=True)
        new = NewRows(session)
        log = LabelLog(session, dataset, new)
        checked = [_checked(one) for one in statements]
        known = _known(session, dataset, [one for one in checked if isinstance(one, tuple)])
        log.know(known)
        said = [one[1].annotation for one in checked if isinstance(one, tuple)]
        log.expect([one for one in said if isinstance(one, Annotation)], events=len(statements))
        for stated in checked:
            if isinstance(stated, VisionloopError):
                answers.append(stated)
                continue
            try:
                answers.append(log.record(_item(known, dataset, stated[0]), stated[1]))
            except _REFUSALS as refusal:
                answers.append(refusal)
        new.write()
    log.measure()
    return answers


def _checked(
    stated: tuple[str, Statement] | VisionloopError,
) -> tuple[str, Statement] | VisionloopError:
    """The same with the digest as it is stored, or why there is none."""
    if isinstance(stated, VisionloopError):
        return stated
    try:
        return validation.sha256(stated[0]), stated[1]
    except InvalidInputError as refusal:
        return refusal


def _known(
    session: Session, dataset: Dataset, statements: Sequence[tuple[str, Statement]]
) -> KnownImages:
    return KnownImages(
        session,
        dataset,
        {sha256 for sha256, _ in statements},
        {said.event_id for _, said in statements if said.event_id is not None},
        suggested=any(said.suggested_by for _, said in statements),
    )


def _item(known: KnownImages, dataset: Dataset, sha256: str) -> Item:
    item = known.items.get(sha256)
    if item is None:
        raise _no_image(dataset, sha256)
    return item


def _size_of(session: Session, item: Item) -> Size:
    blob = session.get_one(Blob, item.sha256)
    return blob.width, blob.height

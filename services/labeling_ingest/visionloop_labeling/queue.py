"""What to look at next: images leased to whoever asks, so that two people never get the same one.

A lease lasts five minutes and ends earlier when the image leaves its place in the work or is given
back. It is taken by marking rows that nobody else holds, passing over those that another replica is
marking at this moment; the dataset's lock is not taken, so asking for work waits neither for
imports nor for other labellers. Whoever asks again gets other images, not the ones they hold: two
windows of one person are two workers. The price: what a crashed browser held is not offered again
for five minutes.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from pydantic import BaseModel
from sqlalchemy import Select, or_, select
from sqlalchemy.orm import Session

from visionloop_labeling import datasets
from visionloop_labeling.classes import ClassBook, ClassState
from visionloop_labeling.fold import AuthorKind, ItemState
from visionloop_labeling.schema import (
    Blob,
    Dataset,
    ImageGroup,
    Item,
    LabelEvent,
    LabelHead,
    Prediction,
)

LEASE: Final = timedelta(minutes=5)
MAX_LEASED: Final = 64  # images, at one asking


class SuggestionOut(BaseModel):
    """What a model version says: classes with probabilities, the likeliest first."""

    model: str
    version: int
    scores: list[tuple[str, float]]
    sure: bool


class ItemOut(BaseModel):
    """An image with its label and its place in the work. `sequence` is 0 where it has no label."""

    sha256: str
    width: int
    height: int
    state: ItemState
    why: dict[str, Any]
    sequence: int
    annotation: dict[str, Any] | None
    author: str | None
    author_kind: AuthorKind | None
    disputed: bool
    suggestion: SuggestionOut | None
    leased_until: datetime | None
    source: str
    split: str | None
    attributes: dict[str, str]


def lease(
    session: Session, dataset: Dataset, holder: str, n: int, state: ItemState, now: datetime
) -> list[Item]:
    """At most `n` images in this place in the work, in their order, leased to `holder`.

    The session writes; the dataset is not locked.
    """
    query = waiting(dataset, state, now).limit(min(n, MAX_LEASED))
    items = list(session.scalars(query.with_for_update(skip_locked=True)))
    for item in items:
        item.leased_by = holder
        item.leased_until = now + LEASE
    return items


def waiting(dataset: Dataset, state: ItemState, now: datetime) -> Select[Item]:
    """The images in this place in the work that nobody holds, in the order of `ix_item_queue`."""
    return (
        select(Item)
        .where(
            Item.dataset_id == dataset.id,
            Item.state == state,
            or_(Item.leased_until.is_(None), Item.leased_until <= now),
        )
        .order_by(Item.priority, Item.position)
    )


def release(session: Session, dataset: Dataset, holder: str, digests: Iterable[str]) -> int:
    """Gives leases back; what `holder` does not hold is passed over. Returns how many there were.

    Rows that somebody is writing are passed over as well: whoever waits for a row while holding
    others could wait for ever. Their lease ends with what is being written, or by itself.
    """
    query = (
        select(Item)
        .where(
            Item.dataset_id == dataset.id,
            Item.leased_by == holder,
            Item.sha256.in_(list(digests)),
        )
        .with_for_update(skip_locked=True)
    )
    held = list(session.scalars(query))
    for item in held:
        item.leased_by = item.leased_until = None
    return len(held)


def item_outs(session: Session, dataset: Dataset, items: Sequence[Item]) -> list[ItemOut]:
    """The images as people and programs see them, in the order given; a few queries for all."""
    ids = [item.id for item in items]
    query = (
        select(Item.id, Blob.width, Blob.height, ImageGroup.split, LabelHead, LabelEvent.author)
        .join(Blob, Blob.sha256 == Item.sha256)
        .join(ImageGroup, ImageGroup.id == Item.group_id)
        .outerjoin(LabelHead, LabelHead.item_id == Item.id)
        .outerjoin(LabelEvent, LabelEvent.id == LabelHead.event_row_id)
        .where(Item.id.in_(ids))
    )
    rows = {row[0]: row[1:] for row in session.execute(query).tuples()}
    book = ClassBook(session, dataset)
    heads = (row[3] for row in rows.values())
    book.learn_named(head.annotation for head in heads if head)
    suggestions = _suggestions(session, dataset, book, ids)
    return [_item_out(item, rows[item.id], suggestions.get(item.id), book) for item in items]


def _item_out(
    item: Item,
    row: tuple[int, int, str | None, LabelHead | None, str | None],
    suggestion: SuggestionOut | None,
    book: ClassBook,
) -> ItemOut:
    width, height, split, head, author = row
    return ItemOut(
        sha256=item.sha256,
        width=width,
        height=height,
        state=ItemState(item.state),
        why=item.why,
        sequence=0 if head is None else head.sequence,
        annotation=None if head is None else book.resolved(head.annotation),
        author=author,
        author_kind=None if head is None else AuthorKind(head.author_kind),
        disputed=head is not None and head.disputed,
        # Of every tenth image the suggestion is held back, to learn what people say without it.
        suggestion=None if item.why.get("blind") else suggestion,
        leased_until=item.leased_until,
        source=item.source,
        split=split,
        attributes=dict(item.attributes),
    )


def _suggestions(
    session: Session, dataset: Dataset, book: ClassBook, item_ids: Sequence[int]
) -> dict[int, SuggestionOut]:
    """The newest prediction for each image, of the model that the dataset prefers."""
    preferred = datasets.preferences_of(dataset).suggestions_model
    query = select(Prediction).where(Prediction.item_id.in_(item_ids))
    if preferred:
        query = query.where(Prediction.model == preferred)
    newest: dict[int, Prediction] = {}
    for found in session.scalars(query.order_by(Prediction.at, Prediction.version)):
        newest[found.item_id] = found
    book.learn(key for found in newest.values() for key, _ in found.scores)
    return {item_id: _suggestion(found, book) for item_id, found in newest.items()}


def _suggestion(found: Prediction, book: ClassBook) -> SuggestionOut:
    # Merged classes share their probability; what can no longer be chosen is not suggested.
    scores: dict[str, float] = {}
    for key, probability in found.scores:
        named = book.find(key)
        meant = None if named is None else book.meaning(named)
        if meant is not None and meant.state == ClassState.ACTIVE:
            scores[meant.key] = scores.get(meant.key, 0.0) + probability
    ranked = sorted(scores.items(), key=lambda entry: -entry[1])
    return SuggestionOut(model=found.model, version=found.version, scores=ranked, sure=found.sure)

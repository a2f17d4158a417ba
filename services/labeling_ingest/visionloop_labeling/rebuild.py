"""Writing the tables anew that follow from the label log, and telling where they differed from it.

They are brought up to date in the transaction of every event (`heads`), so there is nothing to put
right until somebody changed rows by hand or restored half a backup, or a fault of ours is found.
What is given once and never taken back, the split of a group, is not rebuilt; leases and reasons
stay where an image's place in the work does.

The images go through a page at a time, so memory is flat; a million labelled images take some ten
minutes, during which the dataset is locked.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from visionloop_labeling.classes import ClassBook
from visionloop_labeling.fold import Standing, fold
from visionloop_labeling.heads import COUNTERS, Heads
from visionloop_labeling.new_rows import NewRows
from visionloop_labeling.schema import (
    Dataset,
    ImageGroup,
    Item,
    LabelClass,
    LabelEvent,
    LabelHead,
    LabelHeadClass,
    SplitCount,
)

SHOWN: Final = 20  # differences that are told one by one
_PAGE: Final = 1000  # images
_Facts = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that was stored otherwise than the log has it. `of`: an image's digest, or what."""

    of: str
    what: str
    stored: object
    from_log: object


@dataclass(slots=True)
class Rebuilt:
    """What a rebuild went through, and what it put right."""

    images: int = 0
    differing: int = 0
    shown: list[Difference] = field(default_factory=list)  # the first SHOWN

    def compare(self, of: str, stored: _Facts, from_log: _Facts) -> None:
        """Notes each fact that differs; one that is missing is None."""
        for what in sorted(stored.keys() | from_log.keys()):
            before, after = stored.get(what), from_log.get(what)
            if before == after:
                continue
            self.differing += 1
            if len(self.shown) < SHOWN:
                self.shown.append(Difference(of, what, before, after))


def rebuild(session: Session, dataset: Dataset) -> Rebuilt:
    """Writes everything anew that follows from the log. The dataset is locked meanwhile.

    The session has read nothing else of it yet.
    """
    book = ClassBook(session, dataset)
    known = [one.id for one in book.all()]
    counted = _counts(session, dataset)
    counters = _counters(dataset)
    session.execute(delete(SplitCount).where(SplitCount.class_id.in_(known)))
    new = NewRows(session)
    heads = Heads(session, dataset, book, new)
    rebuilt = Rebuilt()
    for items in _pages(session, dataset):
        before = _facts(session, items)
        _write(session, heads, items)
        new.write()
        after = _facts(session, items)
        for item in items:
            rebuilt.compare(item.sha256, before[item.id], after[item.id])
        rebuilt.images += len(items)
    _count_anew(session, dataset)
    session.flush()
    rebuilt.compare("images of a class in a split", counted, _counts(session, dataset))
    rebuilt.compare("counters of the dataset", counters, _counters(dataset))
    return rebuilt


def _pages(session: Session, dataset: Dataset) -> Iterator[Sequence[Item]]:
    position = 0
    query = select(Item).where(Item.dataset_id == dataset.id).order_by(Item.position).limit(_PAGE)
    while items := session.scalars(query.where(Item.position > position)).all():
        position = items[-1].position
        yield items


def _write(session: Session, heads: Heads, items: Sequence[Item]) -> None:
    ids = [item.id for item in items]
    for table in (LabelHead, LabelHeadClass):
        session.execute(delete(table).where(table.item_id.in_(ids)))
    told = _events_of(session, ids)
    held = _groups_of(session, items)  # or each image would ask for its own
    with session.no_autoflush:
        for item in items:
            heads.move(item, Standing(), fold(told.get(item.id, [])))
    session.flush()
    del held


def _facts(session: Session, items: Sequence[Item]) -> dict[int, dict[str, object]]:
    """What the tables say of each image."""
    found: dict[int, dict[str, object]] = {
        item.id: {"state": item.state, "why": dict(item.why)} for item in items
    }
    heads = select(
        LabelHead.item_id,
        LabelHead.event_row_id,
        LabelHead.sequence,
        LabelHead.class_id,
        LabelHead.annotation,
        LabelHead.author_kind,
        LabelHead.disputed,
    ).where(LabelHead.item_id.in_(found))
    for head in session.execute(heads).mappings():
        label = dict(head)
        found[label.pop("item_id")] |= {f"label.{name}": value for name, value in label.items()}
    further = select(LabelHeadClass.item_id, LabelHeadClass.class_id).where(
        LabelHeadClass.item_id.in_(found)
    )
    for item_id, class_id in session.execute(further.order_by(LabelHeadClass.class_id)).tuples():
        classes = found[item_id].setdefault("label.further_classes", [])
        if isinstance(classes, list):
            classes.append(class_id)
    return found


def _counts(session: Session, dataset: Dataset) -> dict[str, object]:
    """Images of each class in each split, but for zeros, under "class key in split"."""
    query = (
        select(LabelClass.key, SplitCount.split, SplitCount.images)
        .join(SplitCount, SplitCount.class_id == LabelClass.id)
        .where(LabelClass.dataset_id == dataset.id, SplitCount.images != 0)
    )
    return {f"{key} in {split}": images for key, split, images in session.execute(query).tuples()}


def _counters(dataset: Dataset) -> dict[str, object]:
    return {name: getattr(dataset, name) for name in ("labelled", *COUNTERS.values())}


def _events_of(session: Session, ids: Sequence[int]) -> dict[int, list[LabelEvent]]:
    query = select(LabelEvent).where(LabelEvent.item_id.in_(ids))
    told: dict[int, list[LabelEvent]] = {}
    for event in session.scalars(query.order_by(LabelEvent.sequence)):
        told.setdefault(event.item_id, []).append(event)
    return told


def _groups_of(session: Session, items: Sequence[Item]) -> Sequence[ImageGroup]:
    wanted = {item.group_id for item in items}
    return session.scalars(select(ImageGroup).where(ImageGroup.id.in_(wanted))).all()


def _count_anew(session: Session, dataset: Dataset) -> None:
    query = (
        select(Item.state, func.count()).where(Item.dataset_id == dataset.id).group_by(Item.state)
    )
    counted = dict(session.execute(query).tuples().all())
    for state, name in COUNTERS.items():
        setattr(dataset, name, counted.get(state, 0))
    labelled = (
        select(func.count())
        .select_from(LabelHead)
        .join(Item, Item.id == LabelHead.item_id)
        .where(Item.dataset_id == dataset.id)
    )
    dataset.labelled = session.scalar(labelled) or 0

"""The tables that follow from the label log, brought up to date event by event.

`LabelHead` holds the current label, `SplitCount` how many accepted labels of a class stand in each
split, `Item.state` the image's place in the work, and the dataset counts of these. They are written
in the transaction of the event. What is given once and never taken back, the split of a group, is
not one of them. `rebuild` writes them anew.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final, cast

from sqlalchemy import (
    JSON,
    ColumnElement,
    CursorResult,
    case,
    delete,
    false,
    func,
    literal,
    select,
    update,
)
from sqlalchemy.orm import Session

from visionloop_labeling import datasets
from visionloop_labeling.annotation import stored_class_ids
from visionloop_labeling.classes import ClassBook, ClassState, naming
from visionloop_labeling.fold import AuthorKind, ItemState, Standing
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
from visionloop_labeling.splits import choose_split, draw_split

_ACCEPTED: Final = [kind for kind in AuthorKind if kind.accepted]
COUNTERS: Final = {
    ItemState.LABELLED: "items_labelled",
    ItemState.REVIEW: "items_in_review",
    ItemState.SKIPPED: "items_skipped",
}


class Heads:
    """Writes where images stand; first labels of images wait in `new`. The dataset is locked."""

    def __init__(self, session: Session, dataset: Dataset, book: ClassBook, new: NewRows) -> None:
        self._session = session
        self._dataset = dataset
        self._book = book
        self._new = new
        # The session forgets what nobody holds, and would ask the database again for each row.
        self._counts: dict[int, dict[str, SplitCount]] = {}
        self._groups: dict[int, ImageGroup] = {}
        self._ratios = datasets.settings_of(dataset).ratios

    def hold(self, group: ImageGroup) -> None:
        """This group need not be asked for: it may not even be written yet."""
        self._groups[group.id] = group

    def learn(self, classes: Iterable[LabelClass]) -> None:
        """Reads in one query what will be asked about labels that mean these classes."""
        wanted = {one.id for one in classes} - self._counts.keys()
        if wanted:
            self._counts |= {class_id: {} for class_id in wanted}
            query = select(SplitCount).where(SplitCount.class_id.in_(wanted))
            for one in self._session.scalars(query):
                self._counts[one.class_id][one.split] = one

    def move(self, item: Item, before: Standing, after: Standing) -> None:
        """Brings the tables from where the image stood to where it stands."""
        meant = self._meant(after)
        if (before.label, before.disputed) != (after.label, after.disputed):
            self._write_head(item, before, after)
        if before.label is not after.label:
            self._count(item, before, after, meant)
        self._settle(item, after, meant)

    def _meant(self, standing: Standing) -> list[LabelClass]:
        """The classes that the label means now; none without a label."""
        label = standing.label
        return [] if label is None else self._book.meanings(label.annotation or {})

    def _write_head(self, item: Item, before: Standing, after: Standing) -> None:
        head = None
        if before.label is not None:
            self._new.settle()  # the stored head may soon name an event that is not
            head = self._session.get_one(LabelHead, item.id)
            if before.label is not after.label and _further(before.label):
                mine = LabelHeadClass.item_id == item.id
                self._session.execute(delete(LabelHeadClass).where(mine))
        label = after.label
        if label is None:
            if head is not None:
                self._session.delete(head)
                self._dataset.labelled -= 1
            return
        facts: dict[str, Any] = {
            "event_row_id": label.id,
            "sequence": label.sequence,
            "class_id": label.class_id,
            "annotation": label.annotation or {},
            "author_kind": label.author_kind,
            "disputed": after.disputed,
        }
        if head is None:
            self._dataset.labelled += 1
            self._new.add(LabelHead, item_id=item.id, **facts)
        else:
            for name, value in facts.items():
                setattr(head, name, value)
        if before.label is not label:
            for key in _further(label):
                self._new.add(LabelHeadClass, item_id=item.id, class_id=self._book.get(key).id)

    def _count(
        self, item: Item, before: Standing, after: Standing, meant: Sequence[LabelClass]
    ) -> None:
        if not (before.accepted or after.accepted):
            return
        group = self._group_of(item)
        if after.accepted and group.split is None:
            self._give_split(group, meant)
        if group.split is None:
            return
        if before.accepted:
            self._add(self._meant(before), group.split, -1)
        if after.accepted:
            self._add(meant, group.split, +1)

    def _group_of(self, item: Item) -> ImageGroup:
        held = self._groups.get(item.group_id)
        return held or self._session.get_one(ImageGroup, item.group_id)

    def _give_split(self, group: ImageGroup, named: Sequence[LabelClass]) -> None:
        # The dataset's name is the salt: the same import elsewhere gives the same splits.
        salt = self._dataset.name
        if named:
            counts = self._rarest(named)
            group.split = choose_split(counts, 1, self._ratios, salt=salt, group=group.key)
        else:
            group.split = draw_split(self._ratios, salt=salt, group=group.key)

    def _rarest(self, named: Sequence[LabelClass]) -> dict[str, int]:
        """How many images of the rarest of the classes each split has."""
        self.learn(named)
        images = [
            ({split: one.images for split, one in self._counts[c.id].items()}, c.key) for c in named
        ]
        return min(images, key=lambda entry: (sum(entry[0].values()), entry[1]))[0]

    def _add(self, classes: Sequence[LabelClass], split: str, change: int) -> None:
        self.learn(classes)
        for one in classes:
            counts = self._counts[one.id]
            if split not in counts:
                counts[split] = SplitCount(class_id=one.id, split=split, images=0)
                self._session.add(counts[split])
            counts[split].images += change

    def _settle(self, item: Item, after: Standing, meant: Sequence[LabelClass]) -> None:
        """The image's place in the work; a change of it ends the lease that somebody has."""
        outdated = any(one.state == ClassState.SPLIT for one in meant)
        state = after.state(outdated=outdated)
        if state is ItemState.REVIEW:
            item.why = _because(item, _why_review(after))
        if state == item.state:
            return
        count_states(self._dataset, ItemState(item.state), state, 1)
        if state is ItemState.OPEN:
            reason = "class_split" if outdated else "label_taken_back"
            item.why = _because(item, {"reason": reason})
        elif item.state == ItemState.REVIEW:
            item.why = _because(item, {})
        item.state = state
        item.leased_by = item.leased_until = None


def recount(session: Session, book: ClassBook, one: LabelClass) -> None:
    """Counts anew how many images with an accepted label of a class stand in each split."""
    absorbed = book.absorbed(one)
    session.execute(delete(SplitCount).where(SplitCount.class_id.in_(absorbed)))
    query = (
        select(ImageGroup.split, func.count())
        .select_from(Item)
        .join(ImageGroup, ImageGroup.id == Item.group_id)
        .join(LabelHead, LabelHead.item_id == Item.id)
        .where(naming(absorbed), LabelHead.author_kind.in_(_ACCEPTED))
        .group_by(ImageGroup.split)
    )
    for split, images in session.execute(query).tuples().all():
        session.add(SplitCount(class_id=one.id, split=split, images=images))
    session.flush()


def requeue(session: Session, dataset: Dataset, book: ClassBook, changed: Sequence[int]) -> None:
    """Finds the place in the work for images whose labels name a class (row ids) that changed.

    Labels of a class that was split must be given again; when it is restored, they stand again.
    Images that the session holds are not refreshed: they may be a million.
    """
    split = [one.id for one in book.all() if book.meaning(one).state == ClassState.SPLIT]
    mine = Item.dataset_id == dataset.id
    accepted = select(LabelHead.item_id).where(LabelHead.author_kind.in_(_ACCEPTED))
    moves: tuple[tuple[ItemState, ItemState, ColumnElement[bool], dict[str, str]], ...] = (
        (ItemState.LABELLED, ItemState.OPEN, naming(split), {"reason": "class_split"}),
        (ItemState.OPEN, ItemState.LABELLED, naming(changed) & ~naming(split), {}),
    )
    for before, after, condition, why in moves:
        moved = cast(
            CursorResult[Any],
            session.execute(
                update(Item)
                .where(mine, Item.state == before, Item.id.in_(accepted), condition)
                .values(state=after, why=_because_of_all(why), leased_by=None, leased_until=None),
                execution_options={"synchronize_session": False},
            ),
        )
        count_states(dataset, before, after, moved.rowcount)


def count_states(dataset: Dataset, before: ItemState, after: ItemState, items: int) -> None:
    """Moves so many images from one place in the work to another in the dataset's counters."""
    for state, change in ((before, -items), (after, items)):
        if state in COUNTERS:
            name = COUNTERS[state]
            setattr(dataset, name, getattr(dataset, name) + change)


def remaining(dataset: Dataset) -> dict[ItemState, int]:
    """How many images are in each place; costs nothing beyond the dataset's row."""
    counted = {state: int(getattr(dataset, name)) for state, name in COUNTERS.items()}
    return {ItemState.OPEN: dataset.last_position - sum(counted.values()), **counted}


def _further(label: LabelEvent | None) -> tuple[str, ...]:
    """The classes that a label names beside its first."""
    return () if label is None else stored_class_ids(label.annotation)[1:]


def _because(item: Item, why: dict[str, Any]) -> dict[str, Any]:
    """What people are told; who labels it next is not shown the suggestion either."""
    return {**why, "blind": True} if item.why.get("blind") else why


def _because_of_all(why: dict[str, Any]) -> ColumnElement[Any]:
    """`_because` in one statement for many images."""
    blind = func.coalesce(Item.why["blind"].as_boolean(), false())
    plain, hidden = (literal(told, JSON()) for told in (why, {**why, "blind": True}))
    return case((blind, hidden), else_=plain)


def _why_review(standing: Standing) -> dict[str, Any]:
    if standing.flag is not None:
        return {
            "reason": "flagged",
            "by": standing.flag.author,
            "note": standing.flag.note,
            "sequence": standing.flag.sequence,
        }
    return {"reason": "disputed"}

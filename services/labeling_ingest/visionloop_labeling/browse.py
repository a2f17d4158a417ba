"""Finding images of a dataset by state, class, split, remark or prediction, a page at a time.

One of the conditions leads: the rarest, whose index gives candidates in the order asked for; the
others are checked on those, a chunk at a time. So a page is a few index scans, whatever the
dataset's size and without trusting a planner's guess. The price: a page looks at no more than
`MAX_SEARCHED` candidates; where conditions hardly ever meet it comes back short, says so, and its
cursor goes on from there.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeAlias

from sqlalchemy import ColumnElement, Select, func, literal, or_, select, tuple_
from sqlalchemy.orm import Session, aliased

from visionloop.errors import InvalidInputError
from visionloop_labeling import datasets, heads
from visionloop_labeling.classes import ClassBook
from visionloop_labeling.fold import ItemState
from visionloop_labeling.schema import (
    Dataset,
    ImageGroup,
    Item,
    LabelHead,
    LabelHeadClass,
    Prediction,
    QualityFlag,
    SplitCount,
)
from visionloop_labeling.splits import SPLITS

MAX_PAGE: Final = 200
MAX_SEARCHED: Final = 40_000  # candidates; under half a second
NO_SPLIT: Final = "unassigned"
_CHUNK: Final = 2_000
# Few enough to be sorted for every page.
_SORTABLE: Final = 5_000

# Where a candidate stands in the order: what the next chunk goes on behind.
_Key: TypeAlias = tuple[float, ...]
_Query: TypeAlias = "Select[*tuple[Any, ...]]"
_CURSOR: Final = re.compile(r"(?P<leader>[a-z]{1,20}):(?P<key>-?[0-9.e+-]{1,30}(,[0-9]{1,19})?)")
_TOO_LARGE: Final = 2**63  # for any column of a database
_Candidates: TypeAlias = Callable[[_Key | None, int], list[tuple[_Key, int]]]


class Order(StrEnum):
    """How images follow one another."""

    ARRIVAL = "arrival"
    NEWEST = "newest"
    QUEUE = "queue"  # as labellers get them; of one state
    SURE = "sure"  # the prediction's probability, highest first; of one predicted class
    UNSURE = "unsure"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which images. Conditions that are given must all hold; classes are named by their ids."""

    state: ItemState | None = None
    class_id: str = ""
    split: str = ""  # of splits.SPLITS, or NO_SPLIT
    flag: str = ""  # of quality.measure
    predicted: str = ""
    order: Order = Order.ARRIVAL

    def check(self) -> None:
        """Raises InvalidInputError for conditions that make no sense."""
        if self.split and self.split not in (*SPLITS, NO_SPLIT):
            raise InvalidInputError(
                f"split {self.split[:40]!a} is none of {', '.join((*SPLITS, NO_SPLIT))}",
                field="split",
            )
        if self.order is Order.QUEUE and self.state is None:
            raise InvalidInputError("order=queue needs a state, as state=open", field="order")
        if self.order in (Order.SURE, Order.UNSURE) and not self.predicted:
            raise InvalidInputError(
                f"order={self.order} needs predicted, the id of a class", field="order"
            )


@dataclass(frozen=True, slots=True)
class Page:
    """Some images in order. `after` asks for the next page, "" at the end.

    `short` is true where the search gave up before the page was full.
    """

    items: list[Item]
    after: str
    short: bool


def find(
    session: Session, dataset: Dataset, wanted: Wanted, *, after: str = "", limit: int = 60
) -> Page:
    """A page of the images that are wanted. Raises InvalidInputError."""
    wanted.check()
    search = _Search(session, dataset, wanted)
    name, behind = _parse_cursor(after)
    leader = search.leader(name)
    candidates = search.candidates[leader]
    found: list[int] = []
    searched, chunk, ended = 0, limit + 1, False
    while len(found) <= limit and searched < MAX_SEARCHED and not ended:
        coming = candidates(behind, chunk)
        ended = len(coming) < chunk
        searched += len(coming)
        fitting = search.fitting([item_id for _, item_id in coming], leader)
        for key, item_id in coming:
            if item_id in fitting:
                if len(found) == limit:  # one more is there: the next page begins behind the last
                    return Page(search.load(found), _cursor(leader, behind), short=False)
                found.append(item_id)
            behind = key
        chunk = _CHUNK
    return Page(search.load(found), "" if ended else _cursor(leader, behind), short=not ended)


class _Search:
    """One search: who leads, and what the others ask."""

    def __init__(self, session: Session, dataset: Dataset, wanted: Wanted) -> None:
        self._session = session
        self._dataset = dataset
        self._wanted = wanted
        book = ClassBook(session, dataset)
        self._classes = self._row_ids(book, wanted.class_id, "class_id")
        self._predicted = self._row_ids(book, wanted.predicted, "predicted")
        self.candidates: dict[str, _Candidates] = {
            "arrival": self._by_arrival,
            "queue": self._by_queue,
            "state": self._by_state,
            "class": self._by_class,
            "flag": self._by_flag,
            "predicted": self._by_prediction,
        }

    def leader(self, named: str) -> str:
        """The condition whose index gives the candidates; the one of the pages before, if any."""
        if self._wanted.order in (Order.SURE, Order.UNSURE):
            return "predicted"
        if self._wanted.order is Order.QUEUE:
            return "queue"
        counts = self._counts()
        return named if named in counts else min(counts, key=counts.__getitem__)

    def fitting(self, item_ids: Sequence[int], leader: str) -> set[int]:
        """Those of the candidates for which the other conditions hold."""
        known = "state" if leader == "queue" else leader
        others = [asked for name, asked in self._conditions().items() if name != known]
        if not item_ids or not (others or self._wanted.predicted):
            return set(item_ids)
        query = (
            select(Item.id, Item.why)
            .join(ImageGroup, ImageGroup.id == Item.group_id)
            .where(Item.id.in_(item_ids), *others)
        )
        fitting = self._session.execute(query).tuples()
        # What is predicted for an image of the blind sample is not told, here neither.
        return {
            item_id for item_id, why in fitting if not (self._wanted.predicted and why.get("blind"))
        }

    def load(self, item_ids: Sequence[int]) -> list[Item]:
        """The images of these row ids, in their order."""
        query = select(Item).where(Item.id.in_(item_ids))
        by_id = {item.id: item for item in self._session.scalars(query)}
        return [by_id[item_id] for item_id in item_ids]

    def _row_ids(self, book: ClassBook, key: str, field: str) -> list[int]:
        return book.absorbed(book.get(key, field)) if key else []

    def _counts(self) -> dict[str, int]:
        """How many candidates each leader would bring, about."""
        wanted = self._wanted
        counts = {"arrival": self._dataset.last_position}
        if wanted.state is not None:
            in_state = heads.remaining(self._dataset)[wanted.state]
            if in_state <= _SORTABLE:
                counts["state"] = in_state
        if wanted.class_id:
            query = select(func.sum(SplitCount.images)).where(
                SplitCount.class_id.in_(self._classes)
            )
            counts["class"] = int(self._session.scalar(query) or 0)
        if wanted.flag:
            mine = (QualityFlag.dataset_id == self._dataset.id, QualityFlag.flag == wanted.flag)
            counts["flag"] = self._session.scalar(select(func.count()).where(*mine)) or 0
        return counts

    def _conditions(self) -> dict[str, ColumnElement[bool]]:
        """By the name of the leader that makes them needless."""
        wanted = self._wanted
        conditions: dict[str, ColumnElement[bool]] = {}
        if wanted.state is not None:
            conditions["state"] = Item.state == wanted.state
        if wanted.split:
            split = None if wanted.split == NO_SPLIT else wanted.split
            conditions["split"] = ImageGroup.split == split
        # Each asks about one image by its id, or a planner lists a whole class for every chunk.
        if wanted.class_id:
            conditions["class"] = or_(
                *(
                    select(table.item_id)
                    .where(table.item_id == Item.id, table.class_id.in_(self._classes))
                    .exists()
                    for table in (LabelHead, LabelHeadClass)
                )
            )
        if wanted.flag:
            conditions["flag"] = (
                select(QualityFlag.item_id)
                .where(
                    QualityFlag.dataset_id == self._dataset.id,
                    QualityFlag.flag == wanted.flag,
                    QualityFlag.item_id == Item.id,
                )
                .exists()
            )
        if wanted.predicted:
            # Plus nothing, so that the index of classes is of no use here.
            conditions["predicted"] = (
                self._suggested(Prediction.class_id + 0)
                .where(Prediction.item_id == Item.id)
                .correlate(Item)
                .exists()
            )
        return conditions

    def _by_arrival(self, behind: _Key | None, limit: int) -> list[tuple[_Key, int]]:
        mine = Item.dataset_id == self._dataset.id
        return self._walk(
            select(Item.position, Item.id).where(mine), [Item.position], behind, limit
        )

    def _by_queue(self, behind: _Key | None, limit: int) -> list[tuple[_Key, int]]:
        query = select(Item.priority, Item.position, Item.id).where(
            Item.dataset_id == self._dataset.id, Item.state == self._wanted.state
        )
        return self._walk(query, [Item.priority, Item.position], behind, limit)

    def _by_state(self, behind: _Key | None, limit: int) -> list[tuple[_Key, int]]:
        # Plus nothing, so that no planner walks the whole dataset by position to avoid a sort.
        position = Item.position + 0
        query = select(position, Item.id).where(
            Item.dataset_id == self._dataset.id, Item.state == self._wanted.state
        )
        return self._walk(query, [position], behind, limit)

    def _by_flag(self, behind: _Key | None, limit: int) -> list[tuple[_Key, int]]:
        query = select(QualityFlag.item_id, QualityFlag.item_id).where(
            QualityFlag.dataset_id == self._dataset.id, QualityFlag.flag == self._wanted.flag
        )
        return self._walk(query, [QualityFlag.item_id], behind, limit)

    def _by_class(self, behind: _Key | None, limit: int) -> list[tuple[_Key, int]]:
        found: dict[int, _Key] = {}
        for table in (LabelHead, LabelHeadClass):
            for class_id in self._classes:
                query = select(table.item_id, table.item_id).where(table.class_id == class_id)
                part = self._walk(query, [table.item_id], behind, limit)
                found |= {item_id: key for key, item_id in part}
        falling = self._wanted.order is Order.NEWEST
        merged = sorted(((key, item_id) for item_id, key in found.items()), reverse=falling)
        return merged[:limit]

    def _by_prediction(self, behind: _Key | None, limit: int) -> list[tuple[_Key, int]]:
        columns = (Prediction.probability, Prediction.item_id)
        query = self._suggested(Prediction.class_id).with_only_columns(*columns, Prediction.item_id)
        return self._walk(query, columns, behind, limit)

    def _suggested(self, class_id: Any) -> Select[int]:
        """Predictions of the class that are the newest of their image, as `queue` shows them."""
        preferred = datasets.preferences_of(self._dataset).suggestions_model
        newer = aliased(Prediction)
        outdated = select(newer.item_id).where(
            newer.item_id == Prediction.item_id,
            tuple_(newer.at, newer.version) > tuple_(Prediction.at, Prediction.version),
        )
        query = select(Prediction.item_id).where(class_id.in_(self._predicted))
        if preferred:
            outdated = outdated.where(newer.model == preferred)
            query = query.where(Prediction.model == preferred)
        return query.where(~outdated.correlate(Prediction).exists())

    def _walk(
        self,
        query: _Query,
        columns: Sequence[Any],
        behind: _Key | None,
        limit: int,
    ) -> list[tuple[_Key, int]]:
        """(key, item id) of the next rows; `query` selects the columns of the key, then the id."""
        falling = self._wanted.order in (Order.NEWEST, Order.SURE)
        if behind is not None:
            if len(behind) != len(columns):
                raise _strange_cursor()
            place, last = tuple_(*columns), tuple_(*map(literal, behind))
            query = query.where(place < last if falling else place > last)
        query = query.order_by(*(column.desc() if falling else column for column in columns))
        rows = self._session.execute(query.limit(limit))
        return [(tuple(row[:-1]), row[-1]) for row in rows]


def _parse_cursor(after: str) -> tuple[str, _Key | None]:
    """(leader, the key that the page before ended with)."""
    if not after:
        return "", None
    match = _CURSOR.fullmatch(after)
    if match is None:
        raise _strange_cursor()
    try:
        key = tuple(int(n) if n.isdigit() else float(n) for n in match["key"].split(","))
    except ValueError:
        raise _strange_cursor() from None
    if any(abs(n) >= _TOO_LARGE for n in key):
        raise _strange_cursor()
    return match["leader"], key


def _cursor(leader: str, key: _Key | None) -> str:
    return "" if key is None else f"{leader}:{','.join(map(repr, key))}"


def _strange_cursor() -> InvalidInputError:
    return InvalidInputError(
        "after is not the end of a page of this search; leave it out for the first page",
        field="after",
    )

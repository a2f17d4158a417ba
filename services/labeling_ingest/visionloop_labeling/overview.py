"""A dataset in numbers: states, classes by split, labels a day, groups, remarks on quality,
suggestions.

Every number is exact as of the moment it says. Each is a count within one index or a fold that the
writers keep, never a walk over images; with a million images all of them together take about a
second, so `Overviews` keeps the last answer: for ever while nothing changed, and while labels come
in for twenty times as long as counting took. That is the price: numbers of a large, busy dataset
may be some seconds old, and say so.
"""

import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final

from sqlalchemy import func, literal_column, select
from sqlalchemy.orm import Session

from visionloop_labeling import datasets, validation
from visionloop_labeling.classes import ClassBook, ClassState
from visionloop_labeling.database import Database
from visionloop_labeling.fold import AuthorKind, EventKind, ItemState
from visionloop_labeling.heads import remaining
from visionloop_labeling.schema import (
    Dataset,
    ImageGroup,
    LabelClass,
    LabelEvent,
    LabelHead,
    LabelHeadClass,
    QualityFlag,
    SplitCount,
)
from visionloop_labeling.splits import SPLITS

DAYS: Final = 30
UNASSIGNED: Final = "unassigned"
_REUSE: Final = 20.0  # times as long as counting took
# Sizes of groups that are shown together: from, to (inclusive; None: and more).
GROUP_SIZES: Final[tuple[tuple[int, int | None], ...]] = (
    *((2, 2), (3, 3), (4, 4), (5, 8), (9, 16), (17, 24), (25, None)),
)


@dataclass(frozen=True, slots=True)
class ClassBalance:
    """A class's images. `splits` counts labels of people and imports, `labelled` all."""

    key: str
    name: str
    colour: str
    state: ClassState
    splits: dict[str, int]
    labelled: int

    @property
    def accepted(self) -> int:
        """Images with a label that may stand in any split."""
        return sum(self.splits.values())


@dataclass(frozen=True, slots=True)
class Day:
    """Labels that came on a day (UTC), by who spoke."""

    date: date
    labels: dict[AuthorKind, int]

    @property
    def total(self) -> int:
        """Of everybody."""
        return sum(self.labels.values())


@dataclass(frozen=True, slots=True)
class GroupSizes:
    """Groups whose images number `least` to `most` (None: and more)."""

    least: int
    most: int | None
    groups: int
    images: int


@dataclass(frozen=True, slots=True)
class Suggestions:
    """What people did with a model version's suggestions."""

    model: str  # "name:7"
    accepted: int
    edited: int
    rejected: int

    @property
    def answered(self) -> int:
        """In all."""
        return self.accepted + self.edited + self.rejected


@dataclass(frozen=True, slots=True)
class Overview:
    """A dataset in numbers, as of `counted`."""

    name: str
    task: str
    created: datetime
    counted: datetime
    images: int
    labelled: int
    states: dict[ItemState, int]
    splits: dict[str, int]  # images by the split of their group; those without: UNASSIGNED
    classes: list[ClassBalance]
    days: list[Day]
    groups: list[GroupSizes]
    joined: int  # images that share a group with another
    flags: dict[str, int]
    suggestions: list[Suggestions]


@dataclass(frozen=True, slots=True)
class _Kept:
    version: tuple[int, ...]
    overview: Overview
    until: float  # monotonic seconds
    past_days: dict[date, Day]


class Overviews:
    """The overviews of a service's datasets. Safe from any thread."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._kept: dict[int, _Kept] = {}

    def of(self, dataset_name: str) -> Overview:
        """The dataset's overview, at most some seconds old. Raises NotFoundError."""
        with self._database.read() as session:
            dataset = datasets.find(session, validation.dataset_name(dataset_name))
            if (kept := self._kept_for(dataset)) is not None:
                return kept
            # One at a time: a second page that asks meanwhile finds the answer of the first.
            with self._lock:
                return self._kept_for(dataset) or self._count(session, dataset)

    def _kept_for(self, dataset: Dataset) -> Overview | None:
        kept = self._kept.get(dataset.id)
        if kept is None or kept.overview.counted.date() != datetime.now(UTC).date():
            return None
        now = _version(dataset)
        # Renamed or merged classes show at once: whoever did it looks for it.
        lasting = kept.version[0] == now[0] and time.monotonic() < kept.until
        return kept.overview if kept.version >= now or lasting else None

    def _count(self, session: Session, dataset: Dataset) -> Overview:
        before = self._kept.get(dataset.id)
        past = {} if before is None else before.past_days
        began = time.monotonic()
        counted = count(session, dataset, past)
        ended = time.monotonic()
        today = counted.counted.date()
        self._kept[dataset.id] = _Kept(
            version=_version(dataset),
            overview=counted,
            until=ended + _REUSE * (ended - began),
            past_days={day.date: day for day in counted.days if day.date < today},
        )
        return counted


def _version(dataset: Dataset) -> tuple[int, ...]:
    """Grows with everything that an overview tells of."""
    return (dataset.class_version, dataset.last_sequence, dataset.last_position)


def count(session: Session, dataset: Dataset, past: dict[date, Day] | None = None) -> Overview:
    """Counts everything; `past` are days that are over and were counted before."""
    classes = balance(session, dataset)
    groups = _groups(session, dataset)
    return Overview(
        name=dataset.name,
        task=str(getattr(datasets.settings_of(dataset), "task", "classification")),
        created=dataset.created,
        counted=datetime.now(UTC),
        images=dataset.last_position,
        labelled=dataset.labelled,
        states=remaining(dataset),
        splits=_splits(session, dataset),
        classes=classes,
        days=_days(session, dataset, past or {}),
        groups=groups,
        joined=sum(one.images for one in groups),
        flags=_flags(session, dataset),
        suggestions=_suggestions(session, dataset),
    )


def balance(session: Session, dataset: Dataset) -> list[ClassBalance]:
    """The classes in their order on pages; those merged into another are counted with it."""
    book = ClassBook(session, dataset)
    classes = book.all()
    meaning = {one.id: book.meaning(one).id for one in classes}
    splits: dict[int, Counter[str]] = defaultdict(Counter)
    counted = select(SplitCount.class_id, SplitCount.split, SplitCount.images).where(
        SplitCount.class_id.in_(meaning)
    )
    for class_id, split, images in session.execute(counted).tuples():
        splits[meaning[class_id]][split] += images
    labelled: Counter[int] = Counter()
    for class_id, images in _labelled(session, dataset).items():
        labelled[meaning[class_id]] += images
    return [
        ClassBalance(
            key=one.key,
            name=one.name,
            colour=one.colour,
            state=ClassState(one.state),
            splits={split: splits[one.id][split] for split in SPLITS},
            labelled=labelled[one.id],
        )
        for one in classes
        if one.state != ClassState.MERGED
    ]


def _labelled(session: Session, dataset: Dataset) -> Counter[int]:
    """Class → images whose current label names it, whoever said so."""
    counted: Counter[int] = Counter()
    mine = select(LabelClass.id).where(LabelClass.dataset_id == dataset.id)
    for table in (LabelHead, LabelHeadClass):
        query = (
            select(table.class_id, func.count())
            .where(table.class_id.in_(mine))
            .group_by(table.class_id)
        )
        counted.update({key: images for key, images in session.execute(query).tuples() if key})
    return counted


def _days(session: Session, dataset: Dataset, past: dict[date, Day]) -> list[Day]:
    today = datetime.now(UTC).date()
    days = [today - timedelta(days=ago) for ago in reversed(range(DAYS))]
    unknown = [day for day in days if day not in past]
    speaking = [
        kind for kind in AuthorKind if _labels(session, dataset, kind, unknown[0], unknown[-1])
    ]
    counted = {
        day: Day(day, {kind: _labels(session, dataset, kind, day, day) for kind in speaking})
        for day in unknown
    }
    return [past.get(day) or counted[day] for day in days]


def _labels(session: Session, dataset: Dataset, kind: AuthorKind, first: date, last: date) -> int:
    begin = datetime(first.year, first.month, first.day, tzinfo=UTC)
    end = datetime(last.year, last.month, last.day, tzinfo=UTC) + timedelta(days=1)
    query = select(func.count()).where(
        LabelEvent.dataset_id == dataset.id,
        LabelEvent.kind == EventKind.LABEL,
        LabelEvent.author_kind == kind,
        LabelEvent.at >= begin,
        LabelEvent.at < end,
    )
    return session.scalar(query) or 0


def _splits(session: Session, dataset: Dataset) -> dict[str, int]:
    # Of groups, not of images: a group knows its size, and there is no join.
    query = (
        select(ImageGroup.split, func.sum(ImageGroup.size))
        .where(ImageGroup.dataset_id == dataset.id)
        .group_by(ImageGroup.split)
    )
    counted = {split or UNASSIGNED: int(n) for split, n in session.execute(query).tuples()}
    return {split: counted.get(split, 0) for split in (*SPLITS, UNASSIGNED)}


def _groups(session: Session, dataset: Dataset) -> list[GroupSizes]:
    query = (
        select(ImageGroup.size, func.count())
        # Literally, or SQLite would not see that the index of larger groups has them all.
        .where(ImageGroup.dataset_id == dataset.id, ImageGroup.size > literal_column("1"))
        .group_by(ImageGroup.size)
    )
    counted = session.execute(query).tuples().all()
    ranges = []
    for least, most in GROUP_SIZES:
        within = [(size, n) for size, n in counted if least <= size and (most or size) >= size]
        ranges.append(
            GroupSizes(least, most, sum(n for _, n in within), sum(size * n for size, n in within))
        )
    return ranges


def _flags(session: Session, dataset: Dataset) -> dict[str, int]:
    query = (
        select(QualityFlag.flag, func.count())
        .where(QualityFlag.dataset_id == dataset.id)
        .group_by(QualityFlag.flag)
        .order_by(QualityFlag.flag)
    )
    return dict(session.execute(query).tuples().all())


def _suggestions(session: Session, dataset: Dataset) -> list[Suggestions]:
    query = (
        select(LabelEvent.suggested_by, LabelEvent.suggestion, func.count())
        .where(LabelEvent.dataset_id == dataset.id, LabelEvent.suggestion != literal_column("''"))
        .group_by(LabelEvent.suggested_by, LabelEvent.suggestion)
    )
    counted: dict[str, dict[str, int]] = defaultdict(dict)
    for model, outcome, events in session.execute(query).tuples():
        counted[model][outcome] = events
    return [
        Suggestions(
            model=model,
            accepted=outcomes.get("accepted", 0),
            edited=outcomes.get("edited", 0),
            rejected=outcomes.get("rejected", 0),
        )
        for model, outcomes in sorted(counted.items())
    ]

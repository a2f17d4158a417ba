"""A dataset's label log and what follows from it, read from outside the program and added up anew.

The sums are this module's own: people speak after all imports here, so a fold is short, and one
that shares nothing with the program's can disagree with it.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select
from support.labeling_facts import engine_of

from visionloop_labeling.schema import (
    Dataset,
    ImageGroup,
    Item,
    LabelClass,
    LabelEvent,
    LabelHead,
    SplitCount,
)

COUNTERS = {
    "labelled": "items_labelled",
    "review": "items_in_review",
    "skipped": "items_skipped",
}


@dataclass(frozen=True)
class Event:
    """A row of the log."""

    sequence: int
    event_id: str
    sha256: str
    kind: str
    annotation: Any
    undoes: int | None
    note: str
    author: str
    author_kind: str


@dataclass(frozen=True)
class LabelTables:
    """One moment of the only dataset of a database."""

    events: list[Event]  # in the order of their sequences
    heads: dict[str, tuple[int, Any, bool]]  # digest -> (sequence, annotation, disputed)
    states: dict[str, str]  # digest -> the image's place in the work
    splits: dict[str, str | None]  # digest -> the split of its group
    split_counts: dict[tuple[str, str], int]  # (class, split) -> images, but for zeros
    dataset: dict[str, int]  # its counters


def label_tables(url: str) -> LabelTables:
    """Reads all in one transaction, so that a commit is seen whole or not at all."""
    engine = engine_of(url)
    try:
        with engine.connect() as connection, connection.begin():
            return _tables(connection)
    finally:
        engine.dispose()


def _tables(connection: Connection) -> LabelTables:
    said = (
        select(
            LabelEvent.sequence,
            LabelEvent.event_id,
            Item.sha256,
            LabelEvent.kind,
            LabelEvent.annotation,
            LabelEvent.undoes,
            LabelEvent.note,
            LabelEvent.author,
            LabelEvent.author_kind,
        )
        .join(Item, Item.id == LabelEvent.item_id)
        .order_by(LabelEvent.sequence, LabelEvent.id)
    )
    heads = select(Item.sha256, LabelHead.sequence, LabelHead.annotation, LabelHead.disputed).join(
        Item, Item.id == LabelHead.item_id
    )
    items = select(Item.sha256, Item.state, ImageGroup.split).join(
        ImageGroup, ImageGroup.id == Item.group_id
    )
    counted = (
        select(LabelClass.key, SplitCount.split, SplitCount.images)
        .join(LabelClass, LabelClass.id == SplitCount.class_id)
        .where(SplitCount.images != 0)
    )
    counters = ("last_sequence", "last_position", "labelled", *COUNTERS.values())
    dataset = select(*(getattr(Dataset, name) for name in counters))
    places = connection.execute(items).all()
    return LabelTables(
        events=[Event(*row) for row in connection.execute(said)],
        heads={sha256: tuple(rest) for sha256, *rest in connection.execute(heads)},
        states={sha256: state for sha256, state, _ in places},
        splits={sha256: split for sha256, _, split in places},
        split_counts={(key, split): n for key, split, n in connection.execute(counted)},
        dataset=dict(connection.execute(dataset).mappings().one()),
    )


@dataclass
class Folded:
    """Where an image stands, given its events in order: imports first, people after them."""

    label: Event | None = None
    disputed: bool = False
    flagged: bool = False
    skipped: bool = False

    @classmethod
    def of(cls, events: Sequence[Event]) -> "Folded":
        """But for undos and what they take back."""
        undone = {event.undoes for event in events if event.kind == "undo"}
        folded = cls()
        for event in events:
            if event.kind != "undo" and event.sequence not in undone:
                folded.take(event)
        return folded

    def take(self, event: Event) -> None:
        """The next event."""
        match event.kind:
            case "label" if event.author_kind == "import":
                other = self.label is not None and self.label.annotation != event.annotation
                self.disputed = self.disputed or other
                self.label = event if self.label is None or other else self.label
            case "label":
                same = (
                    self.label is not None
                    and self.label.author_kind == "human"
                    and self.label.annotation == event.annotation
                )
                self.label = self.label if same else event
                self.disputed = self.flagged = self.skipped = False
            case "retract":
                self.label = None
                self.disputed = self.flagged = self.skipped = False
            case "skip":
                self.skipped = True
            case "flag" | "unflag":
                self.flagged = event.kind == "flag"

    @property
    def state(self) -> str:
        """The image's place in the work."""
        if self.disputed or self.flagged:
            return "review"
        if self.skipped:
            return "skipped"
        return "open" if self.label is None else "labelled"


def check_label_tables(found: LabelTables) -> None:
    """Sequences dense, nothing twice, and everything that follows from the log as it gives it."""
    assert [event.sequence for event in found.events] == list(range(1, len(found.events) + 1))
    assert len({event.event_id for event in found.events}) == len(found.events)
    assert found.dataset["last_sequence"] == len(found.events)
    told: dict[str, list[Event]] = {sha256: [] for sha256 in found.states}
    for event in found.events:
        told[event.sha256].append(event)
    folded = {sha256: Folded.of(events) for sha256, events in told.items()}
    labels = {sha256: one for sha256, one in folded.items() if one.label is not None}
    assert found.heads == {
        sha256: (one.label.sequence, one.label.annotation, one.disputed)
        for sha256, one in labels.items()
    }
    assert found.states == {sha256: one.state for sha256, one in folded.items()}
    _check_counters(found)


def _check_counters(found: LabelTables) -> None:
    places = Counter(found.states.values())
    assert {name: found.dataset[name] for name in COUNTERS.values()} == {
        name: places[state] for state, name in COUNTERS.items()
    }
    assert found.dataset["last_position"] == len(found.states)
    assert found.dataset["labelled"] == len(found.heads)
    standing = Counter(
        (key, found.splits[sha256])
        for sha256, (_, annotation, _) in found.heads.items()
        for key in annotation["classes"]
    )
    assert found.split_counts == standing

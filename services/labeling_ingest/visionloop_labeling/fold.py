"""What an image's label is, given everything that was said about it: a pure fold over its events.

Who may replace whom: a person's word stands above an import's, an import's above an app's, an
app's above a model's. A label becomes the current one if its author ranks at least as high as the
one before; otherwise it is kept in the history and marks the label as disputed. So feedback never
overwrites a person's decision, and importing an old table again does not undo corrections: not even
where the correction was to take the label back.

Among equals the last word counts. Feedback waits before it is recorded, in the inbox or aside until
its class is there. It counts as of the time when it was said, so it does not replace what an app
has said since, and where it only says that the model was wrong, it flags no image that a person has
decided since. When it was said is told by the clock of the program that took it, when a person
decided by ours: between the two, "since" means later by more than such clocks are apart
(`CLOCKS_APART`). So a report is never lost to a clock that is behind; its price is a look at an
image whose report waited while a person decided, by less than that.

The label is also disputed when two rows bring the same image with different content: the later row
counts (rank permitting), and the dispute stays visible until somebody who may decide sends a label
for the image. A flag stays until a person labels the image or takes the flag back.

An undone event counts as if it had never come. The fold knows no classes: what became of them since
is asked where a label is read. Folding anew at each event costs one query for the image's events
(few: most images have one) and buys that undo, replay and repair are the same ten lines.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from visionloop_labeling.annotation import Annotation
from visionloop_labeling.schema import LabelEvent


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
_NOBODY: Final = -1
# The clock of whoever took a word that waited may be behind ours, or ahead, by so much.
CLOCKS_APART: Final = timedelta(minutes=5)


class EventKind(StrEnum):
    """What an event is about."""

    LABEL = "label"  # says what the image shows
    RETRACT = "retract"  # takes the label away
    SKIP = "skip"  # cannot or will not say
    FLAG = "flag"  # somebody else should look
    UNFLAG = "unflag"
    UNDO = "undo"  # takes back an own event


class ItemState(StrEnum):
    """An image's place in the work."""

    OPEN = "open"
    LABELLED = "labelled"
    REVIEW = "review"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Standing:
    """Where an image stands. `retracted_by`: who took its label away, if nobody gave one since.

    `said`: when those who may change the label last spoke, be it to confirm it. `decided`: when a
    person last labelled the image or took its label or flag away. Both at the earliest, by the
    clock of what waited.
    """

    label: LabelEvent | None = None
    disputed: bool = False
    flag: LabelEvent | None = None
    skipped: bool = False
    retracted_by: AuthorKind | None = None
    said: datetime | None = field(default=None, compare=False)
    decided: datetime | None = field(default=None, compare=False)

    @property
    def sequence(self) -> int:
        """The sequence of the current label; 0 for none."""
        return 0 if self.label is None else self.label.sequence

    @property
    def author_kind(self) -> AuthorKind | None:
        """Whose word the current label is."""
        return None if self.label is None else AuthorKind(self.label.author_kind)

    @property
    def accepted(self) -> bool:
        """Whether there is a label that may stand in any split."""
        kind = self.author_kind
        return kind is not None and kind.accepted

    @property
    def rank(self) -> int:
        """Who must speak at least to change the label."""
        kind = self.author_kind or self.retracted_by
        return _NOBODY if kind is None else kind.rank

    def state(self, *, outdated: bool) -> ItemState:
        """The place in the work. `outdated`: the label names a class that was split."""
        if self.disputed or self.flag is not None:
            return ItemState.REVIEW
        if self.skipped:
            return ItemState.SKIPPED
        return ItemState.LABELLED if self.accepted and not outdated else ItemState.OPEN


def fold(events: Iterable[LabelEvent]) -> Standing:
    """Where an image stands after its events, given in the order of their sequences."""
    standing = Standing()
    for event in effective(list(events)):
        standing = _STEPS[EventKind(event.kind)](standing, event)
    return standing


def effective(events: Sequence[LabelEvent]) -> list[LabelEvent]:
    """The events that count: neither undone nor an undo."""
    undone = {event.undoes for event in events if event.kind == EventKind.UNDO}
    return [e for e in events if e.kind != EventKind.UNDO and e.sequence not in undone]


def outdated(standing: Standing, event: LabelEvent) -> bool:
    """Whether it had to wait until something newer was said: by equals for a label, by a person for
    a flag."""
    if event.kind == EventKind.LABEL and AuthorKind(event.author_kind).rank == standing.rank:
        newer = standing.said
    else:
        newer = standing.decided if event.kind == EventKind.FLAG else None
    return event.said_at is not None and newer is not None and event.said_at < newer


def contradicts(before: LabelEvent | None, event: LabelEvent) -> bool:
    """Whether an event says that the image shows something else than the label before it."""
    if before is None:
        return False
    return before.annotation != event.annotation and _content(before) != _content(event)


def _content(event: LabelEvent) -> tuple[object, ...]:
    return Annotation.model_validate(event.annotation or {}).content()


def _label(standing: Standing, event: LabelEvent) -> Standing:
    kind, before = AuthorKind(event.author_kind), standing.label
    # A higher rank that repeats the label confirms it: that changes who stands behind it.
    late = outdated(standing, event)
    applies = kind.rank > standing.rank or (
        kind.rank == standing.rank
        and not late
        and (before is None or before.annotation != event.annotation)
    )
    decides = kind.accepted and not event.from_row
    disputed = standing.disputed and not decides
    if contradicts(before, event) and (event.from_row or not (applies or late)):
        disputed = True
    by_person = decides and kind is AuthorKind.HUMAN
    return Standing(
        label=event if applies else before,
        disputed=disputed,
        flag=None if by_person else standing.flag,
        skipped=standing.skipped and not (kind.accepted and (applies or decides)),
        retracted_by=None if applies else standing.retracted_by,
        said=_said(event) if kind.rank >= standing.rank and not late else standing.said,
        decided=_said(event) if by_person else standing.decided,
    )


def _retract(standing: Standing, event: LabelEvent) -> Standing:
    kind = AuthorKind(event.author_kind)
    if kind.rank < standing.rank:
        return replace(standing, disputed=standing.disputed or standing.label is not None)
    by_person = kind is AuthorKind.HUMAN
    return Standing(
        flag=None if by_person else standing.flag,
        retracted_by=kind,
        said=_said(event),
        decided=_said(event) if by_person else standing.decided,
    )


def _said(event: LabelEvent) -> datetime:
    return event.said_at or event.at - CLOCKS_APART


def _skip(standing: Standing, _event: LabelEvent) -> Standing:
    return replace(standing, skipped=True)


def _flag(standing: Standing, event: LabelEvent) -> Standing:
    return standing if outdated(standing, event) else replace(standing, flag=event)


def _unflag(standing: Standing, event: LabelEvent) -> Standing:
    return replace(standing, flag=None, decided=_said(event))


_STEPS: Final = {
    EventKind.LABEL: _label,
    EventKind.RETRACT: _retract,
    EventKind.SKIP: _skip,
    EventKind.FLAG: _flag,
    EventKind.UNFLAG: _unflag,
}

"""Who may say what of an image as it stands, and what a statement brings about."""

from collections.abc import Sequence

from visionloop.errors import PermissionDeniedError
from visionloop_labeling.fold import EventKind, ItemState, Standing, effective
from visionloop_labeling.schema import Item, LabelEvent
from visionloop_labeling.statements import StaleLabelError, Statement


def check_right(item: Item, standing: Standing, statement: Statement) -> None:
    """Labellers may decide what they flagged themselves; all else in review waits for reviewers.

    Raises PermissionDeniedError.
    """
    deciding = statement.kind in (EventKind.LABEL, EventKind.RETRACT, EventKind.UNFLAG)
    if statement.may_review or not deciding:
        return
    if statement.kind is EventKind.RETRACT:
        raise PermissionDeniedError(
            "taking a label away needs the role reviewer; to take back what you said, undo it"
        )
    own_flag = standing.flag is not None and standing.flag.author == statement.author
    if item.state == ItemState.REVIEW and (standing.disputed or not own_flag):
        raise PermissionDeniedError(
            f"image {item.sha256} is in review ({item.why.get('reason', 'disputed')}); a reviewer "
            "decides it"
        )


def is_applied(event: LabelEvent, before: Standing, after: Standing) -> bool:
    """Whether an event changes how its image stands."""
    if event.kind == EventKind.LABEL:
        return after.label is event
    if event.kind == EventKind.RETRACT:
        return after.label is None and before != after
    return before != after


def undone_by(statement: Statement, events: Sequence[LabelEvent]) -> int:
    """The sequence that an undo takes back: its author's last word that counts.

    Raises StaleLabelError where there is none, or where another one was meant.
    """
    own = [
        event.sequence
        for event in effective(events)
        if (event.author_kind, event.author) == (statement.author_kind, statement.author)
    ]
    if not own:
        raise StaleLabelError(
            f'"{statement.author}" has said nothing about this image that could be undone',
            field="undoes",
        )
    if statement.undoes not in (None, own[-1]):
        raise StaleLabelError(
            f'event {statement.undoes} is not the last word of "{statement.author}" on this image, '
            f"which is event {own[-1]}; undo that one first",
            field="undoes",
        )
    return own[-1]

"""Which waiting images a model version is asked about next.

First those at the top of the queue, which people will see next; then all others in the order they
arrived, a bounded piece of it at a time.
"""

from collections import deque
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from sqlalchemy import and_, select
from sqlalchemy.orm import Session, aliased

from visionloop_labeling.fold import ItemState
from visionloop_labeling.schema import Blob, Dataset, Item, Prediction
from visionloop_labeling.stable_models import StableModel

GROUP: Final = 32  # images asked about at once
_GROUP_BYTES: Final = 64 * 2**20
_NEXT: Final = 128  # images at the top of the queue that are looked after first
_SWEEP: Final = 2048  # images looked through at once
_REMEMBERED: Final = 1000  # worths, for the places of images that are asked at random
_WAITING: Final = (ItemState.OPEN, ItemState.REVIEW)


class ToAsk(NamedTuple):
    """An image to ask the model about."""

    item: int  # its row id
    sha256: str
    size: int  # bytes


class Progress:
    """How far one dataset's images have been shown to one version."""

    def __init__(self) -> None:
        self.position = 0  # of the last image in the order of arrival
        self.refused: set[int] = set()  # images that the version gave no answer for
        self.worths: deque[float] = deque(maxlen=_REMEMBERED)


def choose(
    session: Session, dataset: Dataset, model: StableModel, progress: Progress
) -> tuple[list[ToAsk], bool]:
    """The images to ask about next, and whether those were all that wait."""
    wanted: dict[int, ToAsk] = {}
    for state in _WAITING:
        _add(wanted, _unasked(session, dataset, model, state), progress.refused)
    if len(wanted) >= GROUP:
        return _bounded(wanted.values()), False
    swept, end = _sweep(session, dataset, model, progress)
    _add(wanted, swept, progress.refused)
    chosen = _bounded(wanted.values())
    finished = len(chosen) == len(wanted)
    if finished:
        # What is left out now would be passed over for good, so the place is kept until then.
        progress.position = end
    return chosen, finished and end >= dataset.last_position


def _add(wanted: dict[int, ToAsk], found: Iterable[ToAsk], refused: set[int]) -> None:
    wanted.update({asked.item: asked for asked in found if asked.item not in refused})


def _bounded(wanted: Iterable[ToAsk]) -> list[ToAsk]:
    """As many as are asked about at once, by number and by bytes; at least one."""
    chosen: list[ToAsk] = []
    size = 0
    for asked in wanted:
        size += asked.size
        if chosen and (len(chosen) == GROUP or size > _GROUP_BYTES):
            break
        chosen.append(asked)
    return chosen


def _unasked(
    session: Session, dataset: Dataset, model: StableModel, state: ItemState
) -> list[ToAsk]:
    """Those without an answer among the images that people will see next."""
    top = (
        select(Item.id, Item.sha256, Item.priority, Item.position)
        .where(Item.dataset_id == dataset.id, Item.state == state)
        .order_by(Item.priority, Item.position)
        .limit(_NEXT)
        .subquery()
    )
    query = (
        select(top.c.id, top.c.sha256, Blob.size)
        .join(Blob, Blob.sha256 == top.c.sha256)
        .outerjoin(Prediction, _answered(top.c.id, model))
        .where(Prediction.item_id.is_(None))
        .order_by(top.c.priority, top.c.position)
    )
    return [ToAsk(*row) for row in session.execute(query).tuples()]


def _sweep(
    session: Session, dataset: Dataset, model: StableModel, progress: Progress
) -> tuple[list[ToAsk], int]:
    """Those without an answer among the images that arrived next, and where that ends.

    Positions are given for ever and in the order of commits, so whatever arrives later stands
    behind; what comes to wait again (a label taken back) is found at the top of the queue.
    """
    end = min(progress.position + _SWEEP, dataset.last_position)
    query = (
        select(Item.id, Item.sha256, Blob.size)
        .join(Blob, Blob.sha256 == Item.sha256)
        .outerjoin(Prediction, _answered(Item.id, model))
        .where(
            Item.dataset_id == dataset.id,
            Item.position > progress.position,
            Item.position <= end,
            Item.state.in_(_WAITING),
            Prediction.item_id.is_(None),
        )
        .order_by(Item.position)
        .limit(GROUP + 1 + len(progress.refused))
    )
    found = [ToAsk(*row) for row in session.execute(query).tuples()]
    return found, end


def _answered(item_id: Any, model: StableModel) -> Any:
    """That the version answered, and no other version of the model after it."""
    newer = aliased(Prediction)
    outdated = select(newer.item_id).where(
        newer.item_id == Prediction.item_id,
        newer.model == Prediction.model,
        newer.at > Prediction.at,
    )
    return and_(
        Prediction.item_id == item_id,
        Prediction.model == model.name,
        Prediction.version == model.version,
        ~outdated.correlate(Prediction).exists(),
    )

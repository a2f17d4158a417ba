"""What recording events on many images asks about them, read in a few statements for all.

A round of the grid says something about 48 images while it holds the dataset's lock: were each
asked for by itself, with its pixels' size, its group, its label and its events, everybody else
would wait for some three hundred statements.
"""

from collections.abc import Collection

from sqlalchemy import select
from sqlalchemy.orm import Session

from visionloop_labeling.schema import (
    Blob,
    Dataset,
    ImageGroup,
    Item,
    LabelEvent,
    LabelHead,
    Prediction,
)


class KnownImages:
    """The images of these (checked) digests and all about them. The dataset is locked.

    What was read is held: the session forgets what nobody holds and would ask for it again.
    """

    def __init__(
        self,
        session: Session,
        dataset: Dataset,
        digests: Collection[str],
        event_ids: Collection[str],
        *,
        suggested: bool,
    ) -> None:
        """`event_ids` are those of the events to come, of which some may have come before.

        `suggested`: some of them say what a model suggested.
        """
        query = (
            select(Item, Blob, ImageGroup, LabelHead)
            .join(Blob, Blob.sha256 == Item.sha256)
            .join(ImageGroup, ImageGroup.id == Item.group_id)
            .outerjoin(LabelHead, LabelHead.item_id == Item.id)
            .where(Item.dataset_id == dataset.id, Item.sha256.in_(digests))
        )
        self._rows = session.execute(query).tuples().all()
        self.items = {row[0].sha256: row[0] for row in self._rows}
        self.groups = [row[2] for row in self._rows]
        ids = [item.id for item in self.items.values()]
        self.events: dict[int, list[LabelEvent]] = {item_id: [] for item_id in ids}
        said = select(LabelEvent).where(LabelEvent.item_id.in_(ids)).order_by(LabelEvent.sequence)
        for event in session.scalars(said):
            self.events[event.item_id].append(event)
        before = select(LabelEvent).where(LabelEvent.event_id.in_(event_ids))
        self.recorded = {event.event_id: event for event in session.scalars(before)}
        self.event_ids = frozenset(event_ids)
        if suggested or any(item.why.get("blind") for item in self.items.values()):
            predicted = select(Prediction).where(Prediction.item_id.in_(ids))
            self._predictions = session.scalars(predicted).all()

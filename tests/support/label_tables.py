"""The tables that follow from the label log, to be compared; and images to say something about."""

import hashlib
from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from visionloop_labeling.schema import (
    BLOB_STORED,
    Blob,
    Dataset,
    ImageGroup,
    Item,
    LabelClass,
    LabelHead,
    LabelHeadClass,
    SplitCount,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def make_images(session: Session, dataset: Dataset, number: int, *, size: int = 40) -> list[Item]:
    """Rows of so many images, two to a group, without objects in the store."""
    items = []
    group = None
    for position in range(1, number + 1):
        sha256 = hashlib.sha256(f"{dataset.name}/{position}".encode()).hexdigest()
        blob = Blob(
            sha256=sha256,
            state=BLOB_STORED,
            size=1,
            media_type="image/png",
            width=size,
            height=size,
            pixel_sha256=sha256,
            phash=b"",
            thumbnail=b"",
            created=NOW,
        )
        session.add(blob)
        if group is None or position % 2:
            group = ImageGroup(dataset_id=dataset.id, key=f"g-{position}", size=0)
            session.add(group)
        group.size += 1
        session.flush()
        item = Item(
            dataset_id=dataset.id,
            position=position,
            sha256=sha256,
            group_id=group.id,
            attributes={},
            created=NOW,
        )
        session.add(item)
        items.append(item)
    dataset.last_position = number
    session.flush()
    return items


def tables(session: Session, dataset: Dataset) -> dict[str, object]:
    """Everything that a rebuild must give again."""
    mine = select(Item.id).where(Item.dataset_id == dataset.id)
    heads = session.scalars(select(LabelHead).where(LabelHead.item_id.in_(mine)))
    further = session.scalars(select(LabelHeadClass).where(LabelHeadClass.item_id.in_(mine)))
    counts = session.scalars(
        select(SplitCount)
        .join(LabelClass, LabelClass.id == SplitCount.class_id)
        .where(LabelClass.dataset_id == dataset.id, SplitCount.images != 0)
    )
    items = session.scalars(select(Item).where(Item.dataset_id == dataset.id))
    return {
        "heads": {
            head.item_id: (
                head.event_row_id,
                head.sequence,
                head.class_id,
                head.annotation,
                head.author_kind,
                head.disputed,
            )
            for head in heads
        },
        "further classes": {(one.item_id, one.class_id) for one in further},
        "counts": {(one.class_id, one.split): one.images for one in counts},
        "items": {one.id: (one.state, one.why, one.leased_by) for one in items},
        "dataset": (
            dataset.labelled,
            dataset.items_labelled,
            dataset.items_in_review,
            dataset.items_skipped,
        ),
    }

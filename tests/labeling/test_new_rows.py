"""New rows outside the session: unseen until they are written, and then rows like all others."""

from sqlalchemy import func, select
from support.label_tables import NOW, make_images

from visionloop_labeling import datasets
from visionloop_labeling.new_rows import NewRows
from visionloop_labeling.schema import Dataset, ImageGroup, Item, LabelEvent, LabelHead

KINDS = (ImageGroup, Item, LabelEvent, LabelHead)


def one_of_each(new: NewRows, dataset: Dataset, sha256: str, number: int) -> tuple[Item, LabelHead]:
    """An image that somebody labelled, in a group of its own."""
    group = new.add(
        ImageGroup, id=new.id_of(ImageGroup), dataset_id=dataset.id, key=f"own-{number}", size=1
    )
    item = new.add(
        Item,
        id=new.id_of(Item), dataset_id=dataset.id, position=100 + number, sha256=sha256,
        group_id=group.id, declared_group="", attributes={}, source="", created=NOW, state="open",
        priority=0.0, why={},
    )  # fmt: skip
    event = new.add(
        LabelEvent,
        id=new.id_of(LabelEvent), event_id=f"event-{number}", dataset_id=dataset.id,
        sequence=number, item_id=item.id, kind="label", from_row=True, annotation={}, note="",
        author_kind="import", author="", applied=True, suggested_by="", suggestion="", at=NOW,
    )  # fmt: skip
    head = new.add(
        LabelHead,
        item_id=item.id, event_row_id=event.id, sequence=number, annotation={},
        author_kind="import", disputed=False,
    )  # fmt: skip
    return item, head


def test_rows_wait_and_what_changes_after_they_are_settled_is_written(core) -> None:
    with core.database.write() as session:
        dataset = datasets.find(session, "cells", lock=True)
        make_images(session, dataset, 2)  # whose blobs a second dataset shares
        other = datasets.create(session, "other")
        blobs = list(session.scalars(select(Item.sha256)))
        before = {kind: session.scalar(select(func.count()).select_from(kind)) for kind in KINDS}
        new = NewRows(session)
        item, _ = one_of_each(new, other, blobs[0], 1)
        item.state = "labelled"  # while it waits
        late, head = one_of_each(new, other, blobs[1], 2)
        for kind in KINDS:
            assert session.scalar(select(func.count()).select_from(kind)) == before[kind]
        new.settle()
        late.state, head.disputed = "review", True
        new.write()  # nothing is left to write
    with core.database.read() as session:
        mine = select(Item).where(Item.dataset_id == other.id).order_by(Item.id)
        items = session.scalars(mine).all()
        assert [(one.state, one.leased_by) for one in items] == [
            ("labelled", None),
            ("review", None),
        ]
        heads = [session.get_one(LabelHead, one.id) for one in items]
        assert [one.disputed for one in heads] == [False, True]
        for kind in KINDS:
            counted = session.scalar(select(func.count()).select_from(kind))
            assert counted == (before[kind] or 0) + 2


def test_no_id_is_given_twice_whatever_was_reserved_and_not_written(core) -> None:
    with core.database.write() as session:
        make_images(session, datasets.find(session, "cells", lock=True), 3)
        taken = set(session.scalars(select(Item.id)))
        new = NewRows(session)
        given = [new.id_of(Item)]
        new.reserve(Item, 2)
        given += [new.id_of(Item) for _ in range(4)]
        assert len({*given, *taken}) == len(given) + len(taken)
        assert given == sorted(given)

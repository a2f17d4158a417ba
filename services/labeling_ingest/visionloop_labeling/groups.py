"""Joining images that must share a split, without letting likeness chain a dataset into one group.

An image is linked to earlier ones in two ways. Firmly: the same pixels, or the same declared group
(a patient, a product, a video); firm links merge groups of any size. Loosely: near duplicates; a
loose link joins the newcomer to a group that has room (`duplicates.MAX_GROUP`), it never merges two
groups that exist. Firm links come first; among links of a kind the newcomer goes to the group in
the more protected split (test, then val, then train).

Groups that already stand in different splits are never merged, because moving images would break "a
split is given once": linked images that stand in different splits are sorted out by `snapshots`,
which leaves out the less protected one.
"""

from collections.abc import Sequence

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from visionloop_labeling import datasets
from visionloop_labeling.duplicates import MAX_GROUP, Likeness
from visionloop_labeling.schema import Blob, Dataset, ImageGroup, Item
from visionloop_labeling.splits import PROTECTION


def place(
    session: Session,
    dataset: Dataset,
    *,
    sha256: str,
    pixel_sha256: str,
    declared: str,
    alike: Sequence[Likeness],
) -> ImageGroup:
    """The group for a newcomer, which is counted in its size. `alike` keys are item ids."""
    firm = _firmly_linked(session, dataset, pixel_sha256, declared)
    group = _merge(session, firm) or _room_among(session, alike)
    if group is None:
        group = ImageGroup(dataset_id=dataset.id, key=f"g-{sha256[:24]}", size=0)
        session.add(group)
    group.size += 1
    session.flush()
    return group


def declare(session: Session, dataset: Dataset, item: Item, declared: str) -> None:
    """Gives an item that had none its declared group, and merges what can be merged."""
    firm = _firmly_linked(session, dataset, "", declared)
    item.declared_group = declared
    own = session.get_one(ImageGroup, item.group_id)
    _merge(session, [own, *(group for group in firm if group.id != own.id)])
    session.flush()


def give_to_train(
    session: Session, dataset_name: str, items: Sequence[int]
) -> dict[int, tuple[str, str]]:
    """Puts those of the items' groups that have no split into train, for good.

    A model is about to see them. Returns the group's key and its split for each item as they are
    now: somebody else may have given the group another split just before. Locks the dataset.
    """
    dataset = datasets.find(session, dataset_name, lock=True)
    query = (
        select(Item.id, ImageGroup)
        .join(ImageGroup, ImageGroup.id == Item.group_id)
        .where(Item.id.in_(items))
    )
    placed = {}
    for item_id, group in session.execute(query).tuples():
        if group.split is None:
            group.split = "train"
            group.split_sequence = dataset.last_sequence
        placed[item_id] = (group.key, group.split)
    return placed


def _firmly_linked(
    session: Session, dataset: Dataset, pixel_sha256: str, declared: str
) -> list[ImageGroup]:
    """The groups of images with the same pixels or the same declared group, oldest first."""
    linked = set(
        session.scalars(
            select(Item.group_id)
            .join(Blob, Blob.sha256 == Item.sha256)
            .where(Blob.pixel_sha256 == pixel_sha256, Item.dataset_id == dataset.id)
        )
    )
    if declared:
        linked |= set(
            session.scalars(
                select(Item.group_id)
                .where(Item.dataset_id == dataset.id, Item.declared_group == declared)
                .distinct()
            )
        )
    query = select(ImageGroup).where(ImageGroup.id.in_(linked)).order_by(ImageGroup.id)
    return list(session.scalars(query)) if linked else []


def _merge(session: Session, groups: Sequence[ImageGroup]) -> ImageGroup | None:
    """Merges what may be merged into the most protected (then oldest) of the groups."""
    if not groups:
        return None
    kept = max(groups, key=lambda group: (PROTECTION[group.split], -group.id))
    for group in groups:
        if group is kept or group.split not in (None, kept.split):
            continue
        session.execute(
            update(Item).where(Item.group_id == group.id).values(group_id=kept.id),
            execution_options={"synchronize_session": "fetch"},
        )
        kept.size += group.size
        session.delete(group)
    return kept


def _room_among(session: Session, alike: Sequence[Likeness]) -> ImageGroup | None:
    """The most protected, then most alike, group of near duplicates that has room."""
    if not alike:
        return None
    closeness: dict[int, float] = {}
    keys = [found.key for found in alike]
    group_of = dict(
        session.execute(select(Item.id, Item.group_id).where(Item.id.in_(keys))).tuples().all()
    )
    for found in alike:
        group = group_of[found.key]
        closeness[group] = max(closeness.get(group, -1.0), found.correlation)
    query = select(ImageGroup).where(ImageGroup.id.in_(closeness), ImageGroup.size < MAX_GROUP)
    return max(
        session.scalars(query),
        key=lambda group: (PROTECTION[group.split], closeness[group.id], -group.id),
        default=None,
    )

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

from collections import defaultdict
from collections.abc import Sequence

from sqlalchemy import select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from visionloop_labeling import datasets
from visionloop_labeling.duplicates import MAX_GROUP, Likeness
from visionloop_labeling.new_rows import NewRows
from visionloop_labeling.receipts import Prepared
from visionloop_labeling.schema import Blob, Dataset, ImageGroup, Item
from visionloop_labeling.splits import PROTECTION


class GroupBook:
    """The groups that some rows' images may join, within one transaction. The dataset is locked.

    What the rows may be linked to firmly is read at the beginning, in three queries for all.
    """

    def __init__(
        self, session: Session, dataset: Dataset, rows: Sequence[Prepared], new: NewRows
    ) -> None:
        self._session = session
        self._dataset = dataset
        self._new = new
        usable = [(row.row, row.inspection) for row in rows if row.inspection is not None]
        pixels = {inspection.pixel_sha256 for _, inspection in usable}
        declared = {row.group for row, _ in usable} - {""}
        self._pixels = self._read(Blob.pixel_sha256, pixels)
        self._declared = self._read(Item.declared_group, declared)
        self._merged: dict[int, int] = {}
        wanted = {id for ids in (*self._pixels.values(), *self._declared.values()) for id in ids}
        query = select(ImageGroup).where(ImageGroup.id.in_(wanted))
        self._groups = {one.id: one for one in session.scalars(query)} if wanted else {}

    def has_pixels(self, pixel_sha256: str) -> bool:
        """Whether the dataset has an image with these pixels."""
        return bool(self._pixels.get(pixel_sha256))

    def place(
        self, sha256: str, declared: str, *, pixel_sha256: str, alike: Sequence[Likeness]
    ) -> ImageGroup:
        """The group of a new image, which is counted in it: an earlier image's, or its own.

        `alike` keys are item ids. An own group may not be written before the transaction ends.
        """
        linked = self._linked(pixel_sha256, declared)
        group = self._merge(linked) or self._room_among(alike) or self._own(sha256)
        group.size += 1
        self._groups[group.id] = group
        self._pixels[pixel_sha256].add(group.id)
        if declared:
            self._declared[declared].add(group.id)
        return group

    def _own(self, sha256: str) -> ImageGroup:
        return self._new.add(
            ImageGroup,
            id=self._new.id_of(ImageGroup),
            dataset_id=self._dataset.id,
            key=f"g-{sha256[:24]}",
            split=None,
            size=0,
        )

    def declare(self, item: Item, declared: str) -> None:
        """Gives an item that had none its declared group, and merges what can be merged."""
        firm = self._linked("", declared)
        item.declared_group = declared
        own = self._groups.get(item.group_id) or self._session.get_one(ImageGroup, item.group_id)
        self._groups[own.id] = own
        kept = self._merge([own, *(group for group in firm if group.id != own.id)])
        self._declared[declared].update({own.id, own.id if kept is None else kept.id})

    def _read(
        self, column: InstrumentedAttribute[str], wanted: set[str]
    ) -> defaultdict[str, set[int]]:
        """Which groups have images with these values."""
        found = defaultdict[str, set[int]](set)
        if wanted:
            query = (
                select(column, Item.group_id)
                .select_from(Item)
                .join(Blob, Blob.sha256 == Item.sha256)
                .where(column.in_(wanted), Item.dataset_id == self._dataset.id)
                .distinct()
            )
            for value, group in self._session.execute(query).tuples():
                found[value].add(group)
        return found

    def _linked(self, pixel_sha256: str, declared: str) -> list[ImageGroup]:
        """The groups of images with the same pixels or the same declared group, oldest first."""
        ids = self._pixels[pixel_sha256] | (self._declared[declared] if declared else set())
        standing = {self._standing(one) for one in ids}
        return [self._groups[one] for one in sorted(standing)]

    def _standing(self, group: int) -> int:
        """The id of the group that a group was merged into, or its own."""
        while group in self._merged:
            group = self._merged[group]
        return group

    def _merge(self, groups: Sequence[ImageGroup]) -> ImageGroup | None:
        """Merges what may be merged into the most protected (then oldest) of the groups."""
        if not groups:
            return None
        kept = max(groups, key=lambda group: (PROTECTION[group.split], -group.id))
        if len(groups) > 1:
            self._new.settle()
        for group in groups:
            if group is kept or group.split not in (None, kept.split):
                continue
            self._session.execute(
                update(Item).where(Item.group_id == group.id).values(group_id=kept.id),
                execution_options={"synchronize_session": "fetch"},
            )
            kept.size += group.size
            self._session.delete(group)
            self._merged[group.id] = kept.id
        return kept

    def _room_among(self, alike: Sequence[Likeness]) -> ImageGroup | None:
        """The most protected, then most alike, group of near duplicates that has room."""
        if not alike:
            return None
        self._new.settle()
        closeness: dict[int, float] = {}
        keys = [found.key for found in alike]
        group_of = dict(
            self._session.execute(select(Item.id, Item.group_id).where(Item.id.in_(keys)))
            .tuples()
            .all()
        )
        for found in alike:
            group = group_of[found.key]
            closeness[group] = max(closeness.get(group, -1.0), found.correlation)
        query = select(ImageGroup).where(ImageGroup.id.in_(closeness), ImageGroup.size < MAX_GROUP)
        return max(
            self._session.scalars(query),
            key=lambda group: (PROTECTION[group.split], closeness[group.id], -group.id),
            default=None,
        )


def give_to_train(
    session: Session, dataset_name: str, items: Sequence[int]
) -> dict[int, tuple[str, str]]:
    """Puts those of the items' groups that have no split into train, for good.

    A model is about to see them. Returns the group's key and its split for each item as they are
    now: somebody else may have given the group another split just before. Locks the dataset.
    """
    datasets.find(session, dataset_name, lock=True)
    query = (
        select(Item.id, ImageGroup)
        .join(ImageGroup, ImageGroup.id == Item.group_id)
        .where(Item.id.in_(items))
    )
    placed = {}
    for item_id, group in session.execute(query).tuples():
        if group.split is None:
            group.split = "train"
        placed[item_id] = (group.key, group.split)
    return placed

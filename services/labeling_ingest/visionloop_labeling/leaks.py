"""Which labelled images a cut must leave out, because a more protected split shows the same.

Groups keep most like images in one split; the rest are those that the group cap, or a later image
that links two groups, left in different ones. The database looks for the pairs, so that of a
million images only those come here that stand in one. A group that has no split yet counts as one
of train, because that is where a cut puts it.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from sqlalchemy import ColumnElement, Select, func, literal_column, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from visionloop.snapshot_format import LargeGroup
from visionloop_labeling.fold import AuthorKind
from visionloop_labeling.schema import Blob, ImageGroup, Item, LabelHead, NearDuplicate
from visionloop_labeling.splits import PROTECTION

LARGEST_GROUPS: Final = 10  # in the report
JOINED_BY: Final = ("near_duplicate", "same_pixels", "declared_group")  # what makes images alike
_ACCEPTED: Final = [kind for kind in AuthorKind if kind.accepted]
_Split = ColumnElement[str]
Query: TypeAlias = "Select[*tuple[Any, ...]]"


@dataclass(frozen=True, slots=True)
class Crossing:
    """The pairs of like images that stand in different splits.

    `exposed` holds the item ids of their less protected sides, `pairs` counts them by what makes
    them alike. Of images that are all alike (the same pixels, a declared group) each is paired with
    the most protected one only.
    """

    exposed: set[int] = field(default_factory=set)
    pairs: Counter[str] = field(default_factory=Counter)

    def take(self, reason: str, first: tuple[int, str], second: tuple[int, str]) -> None:
        """One pair: item ids and splits."""
        difference = PROTECTION[first[1]] - PROTECTION[second[1]]
        if difference:
            self.pairs[reason] += 1
            self.exposed.add(second[0] if difference > 0 else first[0])


def crossing(session: Session, dataset_id: int, kinds: Sequence[AuthorKind]) -> Crossing:
    """The pairs among images whose label is of one of `kinds` and may stand where it does."""
    found = Crossing()
    pair: Any
    for pair in session.execute(near_duplicates(dataset_id, kinds)):
        found.take("near_duplicate", (pair[0], pair[1]), (pair[2], pair[3]))
    for reason, query in (
        ("same_pixels", alike_by_pixels(dataset_id, kinds)),
        ("declared_group", alike_by_declaration(dataset_id, kinds)),
    ):
        for images in _sets(session, query):
            # Compared with the most protected one, every other shows whether it must go.
            guard = max(images, key=lambda image: PROTECTION[image[1]])
            for image in images:
                found.take(reason, guard, image)
    return found


def largest_groups(
    session: Session, dataset_id: int, kinds: Sequence[AuthorKind]
) -> tuple[LargeGroup, ...]:
    """The groups with the most labelled images, of those that have several."""
    images = func.count()
    query = (
        select(ImageGroup.key, _effective(ImageGroup.split), images)
        .join(Item, Item.group_id == ImageGroup.id)
        .join(LabelHead, LabelHead.item_id == Item.id)
        .where(
            ImageGroup.dataset_id == dataset_id,
            ImageGroup.size > literal_column("1"),  # as in the index of such groups
            LabelHead.author_kind.in_(kinds),
        )
        .group_by(ImageGroup.id)
        .order_by(images.desc(), ImageGroup.key)
        .limit(LARGEST_GROUPS)
    )
    return tuple(
        LargeGroup.model_validate({"group_id": key, "split": split, "images": count})
        for key, split, count in session.execute(query).tuples()
    )


def near_duplicates(dataset_id: int, kinds: Sequence[AuthorKind]) -> Query:
    """Item and split of both sides of every near-duplicate pair across splits."""
    one, one_group, one_head = aliased(Item), aliased(ImageGroup), aliased(LabelHead)
    two, two_group, two_head = aliased(Item), aliased(ImageGroup), aliased(LabelHead)
    first, second = _effective(one_group.split), _effective(two_group.split)
    return (
        select(one.id, first, two.id, second)
        .select_from(NearDuplicate)
        .join(one, one.id == NearDuplicate.later_id)
        .join(two, two.id == NearDuplicate.earlier_id)
        .join(one_group, one_group.id == one.group_id)
        .join(two_group, two_group.id == two.group_id)
        .join(one_head, one_head.item_id == one.id)
        .join(two_head, two_head.item_id == two.id)
        # Only pairs across splits: a still camera gives hundreds of pairs an image within them.
        .where(one.dataset_id == dataset_id, first != second)
        .where(_stands(first, one_head.author_kind, kinds))
        .where(_stands(second, two_head.author_kind, kinds))
    )


def alike_by_pixels(dataset_id: int, kinds: Sequence[AuthorKind]) -> Query:
    """Pixel digest, item and split of images whose pixels stand in several splits."""
    return _alike(Blob.pixel_sha256, dataset_id, kinds)


def alike_by_declaration(dataset_id: int, kinds: Sequence[AuthorKind]) -> Query:
    """Declared group, item and split of images whose declared group stands in several splits."""
    return _alike(Item.declared_group, dataset_id, kinds)


def _alike(key: InstrumentedAttribute[str], dataset_id: int, kinds: Sequence[AuthorKind]) -> Query:
    split = _effective(ImageGroup.split)
    several = (
        _standing(select(key), dataset_id, kinds)
        .where(key != "")
        .group_by(key)
        .having(func.min(split) != func.max(split))
    )
    images = _standing(select(key, Item.id, split), dataset_id, kinds)
    return images.where(key.in_(several)).order_by(key, Item.id)


def _standing(query: Query, dataset_id: int, kinds: Sequence[AuthorKind]) -> Query:
    return (
        query.select_from(Item)
        .join(Blob, Blob.sha256 == Item.sha256)
        .join(ImageGroup, ImageGroup.id == Item.group_id)
        .join(LabelHead, LabelHead.item_id == Item.id)
        .where(Item.dataset_id == dataset_id)
        .where(_stands(_effective(ImageGroup.split), LabelHead.author_kind, kinds))
    )


def _effective(split: Any) -> _Split:
    return func.coalesce(split, "train")


def _stands(split: _Split, author_kind: Any, kinds: Sequence[AuthorKind]) -> ColumnElement[bool]:
    """Whether a label is one that the cut takes, in a split where it may be."""
    taken: ColumnElement[bool] = author_kind.in_(kinds)
    return taken & or_(split == "train", author_kind.in_(_ACCEPTED))


def _sets(session: Session, query: Query) -> Iterator[list[tuple[int, str]]]:
    sets: dict[str, list[tuple[int, str]]] = defaultdict(list)
    row: Any
    for row in session.execute(query):
        sets[row[0]].append((row[1], row[2]))
    yield from sets.values()

"""The rows of a cut: labelled images as a snapshot's rows, a stream in the order of sha256.

Labels are read through what became of their classes: a merged class is the one it was merged into,
a label that names a class that was split is left out until it is given again, and a soft label that
only thinks such a class possible counts as its one class. What a label must say depends on the
dataset's task; one that does not say it is left out as well. Every image that is not taken is
counted by its reason.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from visionloop.snapshot import SnapshotRow
from visionloop_labeling import groups, leaks, soft_labels
from visionloop_labeling.annotation import Task
from visionloop_labeling.classes import ClassBook, ClassState
from visionloop_labeling.database import Database
from visionloop_labeling.fold import AuthorKind
from visionloop_labeling.schema import (
    BLOB_STORED,
    Blob,
    Dataset,
    ImageGroup,
    Item,
    LabelClass,
    LabelHead,
)

_PAGE: Final = 1000  # rows


class Meanings:
    """What the class ids of stored labels mean now; "" for one that means nothing any more."""

    def __init__(self, session: Session, dataset: Dataset) -> None:
        book = ClassBook(session, dataset)
        self.classes: list[LabelClass] = sorted(book.all(), key=lambda one: one.id)
        self._now = {one.key: book.meaning(one) for one in self.classes}

    def __getitem__(self, key: str) -> str:
        meant = self._now[key]
        return "" if meant.state == ClassState.SPLIT else meant.key


class LeftOutError(Exception):
    """This label is not taken; `reason` is one word."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def said(annotation: Mapping[str, Any], task: Task, meanings: Meanings) -> dict[str, Any]:
    """A stored annotation as fields of a snapshot's row. Raises LeftOutError."""
    image = sorted({_known(meanings[key]) for key in annotation.get("classes", ())})
    fields: dict[str, Any] = {}
    if task == "classification":
        if len(image) != 1:
            raise LeftOutError("several_classes" if image else "no_class")
        fields["class_id"] = image[0]
    else:
        if task == "multi_label" and "classes" not in annotation:
            raise LeftOutError("no_class")
        if task == "detection" and not {"boxes", "shapes"} & annotation.keys():
            raise LeftOutError("no_boxes")
        fields["labels"] = image
    for part in ("boxes", "shapes"):
        if annotation.get(part):
            fields[part] = [
                {**one, "class_id": _known(meanings[one["class_id"]])} for one in annotation[part]
            ]
    if annotation.get("attributes"):
        fields["label_attributes"] = annotation["attributes"]
    shares = annotation.get("probabilities") or {}
    if shares and all(meanings[key] for key in shares):
        fields["probabilities"] = soft_labels.renamed(shares, lambda key: meanings[key])
    if "weight" in annotation:
        fields["weight"] = annotation["weight"]
    return fields


def _known(key: str) -> str:
    if not key:
        raise LeftOutError("class_was_split")
    return key


class CutRows:
    """The rows of one cut, read once. `session` is a view; `database` takes what is written."""

    def __init__(
        self,
        database: Database,
        session: Session,
        dataset: Dataset,
        task: Task,
        kinds: Sequence[AuthorKind],
    ) -> None:
        self._database = database
        self._session = session
        self._dataset = dataset
        self._task: Task = task
        self._kinds = kinds
        self.meanings = Meanings(session, dataset)
        self.crossing = leaks.crossing(session, dataset.id, kinds)
        self.left_out: Counter[str] = Counter(protected_split=0, shows_the_same=0)

    def __iter__(self) -> Iterator[SnapshotRow]:
        found = self._session.execute(labelled(self._dataset.id, self._kinds))
        for page in found.partitions(_PAGE):
            placed = self._placed([row.item_id for row in page if row.split is None])
            for row in page:
                group = placed.get(row.item_id, (row.key, row.split))
                try:
                    yield self._row(row, *group)
                except LeftOutError as why:
                    self.left_out[why.reason] += 1

    def _placed(self, items: Sequence[int]) -> dict[int, tuple[str, str]]:
        """Group and split of images whose group had none in this view."""
        if not items:
            return {}
        with self._database.write() as session:
            return groups.give_to_train(session, self._dataset.name, items)

    def _row(self, row: Any, group: str, split: str) -> SnapshotRow:
        if split != "train" and not AuthorKind(row.author_kind).accepted:
            raise LeftOutError("protected_split")
        if row.state != BLOB_STORED:
            raise LeftOutError("image_missing")
        if row.item_id in self.crossing.exposed:
            raise LeftOutError("shows_the_same")
        return SnapshotRow.model_validate(
            {
                "sha256": row.sha256,
                "width": row.width,
                "height": row.height,
                "split": split,
                "group_id": group,
                "attributes": row.attributes,
                "label_source": row.author_kind,
                "source": row.source,
                **said(row.annotation, self._task, self.meanings),
            }
        )


def labelled(dataset_id: int, kinds: Sequence[AuthorKind]) -> Select[Any]:
    """The labelled images of a dataset in the order of their sha256."""
    return (
        select(
            Item.id.label("item_id"),
            Item.sha256,
            Blob.width,
            Blob.height,
            Blob.state,
            ImageGroup.split,
            ImageGroup.key,
            Item.attributes,
            Item.source,
            LabelHead.annotation,
            LabelHead.author_kind,
        )
        .join(Blob, Blob.sha256 == Item.sha256)
        .join(ImageGroup, ImageGroup.id == Item.group_id)
        .join(LabelHead, LabelHead.item_id == Item.id)
        .where(Item.dataset_id == dataset_id, LabelHead.author_kind.in_(kinds))
        .order_by(Item.sha256)
        .execution_options(yield_per=_PAGE)
    )

"""Labelled images as exporters and callers get them: the current ones, or those of a snapshot.

The current labels come in the order the images arrived, read in pages by position: a large dataset
neither fills memory nor holds one transaction open; labels that change during an export show as
they are when their page is read. Labels of a class that came meanwhile are left to the next export,
since files tell of their classes first. A snapshot's come in the order of sha256 and never change.
Class ids are those that the labels mean now; `outdated` tells that a class was split since.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any, Final, TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from visionloop.objectstore import ObjectStore
from visionloop.snapshot import SnapshotManifest, SnapshotRepository, SnapshotRow
from visionloop_labeling import datasets, validation
from visionloop_labeling.annotation import Annotation, Task
from visionloop_labeling.classes import ClassBook
from visionloop_labeling.database import Database
from visionloop_labeling.fold import AuthorKind
from visionloop_labeling.schema import Blob, ImageGroup, Item, LabelEvent, LabelHead

PAGE: Final = 1000
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class ExportedLabel:
    """An image with its label. `split` is empty while the group has none.

    `class_key` and `class_name` are of the first class of the image, empty where it has none. Who
    said it, when and as which event is known of current labels only, and so are `names`, of all
    classes that the annotation has ids of.
    """

    sha256: str
    width: int  # pixels, oriented
    height: int
    media_type: str
    annotation: Annotation
    class_key: str
    class_name: str
    split: str
    group: str
    attributes: dict[str, str]
    author_kind: AuthorKind
    source: str
    author: str = ""
    labelled: datetime | None = None
    sequence: int = 0
    disputed: bool = False
    outdated: bool = False
    names: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Labels:
    """What is exported: a dataset's name, task and classes (id → name), and its labelled images.

    `images` may be read once.
    """

    dataset: str
    task: Task
    classes: Mapping[str, str]
    version: str  # "labels" for the current ones, or the beginning of a snapshot's id
    images: Iterator[ExportedLabel] = field(repr=False)


def current(database: Database, dataset_name: str) -> Labels:
    """The labels as they are now. Raises NotFoundError."""
    validation.dataset_name(dataset_name)
    with database.read() as session:
        dataset = datasets.find(session, dataset_name)
        book = ClassBook(session, dataset)
        classes = {one.key: one.name for one in book.all() if one.merged_into_id is None}
        task = datasets.settings_of(dataset).task
    images = (
        one
        for page in pages(database, dataset_name)
        for one in page
        if classes.keys() >= set(one.annotation.class_ids())
    )
    return Labels(dataset_name, task, classes, "labels", images)


def of_snapshot(
    database: Database, store: ObjectStore, dataset_name: str, snapshot_id: str
) -> Labels:
    """Those of a snapshot ("latest", an id, or its beginning). Raises as `SnapshotRepository`."""
    repository = SnapshotRepository(store)
    manifest = repository.manifest(dataset_name, snapshot_id)
    classes = {entry.id: entry.name for entry in manifest.classes}
    images = _of_rows(database, manifest, repository.stream(manifest))
    return Labels(dataset_name, manifest.task, classes, manifest.id[:19], images)


def batches(values: Iterable[_Value], size: int) -> Iterator[list[_Value]]:
    """The values in lists of `size`, the last one shorter."""
    coming = iter(values)
    while batch := list(islice(coming, size)):
        yield batch


def pages(database: Database, dataset_name: str) -> Iterator[list[ExportedLabel]]:
    """The current labels, a page at a time. Raises NotFoundError before the first page."""
    validation.dataset_name(dataset_name)
    position = 0
    while True:
        with database.read() as session:
            dataset = datasets.find(session, dataset_name)
            query = (
                select(Item, Blob.width, Blob.height, Blob.media_type)
                .add_columns(ImageGroup, LabelHead, LabelEvent)
                .join(Blob, Blob.sha256 == Item.sha256)
                .join(ImageGroup, ImageGroup.id == Item.group_id)
                .join(LabelHead, LabelHead.item_id == Item.id)
                .join(LabelEvent, LabelEvent.id == LabelHead.event_row_id)
                .where(Item.dataset_id == dataset.id, Item.position > position)
                .order_by(Item.position)
                .limit(PAGE)
            )
            rows = session.execute(query).all()
            if not rows:
                return
            position = rows[-1][0].position
            book = ClassBook(session, dataset)
            book.learn_named(row.LabelHead.annotation for row in rows)
            page = [_exported(row, book) for row in rows]
        yield page


def _exported(row: Any, book: ClassBook) -> ExportedLabel:
    item, width, height, media_type, group, head, event = row
    annotation = Annotation.model_validate(book.resolved(head.annotation))
    first = next(iter(annotation.classes or ()), "")
    return ExportedLabel(
        sha256=item.sha256,
        width=width,
        height=height,
        media_type=media_type,
        annotation=annotation,
        class_key=first,
        class_name=book.name_of(first) if first else "",
        split=group.split or "",
        group=item.declared_group or group.key,
        attributes=dict(item.attributes),
        author_kind=AuthorKind(head.author_kind),
        source=item.source,
        author=event.author,
        labelled=event.at,
        sequence=head.sequence,
        disputed=head.disputed,
        outdated=book.outdated(head.annotation),
        names={
            key: book.name_of(key) for key in (*annotation.class_ids(), *annotation.probabilities)
        },
    )


def _of_rows(
    database: Database, manifest: SnapshotManifest, rows: Iterator[SnapshotRow]
) -> Iterator[ExportedLabel]:
    names = {entry.id: entry.name for entry in manifest.classes}
    for page in batches(rows, PAGE):
        with database.read() as session:
            media_types = _media_types(session, [row.sha256 for row in page])
        for row in page:
            annotation = _annotation(row, manifest.task)
            first = next(iter(annotation.classes or ()), "")
            yield ExportedLabel(
                sha256=row.sha256,
                width=row.width,
                height=row.height,
                media_type=media_types.get(row.sha256, ""),
                annotation=annotation,
                class_key=first,
                class_name=names.get(first, ""),
                split=row.split,
                group=row.group_id,
                attributes=row.attributes,
                author_kind=AuthorKind(row.label_source),
                source=row.source,
            )


def _annotation(row: SnapshotRow, task: Task) -> Annotation:
    """What the row says, as it was labelled."""
    classes: Sequence[str] | None = row.labels or None
    if row.class_id is not None:
        classes = (row.class_id,)
    elif task == "multi_label":
        classes = row.labels
    boxes: list[dict[str, Any]] | None = [box.model_dump() for box in row.boxes]
    if not boxes and (task != "detection" or row.shapes):
        boxes = None
    return Annotation.model_validate(
        {
            "classes": classes,
            "boxes": boxes,
            "shapes": [_shape(shape.model_dump()) for shape in row.shapes],
            "attributes": row.label_attributes,
            "weight": None if row.weight == 1.0 else row.weight,
            "probabilities": row.probabilities,
        }
    )


def _shape(shape: dict[str, Any]) -> dict[str, Any]:
    unused = ("counts", "size") if shape["kind"] == "polygon" else ("points",)
    return {name: value for name, value in shape.items() if name not in unused}


def _media_types(session: Session, digests: Sequence[str]) -> dict[str, str]:
    query = select(Blob.sha256, Blob.media_type).where(Blob.sha256.in_(digests))
    return dict(session.execute(query).tuples().all())

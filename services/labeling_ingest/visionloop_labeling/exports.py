"""The current labels of a dataset, in the order its images arrived; as rows and as CSV.

Read in pages by position, so a large dataset neither fills memory nor holds one transaction open;
labels that change during an export show as they are when their page is read.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import select

from visionloop_labeling import datasets, validation
from visionloop_labeling.database import Database
from visionloop_labeling.labels import AuthorKind
from visionloop_labeling.schema import ImageGroup, Item, LabelClass, LabelEvent, LabelHead

PAGE: Final = 1000
CSV_COLUMNS: Final = (
    "sha256",
    "class_id",
    "class_name",
    "split",
    "group",
    "author_kind",
    "author",
    "source",
    "labelled",
    "sequence",
    "disputed",
    "attributes",
)
# A spreadsheet takes a cell that begins so for a formula and runs it.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, slots=True)
class ExportedLabel:
    """An image with its current label. `split` is empty while the group has none."""

    sha256: str
    class_key: str
    class_name: str
    split: str
    group: str
    attributes: dict[str, str]
    author_kind: AuthorKind
    author: str
    source: str
    labelled: datetime
    sequence: int
    disputed: bool


def pages(database: Database, dataset_name: str) -> Iterator[list[ExportedLabel]]:
    """The labels, a page at a time. Raises NotFoundError before the first page."""
    validation.dataset_name(dataset_name)
    position = 0
    while True:
        with database.read() as session:
            dataset = datasets.find(session, dataset_name)
            query = (
                select(Item, ImageGroup, LabelHead, LabelEvent, LabelClass)
                .join(ImageGroup, ImageGroup.id == Item.group_id)
                .join(LabelHead, LabelHead.item_id == Item.id)
                .join(LabelEvent, LabelEvent.id == LabelHead.event_row_id)
                .join(LabelClass, LabelClass.id == LabelHead.class_id)
                .where(Item.dataset_id == dataset.id, Item.position > position)
                .order_by(Item.position)
                .limit(PAGE)
            )
            rows = session.execute(query).tuples().all()
        if not rows:
            return
        position = rows[-1][0].position
        yield [_exported(*row) for row in rows]


def csv_header() -> str:
    """The first line of the CSV."""
    return _csv([CSV_COLUMNS])


def csv_page(labels: list[ExportedLabel]) -> str:
    """The lines of a page, safe to open in a spreadsheet."""
    return _csv([_cells(label) for label in labels])


def _exported(
    item: Item, group: ImageGroup, head: LabelHead, event: LabelEvent, named: LabelClass
) -> ExportedLabel:
    return ExportedLabel(
        sha256=item.sha256,
        class_key=named.key,
        class_name=named.name,
        split=group.split or "",
        group=item.declared_group or group.key,
        attributes=dict(item.attributes),
        author_kind=AuthorKind(head.author_kind),
        author=event.author,
        source=item.source,
        labelled=event.at,
        sequence=head.sequence,
        disputed=head.disputed,
    )


def _cells(label: ExportedLabel) -> tuple[str, ...]:
    attributes = ";".join(f"{name}={value}" for name, value in sorted(label.attributes.items()))
    return (
        label.sha256,
        label.class_key,
        label.class_name,
        label.split,
        label.group,
        label.author_kind,
        label.author,
        label.source,
        label.labelled.isoformat(timespec="milliseconds"),
        str(label.sequence),
        "true" if label.disputed else "false",
        attributes,
    )


def _csv(rows: Sequence[tuple[str, ...]]) -> str:
    piece = io.StringIO()
    csv.writer(piece).writerows([_harmless(cell) for cell in row] for row in rows)
    return piece.getvalue()


def _harmless(cell: str) -> str:
    return f"'{cell}" if cell.startswith(_FORMULA_STARTS) else cell

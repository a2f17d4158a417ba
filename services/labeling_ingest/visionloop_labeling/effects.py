"""What rows bring about, written in one transaction: images, groups, labels, quarantine, receipts.

Rows take effect one after the other, so the outcome does not depend on how a stream was cut into
groups. The statements do not: whatever the rows will ask about is read for all of them first, new
images get their row ids in two statements, and everything else waits in the session for one flush.
An image is given a group of its own first, because its row needs one; where it belongs to another,
the empty one goes again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from visionloop.errors import InvalidInputError
from visionloop_labeling import quarantine
from visionloop_labeling.annotation import Annotation, Size
from visionloop_labeling.duplicates import Likeness
from visionloop_labeling.groups import GroupBook
from visionloop_labeling.inspection import Inspection
from visionloop_labeling.labels import AuthorKind, LabelLog, Statement
from visionloop_labeling.neighbours import Neighbourhood
from visionloop_labeling.receipts import (
    ImageRow,
    Outcome,
    Prepared,
    Receipt,
    ReceiptBook,
    refused,
)
from visionloop_labeling.schema import Dataset, ImageGroup, Item, NearDuplicate, QualityFlag


class Effects:
    """The effects of some rows. The dataset is locked."""

    def __init__(
        self,
        session: Session,
        dataset: Dataset,
        neighbourhood: Neighbourhood,
        rows: Sequence[Prepared],
    ) -> None:
        self._session = session
        self._dataset = dataset
        self._neighbourhood = neighbourhood
        self._rows = rows
        self._book = ReceiptBook(session, dataset, rows)
        self._log = LabelLog(session, dataset)
        self._groups = GroupBook(session, dataset, rows)
        self._items = _items_of(session, dataset, rows)
        self._new: dict[str, ImageGroup] = {}  # images of this transaction that have no place yet

    def write(self) -> list[Receipt]:
        """The receipts of the rows, in order; what they promise is there after the commit."""
        answers = [row.answer or self._book.find(row) for row in self._rows]
        open_rows = [row for row, answer in zip(self._rows, answers, strict=True) if answer is None]
        said = self._resolved(open_rows)
        self._add_images(_binding(open_rows, said))
        receipts = []
        for row, answer in zip(self._rows, answers, strict=True):
            # A row of this very group may have answered it, if the caller sent it twice.
            found = answer or self._book.find(row)
            receipts.append(found or self._book.keep(row, self._perform(row, said[id(row)])))
        return receipts

    def measure(self) -> None:
        """Counts label events, once the transaction is committed."""
        self._log.measure()

    def _resolved(self, rows: Sequence[Prepared]) -> dict[int, Annotation | Receipt | None]:
        """By id(row): what it says its image shows, with class ids; or why it is refused."""
        return {id(row): self._resolve(row) for row in rows}

    def _resolve(self, prepared: Prepared) -> Annotation | Receipt | None:
        if prepared.inspection is None:
            return prepared.refused()
        draft = prepared.row.draft()
        try:
            return None if draft is None else self._log.resolve(draft, _size(prepared.inspection))
        except InvalidInputError as refusal:
            return refused(prepared.row, refusal)

    def _add_images(self, rows: Sequence[Prepared]) -> None:
        """Gives the images that the dataset lacks their rows, in the order they came."""
        new = {row.sha256: row for row in reversed(rows) if row.sha256 not in self._items}
        in_order = list(reversed(new.values()))  # the first row of an image tells of it
        if not in_order:
            return
        self._new = {
            row.sha256: ImageGroup(dataset_id=self._dataset.id, key=f"g-{row.sha256[:24]}", size=1)
            for row in in_order
        }
        self._session.add_all(self._new.values())
        self._session.flush()
        items = [self._item(row.row, row.sha256, self._new[row.sha256]) for row in in_order]
        self._session.add_all(items)
        self._session.flush()
        self._items.update({item.sha256: item for item in items})
        self._log.expect(items)
        quarantine.release(self._session, self._dataset, list(self._new))

    def _item(self, row: ImageRow, sha256: str, group: ImageGroup) -> Item:
        self._dataset.last_position += 1
        return Item(
            dataset_id=self._dataset.id,
            position=self._dataset.last_position,
            sha256=sha256,
            group_id=group.id,
            declared_group=row.group,
            attributes=dict(row.attributes),
            source=row.source,
            created=datetime.now(UTC),
            state="open",
            priority=0.0,
            why={},
        )

    def _perform(self, prepared: Prepared, said: Annotation | Receipt | None) -> Receipt:
        if isinstance(said, Receipt):
            if prepared.quarantine:
                quarantine.keep(self._session, self._dataset, prepared)
            return said
        row, inspection = prepared.row, prepared.inspection
        if inspection is None:
            raise ValueError("a row without an inspection is refused before")
        item = self._items[prepared.sha256]
        outcome = Outcome.DUPLICATE
        if prepared.sha256 in self._new:
            self._place(item, self._new.pop(prepared.sha256), inspection)
            outcome = Outcome.ACCEPTED
        else:
            self._complete(item, row)
        receipt = Receipt(
            row.batch,
            row.ordinal,
            outcome,
            prepared.sha256,
            reason="converted" if row.remark else "",
            message=row.remark,
        )
        if said is None:
            return receipt
        return self._label(row, said, _size(inspection), item, receipt)

    def _place(self, item: Item, own: ImageGroup, inspection: Inspection) -> None:
        """Finds a new image's group among the images before it, and notes what it is like."""
        prints = inspection.fingerprint
        alike = [] if prints is None else self._neighbourhood.alike(prints)
        self._groups.place(item, own, pixel_sha256=inspection.pixel_sha256, alike=alike)
        for flag in () if inspection.quality is None else inspection.quality.flags:
            self._session.add(QualityFlag(dataset_id=self._dataset.id, flag=flag, item_id=item.id))
        self._session.add_all(_edge(item, found) for found in alike)
        if prints is not None:
            self._neighbourhood.add(item.id, prints)

    def _complete(self, item: Item, row: ImageRow) -> None:
        # The first word on an image stands; later rows fill in what it left open.
        if row.attributes.keys() - item.attributes.keys():
            item.attributes = {**row.attributes, **item.attributes}
        item.source = item.source or row.source
        if row.group and not item.declared_group:
            self._groups.declare(item, row.group)

    def _label(
        self, row: ImageRow, said: Annotation, size: Size, item: Item, receipt: Receipt
    ) -> Receipt:
        statement = Statement(
            AuthorKind(row.author_kind), row.author, annotation=said, from_row=True
        )
        recorded = self._log.record(item, statement, size)
        if not recorded.disagrees_with:
            return receipt
        now = self._log.words(said)
        stands = now if recorded.applied else recorded.disagrees_with
        return replace(
            receipt,
            reason="label_conflict",
            message=f"the image was labelled {recorded.disagrees_with} before and {now} now; "
            f"{stands} stands and is marked as disputed until somebody decides",
            field="label",
        )


def _binding(
    rows: Sequence[Prepared], said: Mapping[int, Annotation | Receipt | None]
) -> list[Prepared]:
    """The rows that will be accepted: under each key the first that is not refused."""
    by_key: dict[tuple[str, int], Prepared] = {}
    for row in rows:
        if not isinstance(said[id(row)], Receipt):
            by_key.setdefault((row.row.batch, row.row.ordinal), row)
    return list(by_key.values())


def _size(inspection: Inspection) -> Size:
    return (inspection.width, inspection.height)


def _edge(item: Item, found: Likeness) -> NearDuplicate:
    return NearDuplicate(
        later_id=item.id,
        earlier_id=found.key,
        distance=found.distance,
        correlation=found.correlation,
        orientation=found.orientation,
    )


def _items_of(session: Session, dataset: Dataset, rows: Sequence[Prepared]) -> dict[str, Item]:
    """The rows' images that the dataset has, by digest."""
    wanted = {row.sha256 for row in rows if row.inspection is not None}
    query = select(Item).where(Item.dataset_id == dataset.id, Item.sha256.in_(wanted))
    return {item.sha256: item for item in session.scalars(query)}

"""What rows bring about, written in one transaction: images, groups, labels, quarantine, receipts.

Rows take effect one after the other, so the outcome does not depend on how a stream was cut into
groups. The statements do not: whatever the rows will ask about is read for all of them first, row
ids included, and everything new waits (`new_rows`, receipts, edges) and is written in the end, one
statement a table, each row once and as it became. Asking in between (which group has room for a
near duplicate?) writes what there is first, and costs that.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from visionloop.errors import InvalidInputError
from visionloop.telemetry import labeling as metrics
from visionloop_labeling import quarantine
from visionloop_labeling.annotation import Annotation, Draft, Size
from visionloop_labeling.duplicates import DuplicateKind, Likeness
from visionloop_labeling.groups import GroupBook
from visionloop_labeling.inspection import Inspection
from visionloop_labeling.labels import AuthorKind, LabelLog, Statement
from visionloop_labeling.neighbours import Neighbourhood
from visionloop_labeling.new_rows import NewRows
from visionloop_labeling.receipts import (
    ImageRow,
    Outcome,
    Prepared,
    Receipt,
    ReceiptBook,
    refused,
)
from visionloop_labeling.schema import (
    Dataset,
    ImageGroup,
    Item,
    NearDuplicate,
    QualityFlag,
    plain,
)


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
        self._new = NewRows(session)
        self._book = ReceiptBook(session, dataset, rows)
        self._log = LabelLog(session, dataset, self._new)
        self._groups = GroupBook(session, dataset, rows, self._new)
        self._items = _items_of(session, dataset, rows)
        self._flags: list[dict[str, object]] = []  # rows of `QualityFlag`
        self._edges: list[dict[str, object]] = []  # of `NearDuplicate`
        self._duplicates = Counter[DuplicateKind]()
        self._named: dict[str, Annotation | InvalidInputError] = {}  # by the label's class name

    def write(self) -> list[Receipt]:
        """The receipts of the rows, in order; what they promise is there after the commit."""
        answers = [row.answer or self._book.find(row) for row in self._rows]
        open_rows = [row for row, answer in zip(self._rows, answers, strict=True) if answer is None]
        said = self._resolved(open_rows)
        self._expect(_binding(open_rows, said))
        receipts = []
        for row, answer in zip(self._rows, answers, strict=True):
            # A row of this very group may have answered it, if the caller sent it twice.
            found = answer or self._book.find(row)
            receipts.append(found or self._book.keep(row, self._perform(row, said[id(row)])))
        self._new.write()  # first: what the session changed may refer to it
        self._session.flush()
        if self._flags:
            self._session.execute(insert(plain(QualityFlag)), self._flags)
        if self._edges:
            self._session.execute(insert(plain(NearDuplicate)), self._edges)
        self._book.write()
        return receipts

    def measure(self) -> None:
        """Counts label events and duplicates, once the transaction is committed."""
        self._log.measure()
        for kind, images in self._duplicates.items():
            metrics.DUPLICATES.labels(kind).inc(images)

    def _resolved(self, rows: Sequence[Prepared]) -> dict[int, Annotation | Receipt | None]:
        """By id(row): what it says its image shows, with class ids; or why it is refused."""
        drafts = [row.row.draft() for row in rows if row.inspection is not None]
        self._log.annotations.learn_names(draft for draft in drafts if draft is not None)
        said = {id(row): self._resolve(row) for row in rows}
        self._log.expect([one for one in said.values() if isinstance(one, Annotation)])
        return said

    def _resolve(self, prepared: Prepared) -> Annotation | Receipt | None:
        if prepared.inspection is None:
            return prepared.refused()
        row = prepared.row
        try:
            if row.annotation is None and row.label is not None:
                return self._of_class(row.label)
            draft = row.draft()
            return (
                None
                if draft is None
                else self._log.annotations.resolve(draft, _size(prepared.inspection))
            )
        except InvalidInputError as refusal:
            return refused(row, refusal)

    def _of_class(self, name: str) -> Annotation:
        """What a label of one class says, of an image of any size: the same for all rows."""
        if name not in self._named:
            try:
                self._named[name] = self._log.annotations.resolve(Draft(classes=(name,)), (1, 1))
            except InvalidInputError as refusal:
                self._named[name] = refusal
        found = self._named[name]
        if isinstance(found, InvalidInputError):
            raise found
        return found

    def _expect(self, rows: Sequence[Prepared]) -> None:
        """Makes ready for the images that these rows will bring and the dataset lacks."""
        new = list({row.sha256 for row in rows if row.sha256 not in self._items})
        if new:
            quarantine.release(self._session, self._dataset, new)
            for table in (Item, ImageGroup):
                self._new.reserve(table, len(new))

    def _perform(self, prepared: Prepared, said: Annotation | Receipt | None) -> Receipt:
        if isinstance(said, Receipt):
            if prepared.quarantine:
                quarantine.keep(self._session, self._dataset, prepared)
            return said
        row, inspection = prepared.row, prepared.inspection
        if inspection is None:
            raise ValueError("a row without an inspection is refused before")
        item = self._items.get(prepared.sha256)
        outcome = Outcome.DUPLICATE
        if item is None:
            item = self._items[prepared.sha256] = self._add(row, prepared.sha256, inspection)
            outcome = Outcome.ACCEPTED
        else:
            self._complete(item, row)
            if row.image:  # else it names the image, and sends none twice
                self._duplicates[DuplicateKind.EXACT] += 1
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
        return self._label(row, said, item, receipt)

    def _add(self, row: ImageRow, sha256: str, inspection: Inspection) -> Item:
        """A new image, in the group that it belongs to among the images before it."""
        prints = inspection.fingerprint
        alike = [] if prints is None else self._neighbourhood.alike(prints)
        if self._groups.has_pixels(inspection.pixel_sha256):
            self._duplicates[DuplicateKind.PIXELS] += 1
        elif alike:
            self._duplicates[DuplicateKind.NEAR] += 1
        group = self._groups.place(
            sha256, row.group, pixel_sha256=inspection.pixel_sha256, alike=alike
        )
        self._dataset.last_position += 1
        item = self._new.add(
            Item,
            id=self._new.id_of(Item),
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
            leased_by=None,
            leased_until=None,
        )
        self._log.welcome(item, group)
        self._flags += [
            {"dataset_id": self._dataset.id, "flag": flag, "item_id": item.id}
            for flag in (() if inspection.quality is None else inspection.quality.flags)
        ]
        self._edges += [_edge(item, found) for found in alike]
        if prints is not None:
            self._neighbourhood.add(item.id, prints)
        return item

    def _complete(self, item: Item, row: ImageRow) -> None:
        # The first word on an image stands; later rows fill in what it left open.
        if row.attributes.keys() - item.attributes.keys():
            item.attributes = {**row.attributes, **item.attributes}
        item.source = item.source or row.source
        if row.group and not item.declared_group:
            self._groups.declare(item, row.group)

    def _label(self, row: ImageRow, said: Annotation, item: Item, receipt: Receipt) -> Receipt:
        statement = Statement(
            AuthorKind(row.author_kind), row.author, annotation=said, from_row=True
        )
        recorded = self._log.record(item, statement, resolved=True)
        if not recorded.disagrees_with:
            return receipt
        now = self._log.annotations.words(said)
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


def _edge(item: Item, found: Likeness) -> dict[str, object]:
    return {
        "later_id": item.id,
        "earlier_id": found.key,
        "distance": found.distance,
        "correlation": found.correlation,
        "orientation": found.orientation,
    }


def _items_of(session: Session, dataset: Dataset, rows: Sequence[Prepared]) -> dict[str, Item]:
    """The rows' images that the dataset has, by digest."""
    wanted = {row.sha256 for row in rows if row.inspection is not None}
    query = select(Item).where(Item.dataset_id == dataset.id, Item.sha256.in_(wanted))
    return {item.sha256: item for item in session.scalars(query)}

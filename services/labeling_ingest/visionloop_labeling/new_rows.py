"""New rows of one transaction that wait outside the session and are written together.

A session writes a new object in several steps of its own (which columns are set, what refers to
what, which id came back): 80 µs for a label event, where one INSERT for 64 plain rows takes 18 µs
each. So ingest and the label log make their new objects with their row ids, keep them here, and
have each table written by one statement, as the rows became in the end.

The price: the session knows nothing of them until `settle`. Whoever is about to ask the database
something that they may answer, or to make a stored row refer to one of them, calls it first.
"""

from collections.abc import Iterator
from typing import Any, Final, TypeVar, cast

from sqlalchemy import insert, inspect
from sqlalchemy.orm import Session, make_transient_to_detached

from visionloop_labeling.database import take_ids
from visionloop_labeling.schema import (
    ImageGroup,
    Item,
    LabelEvent,
    LabelHead,
    LabelHeadClass,
    Table,
    plain,
)

# Each after what it refers to.
_ORDER: Final[tuple[type[Table], ...]] = (ImageGroup, Item, LabelEvent, LabelHead, LabelHeadClass)
_COLUMNS: Final = {
    table: tuple(column.key for column in inspect(table).column_attrs) for table in _ORDER
}
_MADE: Final = {table: inspect(table).class_manager.new_instance for table in _ORDER}
NewRow = TypeVar("NewRow", bound=Table)


class NewRows:
    """The new rows of images, groups and labels of one transaction. The dataset is locked."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._waiting: dict[type[Table], list[Table]] = {table: [] for table in _ORDER}
        self._ids: dict[type[Table], Iterator[int]] = {}
        self._last: dict[type[Table], int] = {}  # the highest id that was given out

    def reserve(self, table: type[Table], count: int) -> None:
        """Takes row ids for so many rows in one go; those that were left over are let go."""
        self._ids[table] = take_ids(self._session, table, count, above=self._last.get(table, 0))

    def id_of(self, table: type[Table]) -> int:
        """The id for the next row of a table, reserved or not."""
        found = next(self._ids.get(table, iter(())), None)
        if found is None:
            self.reserve(table, 1)
            found = next(self._ids[table])
        self._last[table] = found
        return found

    def add(self, table: type[NewRow], **values: object) -> NewRow:
        """A new row, which is kept until it is written; columns without a value will be null.

        It is made as one that was loaded is: not a column at a time through the events of each.
        """
        row = _MADE[table]()
        vars(row).update(values)
        self._waiting[table].append(row)
        return cast(NewRow, row)

    def settle(self) -> None:
        """Writes what waits; from now on the session has the rows, and writes what changes."""
        for row in self._written():
            make_transient_to_detached(row)
            self._session.add(row)

    def write(self) -> None:
        """Writes what waits, at the end: the rows are not to be changed any more."""
        self._written()

    def _written(self) -> list[Table]:
        """Writes what waits and returns it."""
        written: list[Table] = []
        for table, rows in self._waiting.items():
            if rows:
                self._session.execute(insert(plain(table)), [_values(row) for row in rows])
                written += rows
                rows.clear()
        return written


def _values(row: Table) -> dict[str, Any]:
    state = vars(row)
    return {name: state.get(name) for name in _COLUMNS[type(row)]}

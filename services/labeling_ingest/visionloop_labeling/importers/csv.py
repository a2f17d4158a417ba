"""A table with a row per image, and its images: in the same archive, behind URLs, or here already.

Read twice and never kept whole: once to count and judge it, once for the rows. A broken row is
refused with its line and the others are taken; a broken table is refused before anything is.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from sqlalchemy.orm import Session

from visionloop_labeling.annotation import Draft
from visionloop_labeling.importers import names
from visionloop_labeling.importers.entries import Entry, SourceError, Step
from visionloop_labeling.importers.parameters import CsvParameters
from visionloop_labeling.importers.pictures import Pictures
from visionloop_labeling.receipts import Receipt

if TYPE_CHECKING:
    from _csv import Reader

_MARKS: Final = {";": "semicolons", "\t": "tabs", "|": "bars"}
_MAX_CELL: Final = 100_000  # characters; csv's own limit is for the whole process
_MAX_ROWS: Final = 10_000_000
_TEXT_MARK: Final = "'"  # what our exports put before a cell that a spreadsheet would run


class CsvImporter:
    """The rows of a CSV file. `folder` is where the file lay in its archive."""

    def __init__(
        self, table: Path, pictures: Pictures, parameters: CsvParameters, folder: str = ""
    ) -> None:
        self._table = table
        self._pictures = pictures
        self._parameters = parameters
        self._folder = folder
        self.remark = ""
        with _open(table) as stream:
            reader = _reader(stream)
            self._columns = tuple(_first_row(reader))
            self._image_column = _check_columns(self._columns, parameters)
            self.rows = sum(1 for _ in _cells(reader))
        if not self.rows:
            raise SourceError("the table has a header and no rows", reason="no_rows")

    def steps(self, start: int) -> Iterator[Step]:
        with _open(self._table) as stream:
            reader = _reader(stream)
            _first_row(reader)
            for ordinal, (line, cells) in enumerate(_cells(reader)):
                if ordinal >= start:
                    where = f"line {line}"
                    source = self._source(cells, where)
                    yield ordinal, source, partial(self._entry, cells, where, source)

    def settle(self, session: Session, receipts: Sequence[Receipt]) -> None:
        """Nothing beside the receipts is kept."""

    def close(self) -> None:
        self._pictures.close()

    def _source(self, cells: Sequence[str], where: str) -> str:
        named = dict(zip(self._columns, cells, strict=False)).get(self._image_column, "").strip()
        return named[:1000] or where

    def _entry(self, cells: Sequence[str], where: str, source: str) -> Entry:
        if len(cells) != len(self._columns):
            # A comma inside a cell shifts all that follow: the label would be another column's.
            raise SourceError(
                f"{where} has {len(cells)} cells and the header {len(self._columns)}; put quotes "
                "around cells with commas",
                reason="invalid_row",
            )
        values = {name: _plain(cell) for name, cell in zip(self._columns, cells, strict=True)}
        reference = values[self._image_column]
        if not reference:
            raise SourceError(
                f"{where} names no image: {self._image_column!r} is empty", reason="invalid_row"
            )
        here = self._image_column == self._parameters.sha256_column
        label, annotation = self._label(values, where)
        return Entry(
            source=source,
            image=b"" if here else self._pictures.read(reference, beside=self._folder),
            sha256=reference if here else "",
            label=label,
            annotation=annotation,
            group=values.get(self._parameters.group_column or "", ""),
            attributes={a: values[a] for a in self._parameters.attribute_columns if values[a]},
        )

    def _label(self, values: Mapping[str, str], where: str) -> tuple[str | None, Draft | None]:
        cell = values.get(self._parameters.label_column, "")
        probabilities = self._probabilities(values, where)
        weight = self._weight(values, where)
        if not cell and not probabilities:
            empty = self._parameters.unannotated == "empty"
            return None, Draft(classes=(), weight=weight) if empty else None
        if weight is None and not probabilities and not self._parameters.label_separator:
            return cell, None
        classes = self._classes(cell)
        return None, Draft(classes=classes, weight=weight, probabilities=probabilities)

    def _classes(self, cell: str) -> tuple[str, ...] | None:
        separator = self._parameters.label_separator
        if not cell or not separator:
            return (cell,) if cell else None
        named = (part.strip() for part in cell.split(separator))
        return tuple(dict.fromkeys(name for name in named if name))

    def _probabilities(self, values: Mapping[str, str], where: str) -> dict[str, float]:
        """The soft label; of no class where all its cells are empty."""
        cells = {name: values[name] for name in self._parameters.probability_columns}
        return {name: _number(cell, name, where) for name, cell in cells.items() if cell}

    def _weight(self, values: Mapping[str, str], where: str) -> float | None:
        column = self._parameters.weight_column
        cell = values[column] if column else ""
        return _number(cell, column, where) if column and cell else None


def _number(cell: str, column: str, where: str) -> float:
    try:
        return float(cell)
    except ValueError:
        raise SourceError(
            f"{where} has {names.shown(cell)} in the column {names.shown(column)}, which is no "
            "number",
            reason="invalid_row",
        ) from None


def _plain(cell: str) -> str:
    """A cell as it was before an export made it text for spreadsheets."""
    cell = cell.strip()
    if cell.startswith(_TEXT_MARK) and cell[1:2] in ("=", "+", "-", "@"):
        return cell[1:]
    return cell


@contextmanager
def _open(table: Path) -> Iterator[IO[str]]:
    with table.open("rb") as raw:
        if raw.read(2) in (b"\xff\xfe", b"\xfe\xff"):
            raise _no_table("it is UTF-16; save it in UTF-8")
        raw.seek(0)
        with closing(TextIOWrapper(raw, "utf-8-sig", newline="")) as stream:
            try:
                yield stream
            except UnicodeDecodeError as error:
                raise _no_table(
                    f"it is not UTF-8 (byte 0x{error.object[error.start]:02x}); save it in UTF-8"
                ) from None
            except csv.Error as error:
                raise _no_table(str(error)) from None


def _reader(stream: IO[str]) -> "Reader":
    return csv.reader(_lines(stream), strict=True)


def _lines(stream: IO[str]) -> Iterator[str]:
    """Lines of bounded length: a quote that is never closed would take the file for one cell."""
    while line := stream.readline(_MAX_CELL + 1):
        if len(line) > _MAX_CELL:
            raise _no_table(f"a line has more than {_MAX_CELL:,} characters")
        yield line


def _first_row(reader: "Reader") -> list[str]:
    return [name.strip() for name in next(reader, [])]


def _cells(reader: "Reader") -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of each row that has any."""
    taken = 0
    for cells in reader:
        if cells:
            taken += 1
            if taken > _MAX_ROWS:
                raise _no_table(f"it has more than {_MAX_ROWS:,} rows; send it in parts")
            yield reader.line_num, cells


def _check_columns(columns: Sequence[str], parameters: CsvParameters) -> str:
    """The column that names images."""
    if len(columns) == 1 and (mark := next((m for m in _MARKS if m in columns[0]), "")):
        raise SourceError(
            f"the table seems to be separated by {_MARKS[mark]}; separate its columns by commas",
            reason="no_table",
        )
    twice = next((name for name in columns if name and columns.count(name) > 1), "")
    if twice:
        raise SourceError(f"the table has the column {names.shown(twice)} twice", reason="no_table")
    named = (parameters.path_column, parameters.url_column, parameters.sha256_column)
    image = next((name for name in named if name in columns), "")
    needed = [
        *parameters.attribute_columns,
        *parameters.probability_columns,
        *(name for name in (parameters.group_column, parameters.weight_column) if name),
    ]
    missing = [name for name in needed if name not in columns]
    if not image or missing:
        lacks = missing[0] if missing else " or ".join(named)
        has = ", ".join(names.shown(name) for name in columns[:20]) or "none"
        raise SourceError(
            f"the table has no column {lacks}; it has {has}. Name its columns in parameters: "
            "path_column, url_column or sha256_column, label_column, group_column, "
            "attribute_columns, probability_columns, weight_column",
            reason="no_table",
        )
    return image


def _no_table(why: str) -> SourceError:
    return SourceError(f"the file is not a CSV table: {why}", reason="no_table")

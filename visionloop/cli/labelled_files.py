"""Images on this machine's disk with their labels: a folder per class, or a CSV with a row each.

What has no label is no mistake: it waits for one. Only the CLI reads local paths; the service gets
bytes. Rows are found first (cheap) and read one by one while they are sent, so memory stays flat
however large the import.
"""

import csv
import hashlib
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from visionloop.cli.image_files import (
    IMAGE_SUFFIXES,
    files_below,
    images_below,
    is_image,
    unreadable,
)
from visionloop.errors import ConfigurationError, NotFoundError

_MARKS = {";": "semicolons", "\t": "tabs", "|": "bars"}


@dataclass(frozen=True, slots=True)
class LabelledFile:
    """One row of an import. `row` is what people count: the CSV line, or the file's number.

    `label` is one class, "" for none; `classes` instead are all that the image shows, maybe none of
    them. `probabilities` are a soft label, `weight` is what the image counts in training (None: 1).
    `fault` says what is wrong with a row that is not to be sent.
    """

    row: int
    path: Path
    source: str
    label: str
    group: str = ""
    attributes: dict[str, str] = field(default_factory=dict)
    fault: str = ""
    classes: tuple[str, ...] | None = None
    weight: float | None = None
    probabilities: dict[str, float] = field(default_factory=dict)

    @property
    def unlabelled(self) -> bool:
        """Whether nothing is said of what the image shows."""
        return not self.label and self.classes is None and not self.probabilities


@dataclass(frozen=True, slots=True)
class Columns:
    """Which CSV columns mean what. `group` and `weight` may be None; `attributes` and
    `probabilities`, called as the classes are, may be empty.

    With `separator` a label's cell may name several classes. An empty one leaves the image open, or
    (`unannotated`) says that the image shows none of the classes.
    """

    path: str = "path"
    label: str = "label"
    group: str | None = None
    attributes: tuple[str, ...] = ()
    separator: str = ""
    unannotated: Literal["open", "empty"] = "open"
    probabilities: tuple[str, ...] = ()
    weight: str | None = None


def find(source: Path, columns: Columns) -> list[LabelledFile]:
    """All rows of a class folder tree or a CSV file, in a stable order.

    Raises NotFoundError or ConfigurationError when there is nothing to import, with what to do.
    """
    if source.is_dir():
        return _in_folder(source)
    if source.is_file():
        return list(_in_csv(source, columns))
    raise NotFoundError(f"{source} is neither a folder nor a file; check the path")


def _in_folder(folder: Path) -> list[LabelledFile]:
    """What lies in a sub-folder is of the class that it is called by, and what lies beside them is
    of none yet."""
    try:
        inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise unreadable(error) from error
    files = [(path, label.name) for label in inside if label.is_dir() for path in _of_class(label)]
    files += [(path, "") for path in inside if is_image(path)]
    if not files:
        raise ConfigurationError(
            f"{folder} has neither images nor sub-folders; make one per class (cats/…, dogs/…) or "
            "give a CSV file",
            field="source",
        )
    return [
        LabelledFile(
            row,
            path,
            source=_as_text(path.relative_to(folder).as_posix()),
            label=_as_text(label),
            fault=_name_fault(label),
        )
        for row, (path, label) in enumerate(files, start=1)
    ]


def passed_over(folder: Path) -> Counter[str]:
    """Files of a class folder tree that `find` does not take, by what their names end in ("" for
    no ending). Hidden files do not count.
    """
    return Counter(path.suffix.lower() for path in files_below(folder) if not is_image(path))


def _as_text(name: str) -> str:
    """A name from the disk as text: its bytes that are no UTF-8 become \\xe4."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _name_fault(label: str) -> str:
    """A file may have any name, but a class is called what people read."""
    if _as_text(label) == label:
        return ""
    return (
        f"the folder's name is not UTF-8 ({_as_text(label)}); rename it to what the class is called"
    )


def _of_class(folder: Path) -> list[Path]:
    images = images_below(folder)
    if not images:
        raise ConfigurationError(
            f"class {folder.name!r} is empty: no images below {folder}. Add some, or remove the "
            f"folder; taken are {', '.join(sorted(IMAGE_SUFFIXES))}",
            field="source",
        )
    return images


def _in_csv(file: Path, columns: Columns) -> Iterator[LabelledFile]:
    line = 0
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, strict=True)
            _check_columns(file, reader.fieldnames or [], columns)
            empty = True
            for values in reader:
                empty = False
                line = reader.line_num
                yield _csv_row(file.parent, line, values, columns)
            if empty:
                raise ConfigurationError(f"{file} has a header and no rows", field="source")
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{file} is not UTF-8 text: after line {line}, byte 0x{error.object[error.start]:02x}. "
            "Save it as a CSV in UTF-8, or give a folder with a sub-folder per class",
            field="source",
        ) from error
    except csv.Error as error:
        raise ConfigurationError(
            f"{file} is not a CSV file: after line {line}: {error}", field="source"
        ) from error
    except OSError as error:
        raise ConfigurationError(f"cannot read {file}: {error.strerror}", field="source") from error


def _check_columns(file: Path, names: Sequence[str], columns: Columns) -> None:
    label = [] if columns.probabilities else [columns.label]  # they say it without
    wanted = [columns.path, *label, *columns.attributes, *columns.probabilities]
    wanted += [name for name in (columns.group, columns.weight) if name]
    missing = [name for name in wanted if name not in names]
    if missing and len(names) == 1 and (mark := next((m for m in ";\t|" if m in names[0]), "")):
        raise ConfigurationError(
            f"{file} seems to be separated by {_MARKS[mark]}; columns must be separated by commas, "
            "so save it as comma-separated values",
            field="source",
        )
    if missing:
        has = ", ".join(names) if names else "no columns"
        raise ConfigurationError(
            f"{file} has no column {', '.join(map(repr, missing))}; it has {has}. Name them with "
            "--path-column, --label-column, --group-column, --attribute-columns, "
            "--probability-columns, --weight-column",
            field="source",
        )
    twice = [name for name in wanted if names.count(name) > 1]
    if twice:
        raise ConfigurationError(
            f"{file} has the column {', '.join(map(repr, twice))} twice; rename one",
            field="source",
        )


def _csv_row(
    folder: Path, line: int, values: dict[str, str | None], columns: Columns
) -> LabelledFile:
    """One row. DictReader gives None for cells that are missing, and None the cells too many."""

    def cell(column: str) -> str:
        return (values.get(column) or "").strip()

    name = cell(columns.path)
    fault = ""
    if None in values:
        # A comma inside a cell shifts all that follow: the label would be another column's.
        fault = "the row has more cells than the header; put quotes around cells with commas"
    elif None in values.values():
        fault = "the row has fewer cells than the header; give each column its cell"
    elif not name:
        fault = f"the path (column {columns.path!r}) is empty; name a file or drop the row"
    label, classes = _said(cell(columns.label), columns)
    numbers, no_number = _numbers(values, columns)
    weight = numbers.pop(columns.weight, None) if columns.weight else None
    return LabelledFile(
        row=line,
        path=folder / name,
        source=name,
        label=label,
        classes=classes,
        group=cell(columns.group) if columns.group else "",
        attributes={a: cell(a) for a in columns.attributes if values[a]},
        fault=fault or no_number,
        weight=weight,
        probabilities=numbers,
    )


def _numbers(values: dict[str, str | None], columns: Columns) -> tuple[dict[str, float], str]:
    """What stands in the columns of numbers, by column, where there is something; and what is no
    number, in words."""
    found: dict[str, float] = {}
    wanted = (*columns.probabilities, *([columns.weight] if columns.weight else []))
    for column in wanted:
        cell = (values.get(column) or "").strip()
        try:
            number = float(cell) if cell else None
        except ValueError:
            number = math.nan
        if number is not None and not math.isfinite(number):
            return found, f"column {column!r} holds {cell[:40]!r}, which is no number"
        if number is not None:
            found[column] = number
    return found, ""


def _said(cell: str, columns: Columns) -> tuple[str, tuple[str, ...] | None]:
    """`label` and `classes` of a row, from what stands in its cell."""
    if not cell:
        return "", () if columns.unannotated == "empty" else None
    if not columns.separator:
        return cell, None
    named = (part.strip() for part in cell.split(columns.separator))
    return "", tuple(dict.fromkeys(name for name in named if name))


def batch_name(files: list[LabelledFile]) -> str:
    """A name that is the same for the same import, so that repeating it resumes it.

    It covers paths, labels, weights, groups, attributes, sizes and times: an edited file makes a
    new batch.
    """
    digest = hashlib.sha256()
    for file in files:
        try:
            status = file.path.stat()
            state = f"{status.st_size}:{status.st_mtime_ns}"
        except (OSError, ValueError):  # ValueError: a NUL character in a table
            state = "unreadable"
        label = file.label if file.classes is None else file.classes
        row = (file.source, label, file.group, sorted(file.attributes.items()), state)
        digest.update(repr(row).encode())
        if file.weight is not None or file.probabilities:
            digest.update(repr((file.weight, sorted(file.probabilities.items()))).encode())
    return f"import-{digest.hexdigest()[:32]}"

"""Labelled images on this machine's disk: a folder per class, or a CSV with a row per image.

Only the CLI reads local paths; the service gets bytes. Rows are found first (cheap) and read one by
one while they are sent, so memory stays flat however large the import.
"""

import csv
import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from visionloop.errors import ConfigurationError, NotFoundError

_MARKS = {";": "semicolons", "\t": "tabs", "|": "bars"}
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})


@dataclass(frozen=True, slots=True)
class LabelledFile:
    """One row of an import. `row` is what people count: the CSV line, or the file's number.

    `fault` says what is wrong with a row that is not to be sent.
    """

    row: int
    path: Path
    source: str
    label: str
    group: str = ""
    attributes: dict[str, str] = field(default_factory=dict)
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Columns:
    """Which CSV columns mean what. `group` may be None; `attributes` may be empty."""

    path: str = "path"
    label: str = "label"
    group: str | None = None
    attributes: tuple[str, ...] = ()


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
    try:
        classes = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError as error:
        raise _unreadable(error) from error
    if not classes:
        raise ConfigurationError(
            f"{folder} has no sub-folders; make one per class (cats/…, dogs/…) or give a CSV file",
            field="source",
        )
    files = [(path, label.name) for label in classes for path in _images_below(label)]
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
    no ending); an image beside the class folders, too. Hidden files do not count.
    """
    beside = (path for path in folder.iterdir() if path.is_file())
    below = (path for path in _below(folder) if path.parent != folder and not _is_image(path))
    return Counter(
        path.suffix.lower()
        for path in (*beside, *below)
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


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


def _images_below(folder: Path) -> list[Path]:
    images = [path for path in sorted(_below(folder)) if _is_image(path)]
    if not images:
        raise ConfigurationError(
            f"class {folder.name!r} is empty: no images below {folder}. Add some, or remove the "
            f"folder; taken are {', '.join(sorted(IMAGE_SUFFIXES))}",
            field="source",
        )
    return images


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()


def _below(folder: Path) -> Iterator[Path]:
    """Everything that is no folder; a folder that cannot be read is told, not skipped."""
    try:
        for path, _, names in os.walk(folder, onerror=_raise):
            yield from (Path(path, name) for name in names)
    except OSError as error:
        raise _unreadable(error) from error


def _raise(error: OSError) -> None:
    raise error


def _unreadable(error: OSError) -> ConfigurationError:
    return ConfigurationError(f"cannot read {error.filename}: {error.strerror}", field="source")


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
    wanted = [columns.path, columns.label, *columns.attributes]
    wanted += [columns.group] if columns.group else []
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
            "--path-column, --label-column, --group-column, --attribute-columns",
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
        return (values[column] or "").strip()

    name = cell(columns.path)
    fault = ""
    if None in values:
        # A comma inside a cell shifts all that follow: the label would be another column's.
        fault = "the row has more cells than the header; put quotes around cells with commas"
    elif None in values.values():
        fault = "the row has fewer cells than the header; give each column its cell"
    elif not name:
        fault = f"the path (column {columns.path!r}) is empty; name a file or drop the row"
    return LabelledFile(
        row=line,
        path=folder / name,
        source=name,
        label=cell(columns.label),
        group=cell(columns.group) if columns.group else "",
        attributes={a: cell(a) for a in columns.attributes if values[a]},
        fault=fault,
    )


def batch_name(files: list[LabelledFile]) -> str:
    """A name that is the same for the same import, so that repeating it resumes it.

    It covers paths, labels, groups, attributes, sizes and times: an edited file makes a new batch.
    """
    digest = hashlib.sha256()
    for file in files:
        try:
            status = file.path.stat()
            state = f"{status.st_size}:{status.st_mtime_ns}"
        except OSError:
            state = "unreadable"
        row = (file.source, file.label, file.group, sorted(file.attributes.items()), state)
        digest.update(repr(row).encode())
    return f"import-{digest.hexdigest()[:32]}"

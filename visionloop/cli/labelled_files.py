"""Labelled images on this machine's disk: a folder per class, or a CSV with a row per image.

Only the CLI reads local paths; the service gets bytes. Rows are found first (cheap) and read one by
one while they are sent, so memory stays flat however large the import.
"""

import csv
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from visionloop.errors import ConfigurationError, NotFoundError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})


@dataclass(frozen=True, slots=True)
class LabelledFile:
    """One row of an import. `row` is what people count: the CSV line, or the file's number."""

    row: int
    path: Path
    source: str
    label: str
    group: str = ""
    attributes: dict[str, str] = field(default_factory=dict)


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
    classes = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not classes:
        raise ConfigurationError(
            f"{folder} has no sub-folders; make one per class (cats/…, dogs/…) or give a CSV file",
            field="source",
        )
    files = [(path, label.name) for label in classes for path in _images_below(label)]
    return [
        LabelledFile(row, path, path.relative_to(folder).as_posix(), label)
        for row, (path, label) in enumerate(files, start=1)
    ]


def _images_below(folder: Path) -> list[Path]:
    images = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES
    ]
    if not images:
        raise ConfigurationError(
            f"class {folder.name!r} is empty: no images below {folder}. Add some, or remove the "
            f"folder; taken are {', '.join(sorted(IMAGE_SUFFIXES))}",
            field="source",
        )
    return images


def _in_csv(file: Path, columns: Columns) -> Iterator[LabelledFile]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, strict=True)
            _check_columns(file, reader.fieldnames or [], columns)
            empty = True
            for values in reader:
                empty = False
                yield _csv_row(file.parent, reader.line_num, values, columns)
            if empty:
                raise ConfigurationError(f"{file} has a header and no rows", field="source")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{file} is not UTF-8 text: {error}", field="source") from error
    except csv.Error as error:
        raise ConfigurationError(f"{file} is not a CSV file: {error}", field="source") from error


def _check_columns(file: Path, names: Sequence[str], columns: Columns) -> None:
    wanted = [columns.path, columns.label, *columns.attributes]
    wanted += [columns.group] if columns.group else []
    missing = [name for name in wanted if name not in names]
    if missing:
        has = ", ".join(names) if names else "no columns"
        raise ConfigurationError(
            f"{file} has no column {', '.join(map(repr, missing))}; it has {has}. Name them with "
            "--path-column, --label-column, --group-column, --attribute-columns",
            field="source",
        )


def _csv_row(folder: Path, line: int, values: dict[str, str], columns: Columns) -> LabelledFile:
    name = (values[columns.path] or "").strip()
    return LabelledFile(
        row=line,
        path=folder / name,
        source=name,
        label=(values[columns.label] or "").strip(),
        group=(values[columns.group] or "").strip() if columns.group else "",
        attributes={a: (values[a] or "").strip() for a in columns.attributes if values[a]},
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

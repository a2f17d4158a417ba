"""What a local source of an import is: its format, and the one file that is sent for it.

The service reads no paths of ours, so a folder is packed into an archive first.
"""

import csv
import json
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from visionloop.disk_space import is_full, temporary_folder
from visionloop.errors import ConfigurationError, NotFoundError

_ARCHIVES: Final = (".zip", ".tar", ".tgz", ".tar.gz")
_CLASS_LISTS: Final = ("classes.txt", "obj.names", "data.yaml", "data.yml")
_NOT_EXPORTED: Final = "not-exported.csv"  # what an export of ours could not put into folders
_SNIFFED: Final = 64 * 2**20  # bytes of a JSON file


def format_of(source: str, wanted: str) -> str:
    """The format of a source, looked at when `wanted` is "auto".

    Raises NotFoundError, and ConfigurationError where it cannot be told.
    """
    if source.startswith("s3://"):
        return "s3" if wanted == "auto" else wanted
    with _readable():
        return _format_of_file(source, Path(source), wanted)


def _format_of_file(source: str, path: Path, wanted: str) -> str:
    if not path.exists():
        raise NotFoundError(f"{source} is neither a folder nor a file; check the path")
    if wanted != "auto":
        return wanted
    if path.is_dir():
        return _format_of_folder(path)
    name = path.name.lower()
    if name.endswith(_ARCHIVES):
        return _format_of_names(_names_in(path), "archive")
    if name.endswith(".json"):
        return _format_of_json(path)
    if name.endswith(".txt"):
        return "urls"
    return "csv"


def is_streamed(source: str, format_name: str, path_column: str) -> bool:
    """Whether a source is read here and sent row by row: folders, and tables of local paths."""
    if format_name == "folder":
        return True
    if format_name != "csv" or source.lower().endswith(_ARCHIVES):
        return False
    columns = _columns(Path(source))
    return path_column in columns or not columns & {"url", "sha256"}


@contextmanager
def packed(source: Path, images: Path | None) -> Iterator[Path]:
    """The one file to send: `source` itself, or an archive of it (and of the folder `images`).

    The archive is in TMPDIR. Raises ConfigurationError and DiskFullError.
    """
    if source.is_file() and images is None:
        yield source
        return
    with temporary_folder("visionloop-import-") as folder:
        archive = folder / f"{source.stem}.tar"
        with _readable(), tarfile.open(archive, "w") as writing:
            _add(writing, source, source.name)
            if images is not None:
                _add(writing, images, images.name)
        yield archive


def _add(
    archive: tarfile.TarFile, path: Path, name: str, above: frozenset[Path] = frozenset()
) -> None:
    """Files alone, by names, with nothing of this machine: the same files give the same archive.

    Linked folders are entered, but none from within itself: a link that goes round has no end.
    """
    if path.is_dir():
        real = path.resolve()
        if real in above:
            return
        for inner in sorted(path.iterdir()):
            if not inner.name.startswith("."):
                _add(archive, inner, f"{name}/{inner.name}", above | {real})
    elif path.is_file():
        info = tarfile.TarInfo(name)
        info.size = path.stat().st_size
        with path.open("rb") as file:
            archive.addfile(info, file)


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if is_full(error):  # the archive's disk
            raise
        raise ConfigurationError(
            f"cannot read {error.filename}: {error.strerror or error}", field="source"
        ) from error


def _names_in(path: Path) -> list[str]:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return [name.rpartition("/")[2] for name in archive.namelist()]
        with tarfile.open(path) as archive_:
            return [name.rpartition("/")[2] for name in archive_.getnames()]
    except (OSError, tarfile.TarError, zipfile.BadZipFile, ValueError) as error:
        raise ConfigurationError(
            f"{path} is not an archive that can be read: {error}", field="source"
        ) from error


def _format_of_folder(folder: Path) -> str:
    """A table beside sub-folders most often has the labels, and "images" then is no class."""
    names = [one.name for one in folder.iterdir()]
    found = _format_of_names(names, "folder")
    tables = sorted(
        name for name in names if name.lower().endswith(".csv") and name != _NOT_EXPORTED
    )
    if found == "folder" and tables:
        raise ConfigurationError(
            f"{folder} holds a table: give it instead ({folder / tables[0]}) if the labels stand "
            "in it, or say --format folder if the sub-folders are the classes",
            field="format",
        )
    return found


def _format_of_names(names: list[str], otherwise: str) -> str:
    plain = [name.lower() for name in names if not name.startswith(".")]
    if any(name in _CLASS_LISTS for name in plain):
        return "yolo"
    if any(name.endswith(".json") for name in plain) and "classes.json" not in plain:
        raise ConfigurationError(
            "there are JSON files in it: say what they are, --format coco, label-studio or "
            f"{otherwise}",
            field="format",
        )
    tables = [name for name in plain if name.endswith(".csv") and name != _NOT_EXPORTED]
    return "csv" if otherwise == "archive" and len(tables) == 1 else otherwise


def _columns(table: Path) -> set[str]:
    """The columns of a table; what is wrong with it is told when it is read."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            return {name.strip() for name in next(csv.reader(file), [])}
    except (OSError, UnicodeDecodeError, csv.Error):
        return set()


def _format_of_json(path: Path) -> str:
    try:
        if path.stat().st_size > _SNIFFED:
            raise ValueError("it is too large to be looked at")
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationError(
            f"{path} cannot be told apart ({error}); say --format coco or label-studio",
            field="format",
        ) from error
    return "coco" if isinstance(document, dict) and "images" in document else "label-studio"

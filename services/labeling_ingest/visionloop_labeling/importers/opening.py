"""From a kind and its file to an opened importer."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from sqlalchemy import select

from visionloop.images import Limits
from visionloop_labeling.database import Database
from visionloop_labeling.fetch_rules import FetchRules
from visionloop_labeling.importers import documents, names
from visionloop_labeling.importers.archive import Archive, ArchiveLimits, is_archive, open_archive
from visionloop_labeling.importers.coco import CocoImporter
from visionloop_labeling.importers.csv import CsvImporter
from visionloop_labeling.importers.entries import Importer, SourceError
from visionloop_labeling.importers.folder import FolderImporter
from visionloop_labeling.importers.images import ImagesImporter
from visionloop_labeling.importers.label_studio import LabelStudioImporter
from visionloop_labeling.importers.parameters import (
    CocoParameters,
    CsvParameters,
    FolderParameters,
    ImagesParameters,
    LabelStudioParameters,
    Parameters,
    S3Parameters,
    UrlsParameters,
    YoloParameters,
)
from visionloop_labeling.importers.pictures import Pictures
from visionloop_labeling.importers.s3_prefix import S3Importer
from visionloop_labeling.importers.urls import UrlsImporter
from visionloop_labeling.importers.yolo import YoloImporter
from visionloop_labeling.safe_fetch import Resolve, SafeFetcher
from visionloop_labeling.schema import Blob, Item

_MAX_TABLE: Final = 2 * 2**30  # bytes, of a CSV in an archive; it is read by lines


@dataclass(frozen=True, slots=True)
class Tools:
    """What importers need beside their source. `prefixes` are s3:// URLs that may be read."""

    limits: Limits
    database: Database
    archive_limits: ArchiveLimits = field(default_factory=ArchiveLimits)
    fetch_rules: FetchRules = field(default_factory=FetchRules)
    prefixes: tuple[str, ...] = ()
    resolve: Resolve | None = None

    def fetcher(self) -> SafeFetcher:
        """For the URLs of one source."""
        return SafeFetcher(self.fetch_rules, self.resolve)


@dataclass(frozen=True, slots=True)
class Source:
    """The job that a source is opened for; `keep_going` raises once it is no longer ours."""

    dataset_id: int
    job_id: int
    keep_going: Callable[[], None]


def needs_file(kind: str) -> bool:
    """Whether a source of this kind comes as an upload."""
    return kind != "s3"


def takes_several_files(kind: str) -> bool:
    """Whether the upload of such a source is an album of several files."""
    return kind == "images"


def open_importer(
    parameters: Parameters, file: Path | None, tools: Tools, source: Source
) -> Importer:
    """Opens a source. `file` is its upload, alone in a folder that importers may write to.

    Raises InvalidInputError when the whole source is not taken.
    """
    if isinstance(parameters, S3Parameters):
        return S3Importer(
            parameters,
            allowed=tools.prefixes,
            database=tools.database,
            dataset_id=source.dataset_id,
            job_id=source.job_id,
            limits=tools.limits,
            keep_going=source.keep_going,
        )
    if file is None:
        raise SourceError("this import needs a file", reason="no_file")
    if isinstance(parameters, ImagesParameters):
        return ImagesImporter(file, parameters, tools.limits)
    if isinstance(parameters, UrlsParameters):
        return UrlsImporter(file, tools.fetcher(), parameters)
    archive = open_archive(file, tools.archive_limits) if _is_packed(file, parameters) else None
    pictures = Pictures(archive, tools.fetcher(), _known(tools.database, source), tools.limits)
    try:
        return _open(parameters, file, pictures, tools.limits)
    except BaseException:
        pictures.close()
        raise


def _open(parameters: Parameters, file: Path, pictures: Pictures, limits: Limits) -> Importer:
    archive = pictures.archive
    match parameters:
        case FolderParameters() if archive is not None:
            return FolderImporter(archive, parameters, limits)
        case YoloParameters() if archive is not None:
            return YoloImporter(archive, pictures, parameters)
        case CsvParameters():
            table, folder = _table(file, archive)
            return CsvImporter(table, pictures, parameters, folder)
        case CocoParameters():
            return CocoImporter(_documents(file, archive), pictures, parameters)
        case LabelStudioParameters():
            found = _documents(file, archive)
            if len(found) > 1:
                raise SourceError(
                    f"the archive holds {len(found)} JSON files; send the one that was exported, "
                    "with its images",
                    reason="ambiguous_name",
                )
            name, data = found[0]
            folder = str(PurePosixPath(name).parent)
            return LabelStudioImporter(documents.parse(data, name), pictures, parameters, folder)
    raise SourceError("send an archive (ZIP, TAR, TAR.GZ) with the images", reason="no_archive")


def _is_packed(file: Path, parameters: Parameters) -> bool:
    """Whether the upload is an archive; where it must be one, whatever it looks like."""
    if isinstance(parameters, FolderParameters | YoloParameters):
        return True
    with file.open("rb") as opened:
        head = opened.read(512)
    if isinstance(parameters, CsvParameters):
        return is_archive(head)
    return not documents.is_json(head)


def _table(file: Path, archive: Archive | None) -> tuple[Path, str]:
    """The CSV file on disk, and the folder it had in its archive."""
    if archive is None:
        return file, ""
    found = [one for one in archive.members if _is_named(one.name, ".csv")]
    if len(found) != 1:
        what = ", ".join(names.shown(one.name) for one in found[:5]) or "none"
        raise SourceError(f"the archive must hold one CSV file; it holds {what}", reason="no_table")
    table = file.with_name("table.csv")
    archive.copy(found[0], table, _MAX_TABLE)
    return table, _folder(found[0].name)


def _documents(file: Path, archive: Archive | None) -> list[tuple[str, bytes]]:
    """The JSON files with their names, in the order of names."""
    if archive is None:
        if file.stat().st_size > documents.MAX_BYTES:
            raise documents.too_large("the file", file.stat().st_size)
        return [("", file.read_bytes())]
    found = sorted(
        (one for one in archive.members if _is_named(one.name, ".json")), key=lambda one: one.name
    )
    if not found:
        raise SourceError("the archive holds no JSON file", reason="no_json")
    size = sum(one.size for one in found)
    if size > documents.MAX_BYTES:
        raise documents.too_large("the archive", size)
    return [(one.name, archive.read(one, documents.MAX_BYTES)) for one in found]


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _is_named(name: str, suffix: str) -> bool:
    return name.lower().endswith(suffix) and not names.is_hidden(name)


def _known(database: Database, source: Source) -> Callable[[str], tuple[int, int] | None]:
    def size_of(sha256: str) -> tuple[int, int] | None:
        query = (
            select(Blob.width, Blob.height)
            .join(Item, Item.sha256 == Blob.sha256)
            .where(Item.dataset_id == source.dataset_id, Blob.sha256 == sha256)
        )
        with database.read() as session:
            found = session.execute(query).first()
        return None if found is None else (found.width, found.height)

    return size_of

"""From a kind and its file to an opened importer."""

from dataclasses import dataclass
from pathlib import Path

from visionloop.errors import InvalidInputError
from visionloop.images import Limits
from visionloop_labeling.importers.archive import ArchiveLimits, open_archive
from visionloop_labeling.importers.entries import Importer
from visionloop_labeling.importers.folder import FolderImporter
from visionloop_labeling.importers.parameters import FolderParameters, Parameters


@dataclass(frozen=True, slots=True)
class Tools:
    """What importers need beside their source."""

    limits: Limits
    archive_limits: ArchiveLimits


def needs_file(kind: str) -> bool:
    """Whether a source of this kind comes as an upload."""
    return kind != "s3"


def open_importer(parameters: Parameters, file: Path | None, tools: Tools) -> Importer:
    """Opens a source. `file` is its upload, alone in a folder that importers may write to.

    Raises InvalidInputError when the whole source is not taken.
    """
    if file is None:
        raise InvalidInputError("this import needs a file", field="file")
    match parameters:
        case FolderParameters():
            return FolderImporter(
                open_archive(file, tools.archive_limits), parameters, tools.limits
            )
    raise InvalidInputError("this kind of import is not known", field="kind")

"""A dataset's labels, current or of a snapshot, as files that other tools read.

    csv      a table with everything                 coco     COCO JSON, without the images
    yolo     a ZIP of images and text files          folder   a ZIP with a folder per class
    names, archives, zip_stream                      what they share

Each is a stream of bytes made from a stream of labels: memory stays flat, whatever the dataset's
size. What a format cannot hold is said in the export itself, never dropped in silence.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from visionloop.errors import InvalidInputError
from visionloop.objectstore import ObjectStore
from visionloop_labeling import exports, validation
from visionloop_labeling.database import Database
from visionloop_labeling.exporters.coco import coco_stream
from visionloop_labeling.exporters.csv import csv_stream
from visionloop_labeling.exporters.folder import folder_stream
from visionloop_labeling.exporters.yolo import yolo_stream

Format = Literal["csv", "coco", "yolo", "folder"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)
_PIECE: Final = 2**18  # bytes; a chunk may be a line, and each one sent costs a turn
_MEDIA: Final = {
    "csv": ("csv", "text/csv; charset=utf-8"),
    "coco": ("json", "application/json"),
    "yolo": ("zip", "application/zip"),
    "folder": ("zip", "application/zip"),
}


@dataclass(frozen=True, slots=True)
class Export:
    """A file to be: its name, its type, and its bytes, which may be read once."""

    name: str
    media_type: str
    chunks: Generator[bytes, None, None] = field(repr=False)


def open_export(
    database: Database,
    store: ObjectStore,
    dataset: str,
    format_name: str,
    snapshot: str | None = None,
) -> Export:
    """The labels of a dataset in this format; with `snapshot` (an id, its beginning, or "latest")
    those of a snapshot.

    Raises InvalidInputError, and NotFoundError for an unknown dataset or snapshot.
    """
    validation.dataset_name(dataset)
    if format_name not in _MEDIA:
        raise InvalidInputError(
            f"format {format_name[:40]!a} is not known; use one of {', '.join(FORMATS)}",
            field="format",
        )
    labels = exports.current(database, dataset)  # a dataset that is not there is said first
    if snapshot is not None:
        labels = exports.of_snapshot(database, store, dataset, snapshot)
    streams = {
        "csv": lambda: csv_stream(labels),
        "coco": lambda: coco_stream(labels),
        "yolo": lambda: yolo_stream(labels, store),
        "folder": lambda: folder_stream(labels, store),
    }
    suffix, media_type = _MEDIA[format_name]
    name = f"{dataset}-{labels.version}-{format_name}.{suffix}"
    return Export(name, media_type, _pieces(streams[format_name]()))


def _pieces(chunks: Iterator[bytes]) -> Generator[bytes, None, None]:
    waiting: list[bytes] = []
    size = 0
    for chunk in chunks:
        waiting.append(chunk)
        size += len(chunk)
        if size >= _PIECE:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)

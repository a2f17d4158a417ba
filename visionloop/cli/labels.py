"""`visionloop labels`: take the labels out."""

import argparse
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from visionloop.cli.connection import open_labeling
from visionloop.cli.output import Output
from visionloop.disk_space import room_for
from visionloop.errors import ConfigurationError, InvalidInputError
from visionloop.labeling_client import LabelingClient
from visionloop.objectstore.local import written_whole

ARCHIVES = ("yolo", "folder")  # formats that are ZIP files


def export(options: argparse.Namespace, output: Output) -> int:
    """Writes the labels, current or of a snapshot, as a file of the format asked for."""
    _check(options, output)
    with open_labeling(options) as client:
        if output.as_json and options.output == "-":
            labels = client.export_labels(options.dataset)
            output.result([asdict(label) for label in labels])
            return 0
        return _export_file(client, options, output)


def _export_file(client: LabelingClient, options: argparse.Namespace, output: Output) -> int:
    pieces = client.export(options.dataset, options.format, snapshot=options.snapshot or "")
    if options.output == "-":
        for piece in pieces:
            output.raw(piece)
        return 0
    target = Path(options.output)
    with _written_to(target):
        size = _write(target, pieces)
    output.result(
        {
            "dataset": options.dataset,
            "format": options.format,
            "snapshot": options.snapshot,
            "file": str(target),
            "bytes": size,
        }
    )
    output.line(f"{size:,} bytes written to {target}")
    return 0


def _check(options: argparse.Namespace, output: Output) -> None:
    if options.output != "-":
        return
    if output.as_json and (options.format != "csv" or options.snapshot):
        raise InvalidInputError(
            "--json lists the current labels; to get a file, name it with --output",
            field="output",
        )
    if options.format in ARCHIVES and sys.stdout.isatty():
        raise InvalidInputError(
            f"{options.format} is a ZIP file, nothing for a terminal; name a file with --output",
            field="output",
        )


@contextmanager
def _written_to(target: Path) -> Iterator[None]:
    try:
        with room_for(target, setting="--output"):
            yield
    except OSError as error:
        raise ConfigurationError(
            f"cannot write {target}: {error.strerror}", field="output"
        ) from error


def _write(target: Path, pieces: Iterable[bytes]) -> int:
    """The bytes written. A file is there whole or not at all; a pipe or a device gets them."""
    target.parent.stat()  # a folder that is not there is a mistyped path: none is made
    if target.exists() and not target.is_file():
        with target.open("wb") as file:
            return sum(file.write(piece) for piece in pieces)
    with written_whole(target) as file:
        return sum(file.write(piece) for piece in pieces)

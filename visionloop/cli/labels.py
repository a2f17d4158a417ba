"""`visionloop labels`: take the labels out."""

import argparse
import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from visionloop.cli.connection import open_labeling
from visionloop.cli.output import Output
from visionloop.errors import ConfigurationError
from visionloop.labeling_client import ExportedLabel
from visionloop.objectstore.local import written_whole

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def export(options: argparse.Namespace, output: Output) -> int:
    """Writes sha256, class, split, group, author and attributes of every labelled image."""
    with open_labeling(options) as client:
        labels = list(client.export_labels(options.dataset))
    if output.as_json:
        output.result([asdict(label) for label in labels])
    elif options.output == "-":
        output.text(_as_csv(labels))
    else:
        try:
            _write(Path(options.output), _as_csv(labels).encode())
        except OSError as error:
            raise ConfigurationError(
                f"cannot write {options.output}: {error.strerror}", field="output"
            ) from error
        output.line(f"{len(labels)} labels written to {options.output}")
    return 0


def _write(target: Path, data: bytes) -> None:
    """A file is written whole or not at all; a pipe or a device gets the bytes."""
    target.parent.stat()  # a folder that is not there is a mistyped path: none is made
    if target.exists() and not target.is_file():
        target.write_bytes(data)
        return
    with written_whole(target) as file:
        file.write(data)


def _as_csv(labels: Sequence[ExportedLabel]) -> str:
    attributes = sorted({name for label in labels for name in label.attributes})
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(
        ["sha256", "label", "split", "group", "author_kind", "author", "labelled", "source"]
        + attributes
    )
    for label in labels:
        row = [label.sha256, label.class_name, label.split, label.group, label.author_kind]
        row += [label.author, label.labelled.isoformat(), label.source]
        row += [label.attributes.get(name, "") for name in attributes]
        writer.writerow([_safe(cell) for cell in row])
    return file.getvalue()


def _safe(cell: object) -> str:
    """A spreadsheet must not run what somebody typed as a label (CSV injection)."""
    text = str(cell)
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text

"""`visionloop labels`: take the labels out."""

import argparse
import csv
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from visionloop.cli.output import Output
from visionloop.errors import ConfigurationError
from visionloop.labeling_client import ExportedLabel, LabelingClient

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def export(options: argparse.Namespace, output: Output) -> int:
    """Writes sha256, class, split, group, author and attributes of every labelled image."""
    with LabelingClient(options.target) as client:
        labels = list(client.export_labels(options.dataset))
    if output.as_json:
        output.result([asdict(label) for label in labels])
    elif options.output == "-":
        _write_csv(labels, sys.stdout)
    else:
        try:
            with Path(options.output).open("w", newline="", encoding="utf-8") as file:
                _write_csv(labels, file)
        except OSError as error:
            raise ConfigurationError(
                f"cannot write {options.output}: {error.strerror}", field="output"
            ) from error
        output.line(f"{len(labels)} labels written to {options.output}")
    return 0


def _write_csv(labels: Iterable[ExportedLabel], file: TextIO) -> None:
    labels = list(labels)
    attributes = sorted({name for label in labels for name in label.attributes})
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


def _safe(cell: object) -> str:
    """A spreadsheet must not run what somebody typed as a label (CSV injection)."""
    text = str(cell)
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text

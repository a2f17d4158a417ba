"""`visionloop import`: read labelled files here, send them, report every bad row.

Folders and tables are read here and sent row by row; what the service reads by itself (archives,
annotation files, URLs, buckets) is the business of `import_jobs`.

Good rows are kept whatever happens to their neighbours. Repeating an import is safe: rows that the
service has already answered are answered from its receipts.
"""

import argparse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from visionloop.cli.connection import open_labeling
from visionloop.cli.import_jobs import import_job
from visionloop.cli.import_sources import format_of, is_streamed
from visionloop.cli.labelled_files import Columns, LabelledFile, batch_name, find
from visionloop.cli.output import Output
from visionloop.cli.store import user_name
from visionloop.errors import ImageError, InvalidInputError, NotFoundError
from visionloop.image_file import read_image_file
from visionloop.labeling_client import SubmitImage
from visionloop.telemetry import progress

SHOWN_REJECTIONS = 20


class _Rejections:
    """Rows that did not get in, by row number: found here or told by the service."""

    def __init__(self) -> None:
        self.rows: list[dict[str, object]] = []

    def add(self, file: LabelledFile, reason: str, message: str) -> None:
        self.rows.append(
            {"row": file.row, "source": file.source, "reason": reason, "message": message}
        )


def import_images(options: argparse.Namespace, output: Output) -> int:
    """Exit code 0 when all rows got in, 65 when some were rejected (and the others kept)."""
    format_name = format_of(options.source, options.format)
    if options.images or not is_streamed(options.source, format_name, options.path_column):
        return import_job(options, format_name, output)
    names = (name.strip() for name in options.attribute_columns.split(","))
    attributes = tuple(name for name in names if name)
    columns = Columns(options.path_column, options.label_column, options.group_column, attributes)
    files = find(Path(options.source), columns)
    batch = options.batch or batch_name(files)
    author = options.author or user_name()
    rejections = _Rejections()
    outcomes: Counter[str] = Counter()
    with open_labeling(options) as client:
        # Making one needs an administrator, sending images to one that is there does not.
        if options.dataset not in {one.name for one in client.list_datasets()}:
            client.create_dataset(options.dataset)
        rows = _readable_rows(files, options.dataset, batch, author, rejections)
        receipts = client.submit_images(rows)
        for receipt in progress(receipts, total=len(files), description="import", unit="image"):
            outcomes[receipt.outcome] += 1
            if receipt.outcome in ("rejected", "quarantined"):
                rejections.add(files[receipt.ordinal], receipt.reason, receipt.message)
    return _report(options.dataset, batch, len(files), outcomes, rejections, output)


def _readable_rows(
    files: list[LabelledFile], dataset: str, batch: str, author: str, rejections: _Rejections
) -> Iterator[SubmitImage]:
    for ordinal, file in enumerate(files):
        if file.fault:
            rejections.add(file, "invalid_row", file.fault)
            continue
        if not file.label:
            rejections.add(file, "empty_label", "the label is empty; give a class or drop the row")
            continue
        try:
            image = read_image_file(file.path)
        except ImageError as error:
            rejections.add(file, error.reason, str(error))
            continue
        except (InvalidInputError, NotFoundError) as error:
            rejections.add(file, "unreadable_file", str(error))
            continue
        yield SubmitImage(
            dataset=dataset,
            batch=batch,
            ordinal=ordinal,
            image=image,
            label=file.label,
            group=file.group,
            attributes=file.attributes,
            author_kind="import",
            author=author,
            source=file.source,
        )


def _report(
    dataset: str,
    batch: str,
    total: int,
    outcomes: Counter[str],
    rejections: _Rejections,
    output: Output,
) -> int:
    rejected = sorted(rejections.rows, key=lambda row: str(row["row"]).zfill(12))
    accepted, duplicates = outcomes["accepted"], outcomes["duplicate"]
    output.result(
        {
            "dataset": dataset,
            "batch": batch,
            "rows": total,
            "accepted": accepted,
            "duplicates": duplicates,
            "rejected": rejected,
        }
    )
    output.line(
        f"{dataset}: {accepted} images accepted, {duplicates} were there already, "
        f"{len(rejected)} rejected"
    )
    for row in rejected[:SHOWN_REJECTIONS]:
        output.note(f"row {row['row']} ({row['source']}): {row['message']}")
    if len(rejected) > SHOWN_REJECTIONS:
        output.note(f"… and {len(rejected) - SHOWN_REJECTIONS} more; --json lists all")
    return 65 if rejected else 0

"""`visionloop import`: read labelled files here, send them, report every bad row.

Folders and tables are read here and sent row by row; what the service reads by itself (archives,
annotation files, URLs, buckets) is the business of `import_jobs`.

Good rows are kept whatever happens to their neighbours. Repeating an import is safe: rows that the
service has already answered are answered from its receipts.
"""

import argparse
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from visionloop.annotation import Annotation
from visionloop.cli.connection import open_labeling
from visionloop.cli.import_jobs import check_task, import_job, listed
from visionloop.cli.import_sources import format_of, is_streamed
from visionloop.cli.labelled_files import Columns, LabelledFile, batch_name, find, passed_over
from visionloop.cli.output import Output
from visionloop.cli.store import user_name
from visionloop.errors import (
    ConfigurationError,
    ImageError,
    InvalidInputError,
    NotFoundError,
    PermissionDeniedError,
)
from visionloop.image_file import read_image_file
from visionloop.labeling_client import DatasetSettings, LabelingClient, Receipt, SubmitImage
from visionloop.telemetry import progress

SHOWN_ROWS = 20  # of each kind


class _Remarks:
    """Rows of which there is something to say, by row number: found here or told by the service."""

    def __init__(self) -> None:
        self.rows: list[dict[str, object]] = []

    def add(self, file: LabelledFile, reason: str, message: str) -> None:
        self.rows.append(
            {"row": file.row, "source": file.source, "reason": reason, "message": message}
        )

    def by_row(self) -> list[dict[str, object]]:
        return sorted(self.rows, key=lambda row: str(row["row"]).zfill(12))

    def tell(self, output: Output) -> None:
        """The first of them, for people."""
        rows = self.by_row()
        for row in rows[:SHOWN_ROWS]:
            output.note(f"row {row['row']} ({row['source']}): {row['message']}")
        if len(rows) > SHOWN_ROWS:
            output.note(f"… and {len(rows) - SHOWN_ROWS} more; --json lists all")


@dataclass(slots=True)
class _Report:
    """What became of an import. `left_out` counts files by ending that were never rows of it,
    `unlabelled` the images that came in without a label."""

    dataset: str
    batch: str
    files: int
    left_out: Counter[str]
    outcomes: Counter[str] = field(default_factory=Counter)
    rejected: _Remarks = field(default_factory=_Remarks)
    disputed: _Remarks = field(default_factory=_Remarks)
    unlabelled: int = 0

    def count(self, file: LabelledFile, receipt: Receipt) -> None:
        self.outcomes[receipt.outcome] += 1
        if receipt.outcome in ("rejected", "quarantined"):
            self.rejected.add(file, receipt.reason, receipt.message)
        elif receipt.reason == "label_conflict":
            self.disputed.add(file, receipt.reason, receipt.message)
        if receipt.outcome in ("accepted", "duplicate"):
            self.unlabelled += file.unlabelled

    def tell(self, output: Output) -> None:
        accepted, duplicates = self.outcomes["accepted"], self.outcomes["duplicate"]
        output.result(
            {
                "dataset": self.dataset,
                "batch": self.batch,
                "rows": self.files,
                "accepted": accepted,
                "duplicates": duplicates,
                "unlabelled": self.unlabelled,
                "rejected": self.rejected.by_row(),
                "disputed": self.disputed.by_row(),
                "left_out": dict(sorted(self.left_out.items())),
            }
        )
        output.line(
            f"{self.dataset}: {accepted} images accepted, {duplicates} were there already, "
            f"{len(self.rejected.rows)} rejected"
        )
        if self.unlabelled:
            output.line(f"{self.unlabelled} came without a label and wait for one")
        self.rejected.tell(output)
        self.disputed.tell(output)
        if self.left_out:
            counts = (f"{n} {end or 'without ending'}" for end, n in self.left_out.most_common())
            output.note(f"left out ({', '.join(counts)}): their names are not those of images")


def import_images(options: argparse.Namespace, output: Output) -> int:
    """Exit code 0 when all rows got in, 65 when some were rejected (and the others kept)."""
    format_name = format_of(options.source, options.format)
    if options.images or not is_streamed(options.source, format_name, options.path_column):
        return import_job(options, format_name, output)
    source = Path(options.source)
    files = find(source, _columns(options, format_name))
    left_out = passed_over(source) if source.is_dir() else Counter[str]()
    report = _Report(options.dataset, options.batch or batch_name(files), len(files), left_out)
    author = options.author or user_name()
    with open_labeling(options) as client:
        # Making one needs an administrator, sending images to one that is there does not.
        tasks = {one.name: one.settings.task for one in client.list_datasets()}
        if options.dataset not in tasks:
            _create_dataset(client, options)
        else:
            check_task(options, tasks[options.dataset])
        rows = _readable_rows(files, report, author)
        receipts = client.submit_images(rows)
        for receipt in progress(receipts, total=len(files), description="import", unit="image"):
            report.count(files[receipt.ordinal], receipt)
    report.tell(output)
    return 65 if report.rejected.rows else 0


def _create_dataset(client: LabelingClient, options: argparse.Namespace) -> None:
    settings = DatasetSettings(task=options.task or "classification")
    try:
        client.create_dataset(options.dataset, settings)
    except PermissionDeniedError as error:
        raise PermissionDeniedError(
            f"there is no dataset {options.dataset!r}, and to make it: {error}; check the name, or "
            "have an administrator make it"
        ) from error


def _columns(options: argparse.Namespace, format_name: str) -> Columns:
    """What the flags say of a table. Raises ConfigurationError for options of other formats."""
    if options.option:
        raise ConfigurationError(
            f"--option {options.option[0]!r} has no effect on a {format_name} that is read here; "
            "its flags are --path-column, --label-column, --group-column, --attribute-columns, "
            "--probability-columns, --weight-column, --label-separator and --unannotated",
            field="option",
        )
    return Columns(
        path=options.path_column,
        label=options.label_column,
        group=options.group_column,
        attributes=listed(options.attribute_columns),
        separator=options.label_separator,
        unannotated=options.unannotated,
        probabilities=listed(options.probability_columns),
        weight=options.weight_column,
    )


def _readable_rows(
    files: list[LabelledFile], report: _Report, author: str
) -> Iterator[SubmitImage]:
    for ordinal, file in enumerate(files):
        if file.fault:
            report.rejected.add(file, "invalid_row", file.fault)
            continue
        try:
            image = read_image_file(file.path)
        except ImageError as error:
            report.rejected.add(file, error.reason, str(error))
            continue
        except (InvalidInputError, NotFoundError) as error:
            report.rejected.add(file, "unreadable_file", str(error))
            continue
        annotation = _annotation(file)
        yield SubmitImage(
            dataset=report.dataset,
            batch=report.batch,
            ordinal=ordinal,
            image=image,
            label=file.label or None if annotation is None else None,
            annotation=annotation,
            group=file.group,
            attributes=file.attributes,
            author_kind="import",
            author=author,
            source=file.source,
        )


def _annotation(file: LabelledFile) -> Annotation | None:
    """What more than one plain label says of an image; None where that says it, or nothing."""
    if file.unlabelled or (file.classes is None and file.weight is None and not file.probabilities):
        return None
    classes = file.classes
    if classes is None:
        classes = (file.label,) if file.label else ()
    return Annotation(
        classes=classes,
        nothing_there=file.classes is not None and not classes,
        weight=file.weight,
        probabilities=file.probabilities,
    )

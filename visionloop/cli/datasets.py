"""`visionloop datasets`: which there are, and how far their labelling is. Needs no extra."""

import argparse
from dataclasses import asdict

from visionloop.cli.connection import open_labeling
from visionloop.cli.output import Output


def list_datasets(options: argparse.Namespace, output: Output) -> int:
    """All datasets of the labeling-ingest service; the classes of each with --json."""
    with open_labeling(options) as client:
        datasets = client.list_datasets()
    output.result([asdict(dataset) for dataset in datasets])
    if not datasets:
        output.line("no datasets yet; make one: visionloop import FOLDER --dataset NAME")
        return 0
    output.table(
        ["dataset", "task", "images", "labelled", "classes", "created"],
        [
            [one.name, one.settings.task, one.images, one.labelled, len(one.classes), one.created]
            for one in datasets
        ],
    )
    return 0

"""`visionloop import`, `datasets`, `snapshots`, `labels`: what a dataset takes and gives."""

from visionloop.cli.flags.shared import Verbs, environment, group, service_flags, store_flags, verb
from visionloop.flags import StrictParser


def add_import(verbs: Verbs, common: StrictParser) -> None:
    """`import SOURCE`."""
    service = service_flags("labeling")
    imports = verb(
        verbs,
        "import",
        "imports.import_images",
        [common, service],
        "send labelled images to the labeling-ingest service",
    )
    imports.add_argument(
        "source",
        help="a folder with a sub-folder per class, a CSV file with a row per image, an archive "
        "(ZIP, TAR, TAR.GZ), COCO or Label Studio JSON, a text file of URLs, or s3://bucket/prefix",
    )
    imports.add_argument(
        "--format",
        choices=("auto", "folder", "csv", "archive", "coco", "yolo", "label-studio", "urls", "s3"),
        default="auto",
        help="what the source is (%(default)s: by its name and content)",
    )
    imports.add_argument(
        "--images", default=None, metavar="FOLDER", help="images that an annotation file names"
    )
    imports.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a parameter of what the service reads, as image_key=photo (docs/importing.md)",
    )
    imports.add_argument(
        "--url",
        default=environment("LABELING_URL", "http://127.0.0.1:8080"),
        help="HTTP address of the labeling service, for all but folders and CSV (%(default)s)",
    )
    imports.add_argument("--no-wait", action="store_true", help="do not follow the import")
    imports.add_argument("--dataset", required=True, help="made if it is not there")
    imports.add_argument(
        "--task",
        choices=("classification", "multi_label", "detection"),
        default=None,
        help="what labels say in a dataset that is made: one class, several classes, or boxes, for "
        "good (default: detection for COCO and YOLO, else classification)",
    )
    imports.add_argument("--path-column", default="path", help="CSV (%(default)s)")
    imports.add_argument("--label-column", default="label", help="CSV (%(default)s)")
    imports.add_argument(
        "--label-separator",
        default="",
        metavar="MARK",
        help="CSV: what stands between several labels in a cell, as | (with --task multi_label)",
    )
    imports.add_argument(
        "--unannotated",
        choices=("open", "empty"),
        default="open",
        help="CSV, COCO, YOLO: an image without a label waits for one (open), or shows none of the "
        "classes, no box (empty) (%(default)s)",
    )
    imports.add_argument("--group-column", default=None, help="CSV: images that stay in one split")
    imports.add_argument(
        "--attribute-columns", default="", metavar="A,B", help="CSV: kept with each image"
    )
    imports.add_argument(
        "--probability-columns",
        default="",
        metavar="A,B",
        help="CSV: how probable each class is, in columns called as the classes are (soft labels)",
    )
    imports.add_argument(
        "--weight-column", default=None, help="CSV: what an image counts in training (others: 1)"
    )
    imports.add_argument("--author", default=None, help="who labelled (default: the user name)")
    imports.add_argument(
        "--batch",
        default=None,
        help="name of this import (default: from its content, so that "
        "repeating an interrupted import goes on where it stopped)",
    )


def add_datasets(verbs: Verbs, common: StrictParser) -> None:
    """`datasets` and its verb."""
    datasets = group(verbs, "datasets", "the datasets of the labeling-ingest service")
    verb(
        datasets,
        "list",
        "datasets.list_datasets",
        [common, service_flags("labeling")],
        "all datasets, with the counts of their images and labels",
    )


def add_snapshots(verbs: Verbs, common: StrictParser) -> None:
    """`snapshots` and its verbs."""
    store = store_flags()
    service = service_flags("labeling")
    snapshots = group(verbs, "snapshots", "the immutable datasets that models are trained on")
    create = verb(
        snapshots,
        "create",
        "snapshots.create",
        [common, service],
        "cut a snapshot of what is labelled now",
    )
    create.add_argument("dataset")
    listing = verb(snapshots, "list", "snapshots.list_snapshots", [common, store], "oldest first")
    listing.add_argument("dataset", nargs="?", default=None, help="default: all datasets")
    show = verb(snapshots, "show", "snapshots.show", [common, store], "counts, splits, classes")
    show.add_argument("dataset")
    show.add_argument("id", nargs="?", default="latest", help="an id, its beginning, or latest")
    diff = verb(snapshots, "diff", "snapshots.diff", [common, store], "what changed between two")
    diff.add_argument("dataset")
    diff.add_argument("before")
    diff.add_argument("after", nargs="?", default="latest")


def add_labels(verbs: Verbs, common: StrictParser) -> None:
    """`labels` and its verbs."""
    service = service_flags("labeling")
    labels = group(verbs, "labels", "the labels of a dataset")
    export = verb(
        labels,
        "export",
        "labels.export",
        [common, service],
        "write the labels as a file that other tools read",
    )
    export.add_argument("dataset")
    export.add_argument(
        "--format",
        choices=("csv", "coco", "yolo", "folder"),
        default="csv",
        help="a table, COCO JSON, or a ZIP with the images: YOLO, a folder per class (%(default)s)",
    )
    export.add_argument(
        "--snapshot",
        default=None,
        metavar="ID",
        help="those of a snapshot: an id, its beginning, or latest (default: the current labels)",
    )
    export.add_argument("--output", "-o", default="-", help="a file (default: stdout)")

"""The verbs and their flags, and the one place where errors become exit codes."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import TypeAlias

from visionloop import __version__
from visionloop.cli.output import Output
from visionloop.errors import VisionloopError
from visionloop.extras import require
from visionloop.flags import StrictParser

DEFAULT_DATA = "visionloop-data"
EXIT_CODES = """\
exit codes: 0 done · 64 wrong flag, value or input · 65 refused, or some rows were rejected ·
66 not found · 69 a store or service cannot be reached · 70 a fault of ours · 75 somebody else was
first: look and try again · 77 no right to do this · 130 interrupted"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb; returns its exit code. Only faults of ours leave a traceback."""
    given = sys.argv[1:] if arguments is None else arguments
    output = Output(as_json="--json" in given)
    try:
        options = _parser().parse_args(given)
        if options.needs:
            require(options.needs)
        verb = importlib.import_module(f"visionloop.cli.{options.module}")
        code: int = getattr(verb, options.function)(options, output)
        output.flush()
    except VisionloopError as error:
        output.error(error)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output (`| head`) has gone; stop without a word, as cat does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


Verbs: TypeAlias = "argparse._SubParsersAction[StrictParser]"


def _parser() -> StrictParser:
    common = StrictParser(add_help=False)
    common.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser = StrictParser(
        prog="visionloop",
        description="Image recognition that keeps learning.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"visionloop {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    _add_up(verbs, common)
    _add_import(verbs, common)
    _add_predict(verbs, common)
    _add_feedback(verbs, common)
    _add_models(verbs, common)
    _add_doctor(verbs, common)
    _add_reproduce(verbs, common)
    _add_snapshots(verbs, common)
    _add_labels(verbs, common)
    return parser


# The verbs' modules whose libraries are not in the bare install.
NEEDS = {
    "doctor": "core",
    "imports": "core",
    "model_check": "core",
    "models": "core",
    "onnx_files": "inference",
    "reproduce": "training",
    "snapshots": "snapshots",
}


def _verb(
    verbs: Verbs, name: str, runs: str, parents: Sequence[StrictParser], help_text: str
) -> StrictParser:
    """A verb that calls `runs` ("module.function" below visionloop.cli)."""
    parser = verbs.add_parser(name, parents=list(parents), help=help_text, description=help_text)
    module, function = runs.split(".")
    parser.set_defaults(module=module, function=function, needs=NEEDS.get(module))
    return parser


def _group(verbs: Verbs, name: str, help_text: str) -> Verbs:
    parser = verbs.add_parser(name, help=help_text, description=help_text)
    return parser.add_subparsers(required=True, metavar="VERB")


def _environment(name: str, default: str | None = None) -> str | None:
    return os.environ.get(f"VISIONLOOP_{name}", default)


def _store_flags() -> StrictParser:
    flags = StrictParser(add_help=False)
    flags.add_argument(
        "--store",
        default=_environment("STORE"),
        metavar="URL",
        help="object store, file:///dir or s3://bucket/prefix "
        f"(default: $VISIONLOOP_STORE, else {DEFAULT_DATA}/store in this folder)",
    )
    return flags


def _service_flags(name: str, port: int) -> StrictParser:
    flags = StrictParser(add_help=False)
    flags.add_argument(
        "--target",
        default=_environment(f"{name.upper()}_TARGET", f"127.0.0.1:{port}"),
        metavar="HOST:PORT",
        help=f"gRPC address of the {name} service (default: %(default)s)",
    )
    return flags


def _add_up(verbs: Verbs, common: StrictParser) -> None:
    up = _verb(verbs, "up", "up.up", [common], "run all programs on this machine until Ctrl-C")
    up.add_argument("--data", default=DEFAULT_DATA, help="the one data folder (%(default)s)")
    up.add_argument("--store", default=None, metavar="URL", help="default: the folder DATA/store")
    up.add_argument("--inference-port", type=int, default=8001, help="gRPC (%(default)s)")
    up.add_argument("--inference-http-port", type=int, default=8002, help="%(default)s")
    up.add_argument("--labeling-port", type=int, default=8081, help="gRPC (%(default)s)")
    up.add_argument("--labeling-http-port", type=int, default=8080, help="%(default)s")
    up.add_argument(
        "--poll-seconds",
        type=float,
        default=2.0,
        help="how often the inference service looks for a promoted version (%(default)s)",
    )
    up.add_argument("--ready-file", default=None, help="where to write the addresses, as JSON")


def _add_import(verbs: Verbs, common: StrictParser) -> None:
    service = _service_flags("labeling", 8081)
    _add_tls(service)
    imports = _verb(
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
        help="a parameter of the format, as unannotated=empty (docs/importing.md lists them)",
    )
    imports.add_argument(
        "--url",
        default=_environment("LABELING_URL", "http://127.0.0.1:8080"),
        help="HTTP address of the labeling service, for all but folders and CSV (%(default)s)",
    )
    imports.add_argument("--no-wait", action="store_true", help="do not follow the import")
    imports.add_argument("--dataset", required=True, help="made if it is not there")
    imports.add_argument("--path-column", default="path", help="CSV (%(default)s)")
    imports.add_argument("--label-column", default="label", help="CSV (%(default)s)")
    imports.add_argument("--group-column", default=None, help="CSV: images that stay in one split")
    imports.add_argument(
        "--attribute-columns", default="", metavar="A,B", help="CSV: kept with each image"
    )
    imports.add_argument("--author", default=None, help="who labelled (default: the user name)")
    imports.add_argument(
        "--batch",
        default=None,
        help="name of this import (default: from its content, so that "
        "repeating an interrupted import goes on where it stopped)",
    )


def _add_predict(verbs: Verbs, common: StrictParser) -> None:
    service = _service_flags("inference", 8001)
    _add_tls(service)
    predict = _verb(
        verbs,
        "predict",
        "predict.predict",
        [common, service],
        "ask the inference service what images show",
    )
    predict.add_argument("images", nargs="+", help="image files")
    predict.add_argument("--model", default="", help="default: the only model served")
    predict.add_argument("--model-version", default="", help='a number or alias ("stable")')
    predict.add_argument("--top-k", type=int, default=3, help="classes to show (%(default)s)")
    predict.add_argument(
        "--timeout",
        type=float,
        default=30.0,
        help="seconds for up to 32 images (%(default)s); more are sent as a stream without limit",
    )


def _add_feedback(verbs: Verbs, common: StrictParser) -> None:
    service = _service_flags("inference", 8001)
    _add_tls(service)
    feedback = _verb(
        verbs,
        "feedback",
        "predict.feedback",
        [common, service],
        "tell the inference service what a predicted image truly shows",
    )
    feedback.add_argument("prediction_id", help="as `visionloop predict --json` shows it")
    verdict = feedback.add_mutually_exclusive_group(required=True)
    verdict.add_argument("--class", dest="class_id", metavar="ID", help="the right class")
    verdict.add_argument(
        "--wrong", action="store_true", help="the prediction is wrong; the right class is not known"
    )
    picture = feedback.add_mutually_exclusive_group(required=True)
    picture.add_argument("--image", metavar="FILE", help="the image that was predicted")
    picture.add_argument(
        "--image-sha256", metavar="HEX", help="its digest, where labeling-ingest has the image"
    )
    feedback.add_argument("--note", default="", help="for people")
    feedback.add_argument(
        "--id",
        default=None,
        metavar="UUID",
        help="your id for this feedback: sent again it counts once (default: a new one)",
    )
    feedback.add_argument("--timeout", type=float, default=30.0, help="seconds (%(default)s)")


def _add_tls(flags: StrictParser) -> None:
    tls = flags.add_argument_group(
        "TLS and authentication", "a bearer token is read from VISIONLOOP_TOKEN"
    )
    tls.add_argument("--tls", action="store_true", help="TLS, with the usual authorities")
    tls.add_argument("--tls-ca", metavar="PEM", help="TLS, and trust these authorities alone")
    tls.add_argument("--tls-certificate", metavar="PEM", help="our own, for mTLS")
    tls.add_argument("--tls-key", metavar="PEM", help="its key")


def _add_models(verbs: Verbs, common: StrictParser) -> None:
    store = _store_flags()
    models = _group(verbs, "models", "look at model versions, promote them, roll back, pin")
    _verb(models, "list", "models.list_models", [common, store], "all models and versions")
    show = _verb(models, "show", "models.show", [common, store], "one version")
    show.add_argument("model")
    show.add_argument("version", nargs="?", default="stable", help="number or alias (%(default)s)")
    promote = _verb(models, "promote", "models.promote", [common, store], "make a version stable")
    promote.add_argument("model")
    promote.add_argument("version", type=int)
    rollback = _verb(
        models,
        "rollback",
        "models.rollback",
        [common, store],
        "make the version that was stable before stable again",
    )
    rollback.add_argument("model")
    canary = _verb(
        models,
        "canary",
        "models.canary",
        [common, store],
        "give a version a share of the requests, or end that",
    )
    canary.add_argument("model")
    canary.add_argument("version", type=int, nargs="?", default=None)
    canary.add_argument("--percent", type=float, default=None, help="its share, 0 < P < 100")
    canary.add_argument("--end", action="store_true", help="stable gets all requests again")
    pin = _verb(
        models,
        "pin",
        "models.pin",
        [common, store],
        "keep stable where it is: no retraining promotes over it",
    )
    pin.add_argument("model")
    pin.add_argument("--end", action="store_true", help="promotions may move stable again")
    history = _verb(models, "history", "models.history", [common, store], "who moved what, and why")
    history.add_argument("model")
    history.add_argument("--last", type=int, default=None, metavar="N", help="the newest only")
    for verb in (promote, rollback):
        verb.add_argument("--unpin", action="store_true", help="although stable is pinned")
    for verb in (promote, rollback, canary, pin):
        verb.add_argument("--why", required=True, help="goes into the history")
        verb.add_argument("--who", default=None, help="default: the user name")
    _add_model_check(models, [common, store])
    _add_onnx_file(models, [common, store])


def _add_model_check(models: Verbs, parents: Sequence[StrictParser]) -> None:
    service = _service_flags("inference", 8001)
    _add_tls(service)
    check = _verb(
        models,
        "check",
        "model_check.check",
        [*parents, service],
        "ask the running service for golden images and compare its answers with the published ones",
    )
    check.add_argument("model", nargs="?", default=None, help="default: every promoted one")
    check.add_argument("--timeout", type=float, default=30.0, help="seconds (%(default)s)")


def _add_onnx_file(models: Verbs, parents: Sequence[StrictParser]) -> None:
    add = _verb(
        models, "add", "onnx_files.add", parents, "publish any ONNX file, to be served as tensors"
    )
    add.add_argument("file", help="with all weights inside and standard operators only")
    add.add_argument("--model", required=True, help="its name; a new version when it is there")
    add.add_argument("--labels", default=None, metavar="FILE", help="class names, one a line")
    add.add_argument("--promote", action="store_true", help="make it stable, so that it is served")
    add.add_argument("--why", default=None, help='goes into the history (default: "added FILE")')
    add.add_argument("--who", default=None, help="default: the user name")


def _add_reproduce(verbs: Verbs, common: StrictParser) -> None:
    reproduce = _verb(
        verbs,
        "reproduce",
        "reproduce.reproduce",
        [common, _store_flags()],
        "build a trained version again from its provenance and compare; publishes nothing",
    )
    reproduce.add_argument("version", metavar="MODEL@VERSION", help="as cells@7")
    reproduce.add_argument(
        "--tolerance",
        type=float,
        default=0.01,
        help="largest difference of a probability or a metric that still is the same model, where "
        "the bits differ (%(default)s)",
    )
    reproduce.add_argument("--cache", default=None, metavar="DIR", help="images are kept there")


def _add_doctor(verbs: Verbs, common: StrictParser) -> None:
    doctor = _verb(
        verbs,
        "doctor",
        "doctor.doctor",
        [common, _store_flags()],
        "try all that the programs need: store, database, GPU, clock, disk, ports",
    )
    doctor.add_argument(
        "--database",
        default=_environment("DATABASE"),
        metavar="URL",
        help="labeling-ingest's, sqlite:///file or postgresql://… "
        f"(default: $VISIONLOOP_DATABASE, else {DEFAULT_DATA}/labeling.db in this folder)",
    )
    doctor.add_argument(
        "--program",
        action="append",
        choices=("inference", "labeling", "training"),
        help="only this one; may be repeated (default: all that are installed)",
    )


def _add_snapshots(verbs: Verbs, common: StrictParser) -> None:
    store = _store_flags()
    service = _service_flags("labeling", 8081)
    _add_tls(service)
    snapshots = _group(verbs, "snapshots", "the immutable datasets that models are trained on")
    create = _verb(
        snapshots,
        "create",
        "snapshots.create",
        [common, service],
        "cut a snapshot of what is labelled now",
    )
    create.add_argument("dataset")
    listing = _verb(snapshots, "list", "snapshots.list_snapshots", [common, store], "oldest first")
    listing.add_argument("dataset", nargs="?", default=None, help="default: all datasets")
    show = _verb(snapshots, "show", "snapshots.show", [common, store], "counts, splits, classes")
    show.add_argument("dataset")
    show.add_argument("id", nargs="?", default="latest", help="an id, its beginning, or latest")
    diff = _verb(snapshots, "diff", "snapshots.diff", [common, store], "what changed between two")
    diff.add_argument("dataset")
    diff.add_argument("before")
    diff.add_argument("after", nargs="?", default="latest")


def _add_labels(verbs: Verbs, common: StrictParser) -> None:
    service = _service_flags("labeling", 8081)
    _add_tls(service)
    labels = _group(verbs, "labels", "the labels of a dataset")
    export = _verb(
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

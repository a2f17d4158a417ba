"""`visionloop models` and `visionloop reproduce`: versions, and where stable points."""

from collections.abc import Sequence

from visionloop.cli.flags.shared import Verbs, group, service_flags, store_flags, verb
from visionloop.flags import StrictParser


def add_models(verbs: Verbs, common: StrictParser) -> None:
    """`models` and its verbs."""
    store = store_flags()
    models = group(verbs, "models", "look at model versions, promote them, roll back, pin")
    verb(models, "list", "models.list_models", [common, store], "all models and versions")
    show = verb(models, "show", "models.show", [common, store], "one version")
    show.add_argument("model")
    show.add_argument("version", nargs="?", default="stable", help="number or alias (%(default)s)")
    report = verb(
        models,
        "report",
        "models.report",
        [common, store],
        "the report of a version, a page for browsers, to stdout; with --json its figures",
    )
    report.add_argument("model")
    report.add_argument("version", nargs="?", default=None, help="number or alias (the newest)")
    report.add_argument(
        "--predictions",
        action="store_true",
        help="instead, the model's answer to each test image: a table in Parquet",
    )
    promote = verb(
        models, "promote", "alias_moves.promote", [common, store], "make a version stable"
    )
    promote.add_argument("model")
    promote.add_argument("version", type=int)
    rollback = verb(
        models,
        "rollback",
        "alias_moves.rollback",
        [common, store],
        "make the version that was stable before stable again",
    )
    rollback.add_argument("model")
    canary = verb(
        models,
        "canary",
        "alias_moves.canary",
        [common, store],
        "give a version a share of the requests, or end that",
    )
    canary.add_argument("model")
    canary.add_argument("version", type=int, nargs="?", default=None)
    canary.add_argument("--percent", type=float, default=None, help="its share, 0 < P < 100")
    canary.add_argument("--end", action="store_true", help="stable gets all requests again")
    pin = verb(
        models,
        "pin",
        "alias_moves.pin",
        [common, store],
        "keep stable where it is: no retraining promotes over it",
    )
    pin.add_argument("model")
    pin.add_argument("--end", action="store_true", help="promotions may move stable again")
    history = verb(models, "history", "models.history", [common, store], "who moved what, and why")
    history.add_argument("model")
    history.add_argument("--last", type=int, default=None, metavar="N", help="the newest only")
    for moving in (promote, rollback):
        moving.add_argument("--unpin", action="store_true", help="although stable is pinned")
    for moving in (promote, rollback, canary, pin):
        moving.add_argument("--why", required=True, help="goes into the history")
        moving.add_argument("--who", default=None, help="default: the user name")
    _add_check(models, [common, store])
    _add_onnx_file(models, [common, store])


def _add_check(models: Verbs, parents: Sequence[StrictParser]) -> None:
    service = service_flags("inference")
    check = verb(
        models,
        "check",
        "model_check.check",
        [*parents, service],
        "ask the running service for golden images and compare its answers with the published ones",
    )
    check.add_argument("model", nargs="?", default=None, help="default: every promoted one")
    check.add_argument("--timeout", type=float, default=30.0, help="seconds (%(default)s)")


def _add_onnx_file(models: Verbs, parents: Sequence[StrictParser]) -> None:
    add = verb(
        models, "add", "onnx_files.add", parents, "publish any ONNX file, to be served as tensors"
    )
    add.add_argument("file", help="with all weights inside and standard operators only")
    add.add_argument("--model", required=True, help="its name; a new version when it is there")
    add.add_argument("--labels", default=None, metavar="FILE", help="class names, one a line")
    add.add_argument("--promote", action="store_true", help="make it stable, so that it is served")
    add.add_argument("--why", default=None, help='goes into the history (default: "added FILE")')
    add.add_argument("--who", default=None, help="default: the user name")


def add_reproduce(verbs: Verbs, common: StrictParser) -> None:
    """`reproduce MODEL@VERSION`."""
    reproduce = verb(
        verbs,
        "reproduce",
        "trained.reproduce",
        [common, store_flags()],
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


def add_evaluate(verbs: Verbs, common: StrictParser) -> None:
    """`evaluate MODEL@VERSION --dataset NAME`."""
    evaluate = verb(
        verbs,
        "evaluate",
        "trained.evaluate",
        [common, store_flags()],
        "score a trained version on the labelled images of any dataset; publishes nothing",
    )
    evaluate.add_argument("version", metavar="MODEL@VERSION", help="as cells@7")
    evaluate.add_argument("--dataset", required=True, help="its images with their labels")
    evaluate.add_argument(
        "--snapshot", default="latest", metavar="ID", help="an id, its beginning, or latest"
    )
    evaluate.add_argument(
        "--split",
        choices=("all", "train", "val", "test"),
        default="all",
        help="which images (%(default)s: all that the version has not learned from)",
    )
    evaluate.add_argument("--cache", default=None, metavar="DIR", help="images are kept there")

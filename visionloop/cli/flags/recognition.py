"""`visionloop predict` and `visionloop feedback`: what an app does, by hand."""

from visionloop.cli.flags.shared import Verbs, service_flags, verb
from visionloop.flags import StrictParser


def add_predict(verbs: Verbs, common: StrictParser) -> None:
    """`predict IMAGE …`."""
    service = service_flags("inference")
    predict = verb(
        verbs,
        "predict",
        "predict.predict",
        [common, service],
        "ask the inference service what images show",
    )
    predict.add_argument(
        "images", nargs="+", metavar="IMAGE", help="image files, or folders with images below them"
    )
    predict.add_argument("--csv", action="store_true", help="a CSV on stdout, a row for each image")
    predict.add_argument("--model", default="", help="default: the only model served")
    predict.add_argument("--model-version", default="", help='a number or alias ("stable")')
    predict.add_argument("--top-k", type=int, default=3, help="classes to show (%(default)s)")
    predict.add_argument(
        "--timeout",
        type=float,
        default=30.0,
        help="seconds for up to 32 images (%(default)s); more are sent as a stream without limit",
    )


def add_feedback(verbs: Verbs, common: StrictParser) -> None:
    """`feedback PREDICTION_ID`."""
    service = service_flags("inference")
    feedback = verb(
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
        "--classes",
        dest="class_ids",
        metavar="ID",
        nargs="*",
        help="all classes that it shows, of a model of several; with no ID: none of them",
    )
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

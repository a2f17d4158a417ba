"""`visionloop up` and `visionloop doctor`: the suite on this machine."""

from visionloop.cli.flags.shared import DEFAULT_DATA, Verbs, environment, store_flags, verb
from visionloop.flags import StrictParser


def add_up(verbs: Verbs, common: StrictParser) -> None:
    """`up`."""
    up = verb(verbs, "up", "up.up", [common], "run all programs on this machine until Ctrl-C")
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


def add_doctor(verbs: Verbs, common: StrictParser) -> None:
    """`doctor`."""
    doctor = verb(
        verbs,
        "doctor",
        "doctor.doctor",
        [common, store_flags()],
        "try all that the programs need: store, database, GPU, clock, disk, ports",
    )
    doctor.add_argument(
        "--database",
        default=environment("DATABASE"),
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

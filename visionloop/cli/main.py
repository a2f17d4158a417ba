"""`visionloop VERB …`: finds the verb, runs it, and turns errors into exit codes, here alone."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import TextIO

from visionloop import __version__
from visionloop.cli.flags.datasets import add_datasets, add_import, add_labels, add_snapshots
from visionloop.cli.flags.models import add_evaluate, add_models, add_reproduce
from visionloop.cli.flags.programs import add_doctor, add_up
from visionloop.cli.flags.recognition import add_feedback, add_predict
from visionloop.cli.output import Output
from visionloop.disk_space import room_anywhere
from visionloop.errors import VisionloopError
from visionloop.extras import require
from visionloop.flags import StrictParser

EXIT_CODES = """\
exit codes: 0 done · 64 wrong flag, value or input · 65 refused, or some rows were rejected ·
66 not found · 69 a store or service cannot be reached, or a disk is full · 70 a fault of ours ·
75 somebody else was first: look and try again · 77 no right to do this · 130 interrupted"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb; returns its exit code. Only faults of ours leave a traceback."""
    given = sys.argv[1:] if arguments is None else arguments
    _open_what_was_closed()
    output = Output(as_json="--json" in given)
    try:
        return _run(given, output)
    except VisionloopError as error:
        output.error(error)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output (`| head`) has gone; stop without a word, as cat does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(given: Sequence[str], output: Output) -> int:
    try:
        options = parser().parse_args(given)
    except SystemExit as done:  # --help and --version
        output.flush()
        return int(done.code or 0)
    if options.needs:
        require(options.needs)
    if "target" in options:  # gRPC's own lines of log are no part of what a verb says
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    verb = importlib.import_module(f"visionloop.cli.{options.module}")
    with room_anywhere({}):
        code: int = getattr(verb, options.function)(options, output)
        output.flush()
    return code


def _open_what_was_closed() -> None:
    """Python has no stream where a parent closed one (`>&-`). What goes to stdout then fails with a
    plain word, as in other programs; what goes to stderr is lost, as its caller wished."""
    if sys.stdout is None:
        sys.stdout = _on_nothing(1, os.O_RDONLY)
    if sys.stderr is None:
        sys.stderr = _on_nothing(2, os.O_WRONLY)


def _on_nothing(number: int, mode: int) -> TextIO:
    found = os.open(os.devnull, mode)
    if found != number:
        os.dup2(found, number)
        os.close(found)
    os.set_inheritable(number, True)
    return os.fdopen(number, "w", closefd=False)


def parser() -> StrictParser:
    """All verbs with their flags."""
    common = StrictParser(add_help=False)
    common.add_argument("--json", action="store_true", help="one JSON document on stdout")
    flags = StrictParser(
        prog="visionloop",
        description="Image recognition that keeps learning.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("--version", action="version", version=f"visionloop {__version__}")
    verbs = flags.add_subparsers(required=True, metavar="VERB")
    for add in (
        add_up,
        add_import,
        add_predict,
        add_feedback,
        add_models,
        add_doctor,
        add_evaluate,
        add_reproduce,
        add_datasets,
        add_snapshots,
        add_labels,
    ):
        add(verbs, common)
    return flags

"""`visionloop-train`: flags in, one training run, an exit code out.

Exit codes: 0 trained (or nothing new) · 64 wrong flag, configuration or data · 65 the gate, the
parity proof or a digest refused · 66 dataset, snapshot or file not found · 69 the store cannot be
reached: try again · 75 somebody else moved the alias meanwhile; the version is published but not
promoted · 85 stopped by SIGTERM, its state saved: run it again.
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from visionloop.errors import ConfigurationError, ConflictError, RefusedError, VisionloopError
from visionloop.extras import require
from visionloop.telemetry import configure_logging
from visionloop_training import launch
from visionloop_training.flags import PROGRAM, parser, place

if TYPE_CHECKING:
    from visionloop_training.distributed import Workers
    from visionloop_training.pipeline import Result
    from visionloop_training.stop import Stop


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the job; returns its exit code. Only faults of ours leave a traceback."""
    try:
        given = sys.argv[1:] if arguments is None else arguments
        flags = parser().parse_args(given)
        require("training")
        configure_logging(PROGRAM)
        here = place(flags)
        if not flags.show_config and launch.needed(here):
            return launch.run(here, [sys.executable, "-m", "visionloop_training", *given])
        return _run(flags)
    except VisionloopError as error:
        sys.stderr.write(f"{PROGRAM}: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def _run(flags: argparse.Namespace) -> int:
    # torch's threads spin while they wait for one another. Where other programs want the same cores
    # (a service on a small node) that cost 5 to 30 times the speed; sleeping costs a tenth.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Imported late: torch takes seconds, and --help and wrong flags should not.
    from visionloop_training import config as configuration

    config = configuration.load(flags.preset, flags.config, flags.set or ())
    if flags.show_config:
        _say(configuration.dump(config))
        return 0
    for name in ("store", "dataset", "model"):
        if not getattr(flags, name):
            raise ConfigurationError(
                f"--{name} is missing (or set VISIONLOOP_{name.upper()})", field=name
            )

    from visionloop.objectstore import open_existing_store
    from visionloop_training.cache import default_folder
    from visionloop_training.distributed import Workers
    from visionloop_training.pipeline import Request, run
    from visionloop_training.stop import Stop
    from visionloop_training.watch import Curves, Watch, served

    cache = flags.cache or default_folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"--cache {cache}: {error.strerror}; name a folder that can be written", field="cache"
        ) from error
    stop = Stop()
    leads = os.environ.get("RANK", "0") == "0"  # one of several processes tells
    with (
        stop.on_signal(),
        served(flags.metrics_port if leads else None, flags.metrics_host, insecure=flags.insecure),
        closing(Watch(Curves(flags.tensorboard) if flags.tensorboard and leads else None)) as watch,
        closing(Workers.joined()) as workers,
    ):
        request = Request(
            store=open_existing_store(flags.store),
            dataset=flags.dataset,
            model=flags.model,
            config=config,
            cache=cache,
            snapshot=flags.snapshot,
            promote=not flags.no_promote,
            force=flags.force,
            again=flags.again,
            who=flags.who or "",
            checkpoint_seconds=flags.checkpoint_seconds,
            stop=stop,
            workers=workers,
            watch=watch,
        )
        return _together(workers, stop, lambda: _told_run(flags, run(request)))


def _together(workers: "Workers", stop: "Stop", job: Callable[[], int]) -> int:
    """Runs the job in one of several processes, so that all of them end with the leader's code."""
    from visionloop_training.stop import PreemptedError

    if not workers.leads:
        logging.getLogger().setLevel(logging.WARNING)  # the leading process tells
    try:
        code = job()
        if not workers.leads:
            code = workers.await_leader(stop)
    except PreemptedError as error:
        workers.tell_stopping()
        workers.finish(error.exit_code)
        raise
    except VisionloopError as error:
        workers.finish(error.exit_code)
        raise
    workers.finish(code)
    return code


def _told_run(flags: argparse.Namespace, result: "Result | None") -> int:
    if result is None:
        return 0  # one that helped
    if flags.json:
        _say(json.dumps(result.as_json(), indent=2) + "\n")
    else:
        _say(_told(flags.model, result))
    return _exit_code(flags, result)


def _exit_code(flags: argparse.Namespace, result: "Result") -> int:
    if result.conflict:
        sys.stderr.write(f"{PROGRAM}: {result.conflict}\n")
        return ConflictError.exit_code
    if result.verdict and not result.verdict.passed and not result.promoted:
        sys.stderr.write(
            f"{PROGRAM}: the gate refused version {result.version} of {flags.model}; it is "
            f"published but not promoted: {result.verdict.reason}\n"
        )
        return RefusedError.exit_code
    return 0


def _told(model: str, result: "Result") -> str:
    """The run in a few lines for people."""
    if result.version is None:
        return (
            f"nothing new: stable version {result.stable} of {model} was trained on this snapshot "
            f"({result.snapshot[:19]}) with this configuration; --again trains anyway\n"
        )
    numbers = result.metrics
    lines = [
        f"version {result.version} of {model}, snapshot {result.snapshot[:19]}",
        f"  test accuracy   {numbers['accuracy']:.1%} "
        f"(95 %: {numbers['accuracy_low']:.1%} … {numbers['accuracy_high']:.1%}, "
        f"{numbers['test_images']:.0f} images)",
        f"  macro F1        {numbers['macro_f1']:.3f}",
        f"  calibration     ECE {result.summary['ece_before']:.3f} → "
        f"{result.summary['ece_after']:.3f} on val",
        f"  parity          {numbers['parity_max_abs_probability_difference']:.1e}",
    ]
    if result.verdict:
        lines.append(f"  gate            {result.verdict.reason}")
    stable = f"stable is version {result.stable}" if result.stable else "there is no stable version"
    lines.append(f"  {'promoted' if result.promoted else 'not promoted'}: {stable}")
    seconds = ", ".join(f"{name} {value:.0f}" for name, value in result.timings.items())
    lines.append(f"  seconds         {seconds}")
    return "\n".join(lines) + "\n"


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()

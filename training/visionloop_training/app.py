"""`visionloop-train`: flags in, one training run, an exit code out.

Exit codes: 0 trained (or nothing new) · 64 wrong flag, configuration or data · 65 the gate, the
parity proof or a digest refused · 66 dataset, snapshot or file not found · 69 the store cannot be
reached: try again · 75 somebody else moved the alias meanwhile; the version is published but not
promoted · 85 stopped by SIGTERM, its state saved: run it again.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from visionloop.errors import ConfigurationError, ConflictError, RefusedError, VisionloopError
from visionloop.extras import require
from visionloop.flags import StrictParser
from visionloop.telemetry import configure_logging

if TYPE_CHECKING:
    from visionloop_training.pipeline import Result

PROGRAM = "visionloop-train"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the job; returns its exit code. Only faults of ours leave a traceback."""
    try:
        flags = _parser().parse_args(arguments)
        require("training")
        configure_logging(PROGRAM)
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

    cache = flags.cache or default_folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"--cache {cache}: {error.strerror}; name a folder that can be written", field="cache"
        ) from error
    stop = Stop()
    with stop.on_signal(), closing(Workers.joined()) as workers:
        result = run(
            Request(
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
            )
        )
    if result is None or not workers.leads:
        return 0  # the leading process tells
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


def _parser() -> argparse.ArgumentParser:
    parser = StrictParser(
        prog=PROGRAM,
        description="Trains a classifier on a dataset snapshot, proves and judges it, publishes it "
        "as the next version and promotes it if the gate lets it pass.",
        epilog="Flags fall back to VISIONLOOP_<FLAG>, as VISIONLOOP_STORE.",
    )
    add = parser.add_argument
    add("--store", default=_environment("store"), help="file:///folder or s3://bucket/prefix")
    add("--dataset", default=_environment("dataset"), help="the dataset to learn from")
    add("--model", default=_environment("model"), help="the model that gets the new version")
    add(
        "--snapshot",
        default=_environment("snapshot") or "latest",
        help="snapshot id, a unique prefix of one, or latest (default)",
    )
    add("--preset", default=_environment("preset"), help="demo or balanced")
    add("--config", type=Path, default=_path("config"), metavar="FILE", help="YAML file")
    add("--set", action="append", metavar="KEY=VALUE", help="one setting, as fit.epochs=5")
    add("--cache", type=Path, default=_path("cache"), metavar="DIR", help="features and images")
    add(
        "--checkpoint-seconds",
        type=_seconds,
        default=_environment("checkpoint_seconds") or "300",
        help="time between two checkpoints, which a killed run goes on from (default 300)",
    )
    add("--who", default=_environment("who"), help="for the alias history (default: user@host)")
    add("--no-promote", action="store_true", help="publish, but leave the alias where it is")
    add("--force", action="store_true", help="promote even if the gate says no; recorded")
    add("--again", action="store_true", help="train even if nothing is new")
    add("--json", action="store_true", help="one JSON document on stdout")
    add("--show-config", action="store_true", help="print the effective configuration and stop")
    return parser


def _environment(flag: str) -> str | None:
    return os.environ.get(f"VISIONLOOP_{flag.upper()}") or None


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


def _path(flag: str) -> Path | None:
    value = _environment(flag)
    return Path(value) if value else None

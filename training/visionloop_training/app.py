"""`visionloop-train`: flags in, one training run, an exit code out.

Exit codes: 0 trained (or nothing new) · 64 wrong flag, configuration or data · 65 the gate, the
parity proof or a digest refused · 66 dataset, snapshot or file not found · 69 the store cannot be
reached, or a disk is full: try again · 75 somebody else moved the alias meanwhile; the version is
published but not promoted · 85 stopped by SIGTERM, its state saved: run it again.
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from visionloop.cli.output import Output
from visionloop.disk_space import room_anywhere, room_for
from visionloop.errors import ConfigurationError, ConflictError, RefusedError, VisionloopError
from visionloop.extras import require
from visionloop.telemetry import configure_logging
from visionloop_training import launch
from visionloop_training.flags import PROGRAM, parser, place
from visionloop_training.words import told

if TYPE_CHECKING:
    from visionloop_training.distributed import Workers
    from visionloop_training.result import Result
    from visionloop_training.stop import Stop


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the job; returns its exit code. Only faults of ours leave a traceback."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    examined = given[:1] == ["doctor"]
    try:
        flags = parser().parse_args(given[1:] if examined else given)
        require("training")
        if examined:
            from visionloop_training import doctor  # late, as all that brings torch

            return doctor.run(flags)
        configure_logging(PROGRAM)
        here = place(flags)
        asked = (flags.settings, flags.reproduce, flags.evaluate)
        alone = flags.show_config or any(one is not None for one in asked)
        if not alone and launch.needed(here):
            return launch.run(here, [sys.executable, "-m", "visionloop_training", *given])
        with room_anywhere(_places(flags)):
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
    if flags.reproduce is not None:
        return _reproduce(flags)
    if flags.evaluate is not None:
        return _evaluate(flags)
    # Imported late: torch takes seconds, and --help and wrong flags should not.
    from visionloop_training import config as configuration
    from visionloop_training.setting_names import explained

    config = configuration.load(flags.preset, flags.config, flags.set or ())
    if flags.settings is not None:
        _say(explained(configuration.describe(), flags.settings))
        return 0
    if flags.show_config:
        _say(configuration.dump(config))
        return 0
    if flags.lane == "auto" and not flags.if_needed:
        raise ConfigurationError(
            "--lane auto asks the triggers, so it needs --if-needed", field="lane"
        )
    if flags.search:
        require("search")
    _check_given(flags, ("store", "dataset", "model"))

    from visionloop.objectstore import open_existing_store
    from visionloop_training.distributed import Workers
    from visionloop_training.pipeline import run
    from visionloop_training.request import Request
    from visionloop_training.stop import Stop
    from visionloop_training.watch import Curves, Watch, served

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
            cache=_made_cache(flags),
            snapshot=flags.snapshot,
            promote=not flags.no_promote,
            force=flags.force,
            again=flags.again,
            lane=flags.lane,
            if_needed=flags.if_needed,
            check_only=flags.check,
            search_seconds=60.0 * (flags.search or 0.0),
            who=flags.who or "",
            checkpoint_seconds=flags.checkpoint_seconds,
            stop=stop,
            workers=workers,
            watch=watch,
        )

        def job() -> int:
            # In words before the others of several processes are told how it ended.
            with room_anywhere(_places(flags)):
                return _told_run(flags, workers, run(request))

        return _together(workers, stop, job)


def _places(flags: argparse.Namespace) -> dict[str, Path]:
    """What a run writes to, by the flag that moves it."""
    from visionloop_training.cache import default_folder

    places = {"--cache": flags.cache or default_folder()}
    if (flags.store or "").startswith("file:///"):
        places["--store"] = Path(unquote(urlsplit(flags.store).path))
    if flags.tensorboard:
        places["--tensorboard"] = flags.tensorboard
    return places


def _check_given(flags: argparse.Namespace, names: Sequence[str]) -> None:
    for name in names:
        if not getattr(flags, name):
            raise ConfigurationError(
                f"--{name} is missing (or set VISIONLOOP_{name.upper()})", field=name
            )


def _made_cache(flags: argparse.Namespace) -> Path:
    from visionloop_training.cache import default_folder

    cache: Path = flags.cache or default_folder()
    try:
        with room_for(cache, setting="--cache"):
            cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"--cache {cache}: {error.strerror}; name a folder that can be written", field="cache"
        ) from error
    return cache


def _reproduce(flags: argparse.Namespace) -> int:
    """Builds a version again and compares; says so in words or JSON."""
    _check_given(flags, ("store", "model"))
    from visionloop.objectstore import open_existing_store
    from visionloop_training.reproduce import reproduce
    from visionloop_training.stop import Stop

    stop = Stop()
    with stop.on_signal():
        found = reproduce(
            open_existing_store(flags.store),
            flags.model,
            flags.reproduce,
            _made_cache(flags),
            tolerance=flags.tolerance,
            stop=stop,
        )
    _say(json.dumps(found.as_json(), indent=2) + "\n" if flags.json else found.words())
    if not found.same:
        sys.stderr.write(
            f"{PROGRAM}: version {flags.reproduce} of {flags.model} is not reproduced\n"
        )
        return RefusedError.exit_code
    return 0


def _evaluate(flags: argparse.Namespace) -> int:
    """Scores a version on a snapshot; says so in words or JSON."""
    _check_given(flags, ("store", "dataset", "model"))
    from visionloop.objectstore import open_existing_store
    from visionloop_training.assessment import assess
    from visionloop_training.assessment_words import words

    found = assess(
        open_existing_store(flags.store),
        flags.model,
        flags.evaluate,
        flags.dataset,
        _made_cache(flags),
        snapshot=flags.snapshot,
        split=flags.split,
    )
    _say(json.dumps(found.as_json(), indent=2) + "\n" if flags.json else words(found))
    return 0


def _together(workers: "Workers", stop: "Stop", job: Callable[[], int]) -> int:
    """Runs the job in one of several processes, so that all of them end with the leader's code."""
    from visionloop_training.distributed import LeaderEndsError
    from visionloop_training.stop import PreemptedError

    if not workers.leads:
        logging.getLogger().setLevel(logging.WARNING)  # the leading process tells
    code = 0
    try:
        with suppress(LeaderEndsError):
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


def _told_run(flags: argparse.Namespace, workers: "Workers", result: "Result | None") -> int:
    if result is None or not workers.leads:
        return 0  # the leading process tells
    if flags.json:
        _say(json.dumps(result.as_json(), indent=2) + "\n")
    else:
        _say(told(flags.model, result))
    return _exit_code(flags, result)


def _exit_code(flags: argparse.Namespace, result: "Result") -> int:
    if result.conflict:
        sys.stderr.write(f"{PROGRAM}: {result.conflict}\n")
        return ConflictError.exit_code
    if result.verdict and not result.verdict.passed and not result.promoted:
        sys.stderr.write(
            f"{PROGRAM}: the gate refused version {result.version} of {flags.model}; it is "
            f"published but not promoted: {result.verdict.reason} (docs/promotion.md: "
            "policies for small test sets, too); to promote it all the same: "
            f"visionloop models promote {flags.model} {result.version} --why …\n"
        )
        return RefusedError.exit_code
    return 0


def _say(text: str) -> None:
    output = Output(as_json=False)
    output.text(text)
    output.flush()

"""The flags of `visionloop-train`, each with its environment variable; torch is not imported.

A CronJob is configured by VISIONLOOP_<FLAG>; where the processes run comes from the names that
torchrun and Kubernetes' Indexed Jobs use (NODE_RANK, JOB_COMPLETION_INDEX, MASTER_ADDR).
"""

import argparse
import math
import os
from pathlib import Path

from visionloop.errors import ConfigurationError
from visionloop.flags import StrictParser
from visionloop_training import launch

PROGRAM = "visionloop-train"
DEFAULT_PRESET = "balanced"


class _Parser(StrictParser):
    """Help that ends with the names of all settings."""

    def format_help(self) -> str:
        """Where the libraries of the settings are not installed, without them."""
        try:
            from visionloop_training.config import describe  # half of the start's time
            from visionloop_training.setting_names import by_section
        except ImportError:
            return super().format_help()
        head = "settings, as --set fit.epochs=5 (--settings explains them, --settings WORD some):\n"
        return f"{super().format_help()}\n{head}{by_section(describe())}"


def parser() -> argparse.ArgumentParser:
    """All flags. Mistakes raise ConfigurationError."""
    flags = _Parser(
        prog=PROGRAM,
        description="Trains a classifier on a dataset snapshot, proves and judges it, publishes it "
        "as the next version and promotes it if the gate lets it pass. `visionloop-train doctor`, "
        "with the same flags, tries what it needs instead.",
        epilog="Flags fall back to VISIONLOOP_<FLAG>, as VISIONLOOP_STORE.",
    )
    _add_subject(flags)
    _add_recipe(flags)
    _add_occasion(flags)
    _add_course(flags)
    _add_reproduction(flags)
    _add_evaluation(flags)
    _add_telemetry(flags)
    _add_processes(flags)
    return flags


def _add_subject(flags: argparse.ArgumentParser) -> None:
    add = flags.add_argument_group("data and model").add_argument
    add("--store", default=_environment("store"), help="file:///folder or s3://bucket/prefix")
    add("--dataset", default=_environment("dataset"), help="the dataset to learn from")
    add(
        "--snapshot",
        default=_environment("snapshot") or "latest",
        help="snapshot id, a unique prefix of one, or latest (default)",
    )
    add("--model", default=_environment("model"), help="the model that gets the new version")


def _add_recipe(flags: argparse.ArgumentParser) -> None:
    add = flags.add_argument_group("recipe", "how it learns; see docs/training.md").add_argument
    add(
        "--preset",
        default=_environment("preset") or DEFAULT_PRESET,
        help=f"fast, balanced, best or demo ({DEFAULT_PRESET}); none: every setting's own default",
    )
    add("--config", type=Path, default=_path("config"), metavar="FILE", help="YAML file")
    add("--set", action="append", metavar="KEY=VALUE", help="one setting, as fit.epochs=5")
    add(
        "--lane",
        choices=("full", "fast", "auto"),
        default=_environment("lane") or "full",
        help="full: from the backbone (default). fast: a new head on the stable version's body, in "
        "seconds. auto: what the triggers call for, with --if-needed",
    )
    add(
        "--search",
        type=_minutes,
        default=_environment("search"),
        metavar="MINUTES",
        help="first try settings of fine-tuning for so long, judged on val, and train with the "
        "best; needs the extra search",
    )
    add(
        "--settings",
        nargs="?",
        const="",
        metavar="WORD",
        help="explain the settings that have the word in them (lr, early stopping, …), or all, and "
        "stop",
    )
    add("--show-config", action="store_true", help="print the effective configuration and stop")


def _add_occasion(flags: argparse.ArgumentParser) -> None:
    add = flags.add_argument_group("occasion and promotion").add_argument
    add(
        "--if-needed",
        action="store_true",
        help="train only where a trigger says so (triggers.* in the configuration)",
    )
    add("--again", action="store_true", help="train even if nothing is new")
    add("--no-promote", action="store_true", help="publish, but leave the alias where it is")
    add("--force", action="store_true", help="promote even if the gate says no; recorded")
    add("--who", default=_environment("who"), help="for the alias history (default: user@host)")


def _add_course(flags: argparse.ArgumentParser) -> None:
    add = flags.add_argument_group("course of the run").add_argument
    add("--check", action="store_true", help="only the checks before the first epoch, then stop")
    add("--cache", type=Path, default=_path("cache"), metavar="DIR", help="features and images")
    add(
        "--checkpoint-seconds",
        type=_seconds,
        default=_environment("checkpoint_seconds") or "300",
        help="time between two checkpoints, which a killed run goes on from (default 300)",
    )
    add("--json", action="store_true", help="one JSON document on stdout")


def _add_reproduction(flags: argparse.ArgumentParser) -> None:
    add = flags.add_argument_group("reproduction").add_argument
    add(
        "--reproduce",
        type=_version,
        metavar="VERSION",
        help="build a published version again from its provenance and compare; publishes nothing",
    )
    add(
        "--tolerance",
        type=_tolerance,
        default="0.01",
        help="largest difference of a probability or a share that --reproduce takes for the same "
        "model where the bits differ (default 0.01)",
    )


def _add_evaluation(flags: argparse.ArgumentParser) -> None:
    add = flags.add_argument_group("evaluation").add_argument
    add(
        "--evaluate",
        type=_version,
        metavar="VERSION",
        help="score a published version on the images of --dataset and --snapshot that it has not "
        "learned from; trains and publishes nothing",
    )
    add(
        "--split",
        choices=("all", "train", "val", "test"),
        default="all",
        help="which of them --evaluate asks about (default all)",
    )


def _add_telemetry(flags: argparse.ArgumentParser) -> None:
    add = flags.add_argument_group("telemetry").add_argument
    add(
        "--metrics-port",
        type=_count,
        default=_environment("metrics_port"),
        metavar="PORT",
        help="serve /metrics for Prometheus while the job runs (default: not)",
    )
    add(
        "--metrics-host",
        default=_environment("metrics_host") or "127.0.0.1",
        metavar="HOST",
        help="where /metrics listens; 0.0.0.0 in a pod (default 127.0.0.1)",
    )
    add(
        "--insecure",
        action="store_true",
        default=_environment("insecure") in ("1", "true", "yes", "on"),
        help="/metrics may listen beyond this machine, without TLS and authentication",
    )
    add(
        "--tensorboard",
        type=Path,
        default=_path("tensorboard"),
        metavar="DIR",
        help="write learning curves there; needs the package tensorboard",
    )


def _add_processes(flags: argparse.ArgumentParser) -> None:
    group = flags.add_argument_group(
        "several processes", "each is one of nodes × processes-per-node; see fit.slices"
    )
    add = group.add_argument
    add(
        "--nodes",
        type=_count,
        default=_environment("nodes") or "1",
        help="machines that run this command (1)",
    )
    add(
        "--processes-per-node",
        default=_environment("processes_per_node") or "1",
        metavar="N|gpu",
        help="processes on each; gpu: one for each of its GPUs (1)",
    )
    add(
        "--node-rank",
        type=_count,
        default=os.environ.get("NODE_RANK") or os.environ.get("JOB_COMPLETION_INDEX") or "0",
        help="which of the nodes this is, from 0 ($NODE_RANK, $JOB_COMPLETION_INDEX)",
    )
    add(
        "--master-addr",
        default=os.environ.get("MASTER_ADDR") or "127.0.0.1",
        metavar="HOST",
        help="where all nodes reach node 0 ($MASTER_ADDR)",
    )
    add(
        "--master-port",
        type=_count,
        default=os.environ.get("MASTER_PORT") or str(launch.DEFAULT_PORT),
        metavar="PORT",
        help=f"the port there ($MASTER_PORT, {launch.DEFAULT_PORT})",
    )


def place(flags: argparse.Namespace) -> launch.Place:
    """This node's part of the run."""
    processes = flags.processes_per_node
    if processes == "gpu":
        import torch  # only this answer needs it

        number = max(1, torch.cuda.device_count())
    else:
        try:
            number = _count(processes)
        except argparse.ArgumentTypeError as error:
            raise ConfigurationError(
                f"--processes-per-node: {error}, and not gpu either", field="processes_per_node"
            ) from error
    return launch.Place(flags.nodes, flags.node_rank, number, flags.master_addr, flags.master_port)


def _environment(flag: str) -> str | None:
    return os.environ.get(f"VISIONLOOP_{flag.upper()}") or None


def _count(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = -1
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return number


def _version(text: str) -> int:
    number = _count(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no version; they begin with 1")
    return number


def _tolerance(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share from 0 to 1")
    return share


def _seconds(text: str) -> float:
    return _above_0(text, "seconds")


def _minutes(text: str) -> float:
    return _above_0(text, "minutes")


def _above_0(text: str, unit: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of {unit} above 0")
    return number


def _path(flag: str) -> Path | None:
    value = _environment(flag)
    return Path(value) if value else None

"""`visionloop reproduce` and `evaluate`: what the training program does with a published version.

torch is that program's, so it runs as a process of its own; its words and exit code are ours.
"""

import argparse
import subprocess
import sys

from visionloop.cli.output import Output
from visionloop.cli.store import store_url
from visionloop.errors import ConfigurationError


def reproduce(options: argparse.Namespace, _output: Output) -> int:
    """Exit code 0: the same bits, or the same model within the tolerance. 65: another model."""
    model, version = _version(options.version)
    return _run(
        options, "--model", model, "--reproduce", version, "--tolerance", str(options.tolerance)
    )


def evaluate(options: argparse.Namespace, _output: Output) -> int:
    """Exit code 0, whatever the version is worth."""
    model, version = _version(options.version)
    return _run(
        options, "--model", model, "--evaluate", version, "--dataset", options.dataset,
        "--snapshot", options.snapshot, "--split", options.split,
    )  # fmt: skip


def _version(text: str) -> tuple[str, str]:
    """Model and number."""
    model, _, version = text.rpartition("@")
    if not model or not version.isdigit():
        raise ConfigurationError(
            f"{text!r} is no version; write MODEL@NUMBER, as cells@7", field="version"
        )
    return model, version


def _run(options: argparse.Namespace, *flags: str) -> int:
    command = [sys.executable, "-m", "visionloop_training", "--store", store_url(options), *flags]
    command += ["--cache", options.cache] if options.cache else []
    command += ["--json"] if options.json else []
    code = subprocess.run(command, check=False).returncode
    return code if code >= 0 else 128 - code  # by a signal, as a shell says it

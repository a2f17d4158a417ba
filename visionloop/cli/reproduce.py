"""`visionloop reproduce MODEL@VERSION`: the training program builds a version again and compares.

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
    model, _, version = options.version.rpartition("@")
    if not model or not version.isdigit():
        raise ConfigurationError(
            f"{options.version!r} is no version; write MODEL@NUMBER, as cells@7", field="version"
        )
    command = [
        sys.executable, "-m", "visionloop_training", "--store", store_url(options), "--model",
        model, "--reproduce", version, "--tolerance", str(options.tolerance),
    ]  # fmt: skip
    command += ["--cache", options.cache] if options.cache else []
    command += ["--json"] if options.json else []
    return subprocess.run(command, check=False).returncode

"""What the commands beside serving share: the database that they work on, and `--json`."""

import argparse
import os

from visionloop.errors import ConfigurationError
from visionloop.flags import StrictParser


def database_flags() -> StrictParser:
    """A parent for the parsers of commands."""
    flags = StrictParser(add_help=False)
    flags.add_argument(
        "--database",
        default=os.environ.get("VISIONLOOP_DATABASE", ""),
        help="the service's database; VISIONLOOP_DATABASE does as well",
    )
    flags.add_argument("--json", action="store_true", help="one JSON document on stdout")
    return flags


def database_url(options: argparse.Namespace) -> str:
    """The database that was named. Raises ConfigurationError where none was."""
    url: str = options.database
    if not url:
        raise ConfigurationError(
            "--database is missing; name the service's (or set VISIONLOOP_DATABASE)",
            field="database",
        )
    return url

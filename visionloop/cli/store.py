"""Opening the store that a verb works on."""

import argparse
import getpass
from pathlib import Path

from visionloop.cli.flags.shared import DEFAULT_DATA
from visionloop.objectstore import ObjectStore, open_existing_store

DEFAULT_FOLDER = Path(DEFAULT_DATA, "store")


def open_from(options: argparse.Namespace) -> ObjectStore:
    """The store of --store, or the one that `visionloop up` keeps in this folder.

    The CLI steers stores that programs made; a folder that is not there is a mistyped path.
    """
    return open_existing_store(store_url(options))


def store_url(options: argparse.Namespace) -> str:
    """Where that is."""
    url: str = options.store or DEFAULT_FOLDER.resolve().as_uri()
    return url


def user_name() -> str:
    """Who sits at this terminal, for histories; "unknown" in a container without a user entry."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"

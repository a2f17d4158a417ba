"""Opening the store that a verb works on."""

import argparse
import getpass
from pathlib import Path

from visionloop.errors import NotFoundError
from visionloop.objectstore import ObjectStore, open_store


def open_from(options: argparse.Namespace) -> ObjectStore:
    """The store of --store, or the one that `visionloop up` keeps in this folder."""
    if options.store:
        return open_store(options.store)
    folder = Path("visionloop-data/store")
    if not folder.is_dir():
        raise NotFoundError(
            f"no store given and none at {folder}; name one: --store file:///dir or "
            "--store s3://bucket/prefix, or set VISIONLOOP_STORE"
        )
    return open_store(folder.resolve().as_uri())


def user_name() -> str:
    """Who sits at this terminal, for histories; "unknown" in a container without a user entry."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"

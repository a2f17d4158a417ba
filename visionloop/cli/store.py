"""Opening the store that a verb works on."""

import argparse
import getpass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from visionloop.errors import NotFoundError
from visionloop.objectstore import ObjectStore, open_store

DEFAULT_FOLDER = Path("visionloop-data/store")


def open_from(options: argparse.Namespace) -> ObjectStore:
    """The store of --store, or the one that `visionloop up` keeps in this folder.

    The CLI steers stores that programs made; a folder that is not there is a mistyped path.
    """
    url: str = options.store or DEFAULT_FOLDER.resolve().as_uri()
    if url.startswith("file://"):
        folder = Path(unquote(urlsplit(url).path))
        if not folder.is_dir():
            raise NotFoundError(
                f"there is no store at {folder}; name one: --store file:///folder or "
                "--store s3://bucket/prefix, or set VISIONLOOP_STORE"
            )
    return open_store(url)


def user_name() -> str:
    """Who sits at this terminal, for histories; "unknown" in a container without a user entry."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"

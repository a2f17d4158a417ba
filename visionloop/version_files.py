"""The files of one version in the store, and how they come into a folder: each digest checked."""

from pathlib import Path

from visionloop.bundle import Bundle
from visionloop.bundle_files import MARKER, is_intact
from visionloop.errors import CorruptError, NotFoundError
from visionloop.objectstore import ObjectStore
from visionloop.objectstore.transfers import in_parallel


def fetch_files(store: ObjectStore, start: str, bundle: Bundle, folder: Path) -> None:
    """Puts all files but bundle.json into `folder`; what is there with the right content stays.

    `start` is that of their keys. Raises CorruptError when one is missing, torn or altered.
    """

    def fetch(name: str) -> None:
        entry, path = bundle.files[name], folder / name
        if is_intact(path, entry):
            return
        try:
            store.download(start + name, path, sha256=entry.sha256, size=entry.size)
        except NotFoundError:
            raise missing_file(store, start + name) from None

    in_parallel(fetch, bundle.files)


def missing_file(store: ObjectStore, key: str) -> CorruptError:
    """The error for a file that a bundle lists and the store does not have."""
    return CorruptError(f"{store.url}/{key} is missing, but {MARKER} lists it")

"""What `Bundle.files` promises, checked: safe names, and size and digest of every file."""

from pathlib import Path

from visionloop.bundle import Bundle, BundleFile
from visionloop.errors import CorruptError, InvalidInputError, NotFoundError
from visionloop.objectstore.keys import check_key
from visionloop.objectstore.local import sha256_of

MARKER = "bundle.json"
CLAIM = "claim.json"
CONTENT = "content.json"


def file_entry(path: Path) -> BundleFile:
    """Size and digest of a file, for `Bundle.files`."""
    return BundleFile(size=path.stat().st_size, sha256=sha256_of(path))


def is_intact(path: Path, entry: BundleFile) -> bool:
    """Whether the file is there with the size and digest that its entry says."""
    return path.is_file() and path.stat().st_size == entry.size and sha256_of(path) == entry.sha256


def check_names(bundle: Bundle) -> None:
    """Raises InvalidInputError for a name that could leave the folder of whoever fetches it."""
    for name in bundle.files:
        check_key(name)
        folder, *deeper = name.split("/")
        if folder in (MARKER, CLAIM, CONTENT):
            raise InvalidInputError(
                f"files lists {name!r}, which is the repository's own", field="files"
            )
        for part in deeper:
            if folder in bundle.files:
                raise InvalidInputError(
                    f"files lists {name!r} and, as a file, its folder {folder!r}", field="files"
                )
            folder = f"{folder}/{part}"


def check_local_files(bundle: Bundle, folder: Path) -> None:
    """Raises NotFoundError or CorruptError when `folder` does not hold what the bundle lists."""
    for name, entry in bundle.files.items():
        path = folder / name
        if not path.is_file():
            raise NotFoundError(f"{path} is not there, but the bundle lists it")
        if not is_intact(path, entry):
            raise CorruptError(f"{path} changed since the bundle was put together")

"""Which files below a folder are images, by their names. `visionloop.image_file` reads them."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from visionloop.errors import ConfigurationError

IMAGE_SUFFIXES: Final = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
)


def is_image(path: Path) -> bool:
    """Whether it is a file that is called as images are."""
    return path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()


def images_below(folder: Path) -> list[Path]:
    """All images in the folder and its sub-folders, in order; what is hidden is left alone.

    Raises ConfigurationError for a folder that cannot be read.
    """
    return [path for path in sorted(files_below(folder)) if is_image(path)]


def files_below(folder: Path) -> Iterator[Path]:
    """Everything that is no folder; a folder that cannot be read is told, not skipped.

    Linked folders are entered, as people build data sets of them and other tools (torchvision's
    ImageFolder) enter them; each folder is once, however many links lead to it or round in circles.
    """
    entered: set[tuple[int, int]] = set()
    try:
        for path, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
            status = Path(path).stat()
            if (status.st_dev, status.st_ino) in entered:
                folders.clear()
                continue
            entered.add((status.st_dev, status.st_ino))
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            yield from (Path(path, name) for name in names if not name.startswith("."))
    except OSError as error:
        raise unreadable(error) from error


def unreadable(error: OSError) -> ConfigurationError:
    """The error for a folder or file that cannot be read."""
    return ConfigurationError(f"cannot read {error.filename}: {error.strerror}", field="source")


def _raise(error: OSError) -> None:
    raise error

"""Names of files and folders in exports: safe on every system, unique, telling where they can be.

An image is named by its digest, so that an import finds the one that a dataset has. A class's
folder has the class's name, unless a file system could not hold it, or would not tell it from
another one: then its id, which is made for that.
"""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Final

from visionloop_labeling.exports import ExportedLabel
from visionloop_labeling.importers.entries import SourceError
from visionloop_labeling.importers.names import checked_name, is_hidden

_SUFFIXES: Final = {"image/jpeg": ".jpg", "image/tiff": ".tif"}  # others are named as their type
_MAX_BYTES: Final = 200
_FORBIDDEN: Final = re.compile(r'[<>:"/\\|?*]')  # on Windows, beside our own separator
_DEVICES: Final = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def image_name(label: ExportedLabel) -> str:
    """The digest, and the suffix of the image's format."""
    kind = label.media_type
    suffix = _SUFFIXES.get(kind) or (f".{kind.partition('/')[2]}" if kind else "")
    return f"{label.sha256}{suffix}"


def folder_names(classes: Mapping[str, str]) -> dict[str, str]:
    """A folder's name for each class id."""
    spelled = Counter(name.casefold() for name in classes.values())
    keys = {key.casefold() for key in classes}

    def is_its_own(key: str, name: str) -> bool:
        spelling = name.casefold()
        return spelled[spelling] == 1 and (spelling == key.casefold() or spelling not in keys)

    return {
        key: name if is_its_own(key, name) and _usable(name) else key
        for key, name in classes.items()
    }


def split_of(label: ExportedLabel) -> str:
    """The folder of its split; what has none yet goes to train when a snapshot is cut."""
    return label.split or "train"


def _usable(name: str) -> bool:
    if len(name.encode()) > _MAX_BYTES or name != name.strip(" .") or name.startswith("-"):
        return False
    if _FORBIDDEN.search(name) or _DEVICES.fullmatch(name) or is_hidden(name):
        return False
    try:
        return checked_name(name) == name
    except SourceError:
        return False

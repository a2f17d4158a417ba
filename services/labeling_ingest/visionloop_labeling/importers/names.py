"""Names of files in archives and tables: what they may be, and which are images.

Nothing is ever unpacked to a path that an archive names; names are looked up and shown. They are
checked all the same, because a name that climbs tells of an archive made to do harm, and because
they end up in receipts, exports and pages.
"""

import re
import unicodedata
from pathlib import PurePosixPath
from typing import Final

from visionloop_labeling.importers.entries import SourceError

IMAGE_SUFFIXES: Final = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".jfif")
)
ARCHIVE_SUFFIXES: Final = frozenset(
    (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")
)
MAX_NAME: Final = 900  # characters
_SHOWN: Final = 80
_DRIVE = re.compile(r"[A-Za-z]:")
_UNPRINTABLE: Final = {"Cc", "Cs", "Co", "Cn", "Zl", "Zp"}


def checked_name(name: str) -> str:
    """A relative name without "." steps. Raises SourceError (unsafe_name)."""
    why = ""
    if len(name) > MAX_NAME:
        why = f"has {len(name)} characters, the limit is {MAX_NAME}"
    elif any(unicodedata.category(c) in _UNPRINTABLE for c in name):
        why = "holds a control character"
    elif name.startswith("/") or _DRIVE.match(name):
        why = "is absolute"
    elif "\\" in name:
        why = "holds a backslash; folders are separated by /"
    elif ".." in name.split("/"):
        why = "climbs out of its folder (..)"
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not parts and not why:
        why = "is empty"
    if why:
        raise SourceError(
            f"the name {shown(name)} {why}; nothing by it is taken", reason="unsafe_name"
        )
    return "/".join(parts)


def is_image(name: str) -> bool:
    """Whether a file is an image by its name."""
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES and not is_hidden(name)


def is_archive(name: str) -> bool:
    """Whether a file is an archive by its name."""
    return PurePosixPath(name).suffix.lower() in ARCHIVE_SUFFIXES


def is_hidden(name: str) -> bool:
    """What desktop systems leave in archives: ._name, .DS_Store, __MACOSX/."""
    return any(
        part == "__MACOSX" or (part.startswith(".") and part not in (".", ".."))
        for part in name.split("/")
    )


def shown(text: str) -> str:
    """Foreign text for a message: short and printable, quoted."""
    short = text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
    return f'"{short}"' if short.isprintable() else ascii(short)

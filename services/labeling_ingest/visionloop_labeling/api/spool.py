"""The files of a form on disk, written one behind the other while they arrive.

One file is then what was sent, byte for byte. Several become an album, whose index is written
behind them: so a form may say before its files or after them what they are, and nothing is copied.
"""

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from visionloop.errors import UnavailableError
from visionloop_labeling.import_jobs import Upload
from visionloop_labeling.importers import album

_log = logging.getLogger(__name__)
_UNNAMED: Final = "unnamed"


class Spool:
    """Takes files in pieces; their digest is taken on the way. Not for two threads at once.

    All that writes raises UnavailableError where the disk is full.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened: IO[bytes] | None = None
        self._digest = hashlib.sha256()
        self._files: list[tuple[str, int]] = []  # names, and sizes in bytes

    @property
    def count(self) -> int:
        """How many files there are, with the one that is being written."""
        return len(self._files)

    def begin(self, name: str) -> None:
        """The next pieces are of another file."""
        self._files.append((name, 0))

    def write(self, piece: bytes) -> None:
        """The next piece of the file that was begun last."""
        name, size = self._files[-1]
        self._files[-1] = name, size + len(piece)
        self._append(piece)

    def end(self) -> None:
        """The file is whole. One without name and bytes is a field in which nothing was chosen."""
        if self._files[-1] == ("", 0):
            self._files.pop()

    def close(self) -> None:
        """Lets go of the file on disk until more is written."""
        opened, self._opened = self._opened, None
        if opened is not None:
            with room():
                opened.close()

    def alone(self) -> Upload | None:
        """The only file, as it came; None where there is none."""
        self.close()
        if not self._files:
            return None
        [(name, size)] = self._files
        return Upload(self._path, name, self._digest.hexdigest(), size)

    def bound(self) -> Upload | None:
        """All files as an album; None where there is none. To be called once, last."""
        if not self._files:
            return None
        named = [(_name_in_album(name), size) for name, size in self._files]
        size = sum(size for _, size in named)
        for piece in album.index(named):
            self._append(piece)
            size += len(piece)
        self.close()
        first, more = named[0][0], len(named) - 1
        shown = f"{first} and {more:,} more" if more else first
        return Upload(self._path, shown, self._digest.hexdigest(), size)

    def _append(self, piece: bytes) -> None:
        with room():
            if self._opened is None:
                self._opened = self._path.open("ab")
            self._opened.write(piece)
        self._digest.update(piece)


@contextmanager
def room() -> Iterator[None]:
    """For what keeps an upload: a disk that does not take it is told without naming its folders."""
    try:
        yield
    except OSError as error:
        _log.error("cannot keep an upload", extra={"error": str(error)})
        raise UnavailableError(
            "the service has no room for the file right now (its log says why); try again later"
        ) from error


def _name_in_album(name: str) -> str:
    """A receipt has to name its file, and dots alone look like a folder."""
    return name if name.strip(". ") else _UNNAMED

"""An album: the files that came in one form, in one file.

    the files' bytes, one after the other
    a line of JSON for each file, in the same order: ["a.jpg", 81233], its name and its bytes
    how many bytes these lines have (8 bytes, little endian), and MARK

So it is written while the files arrive, and only its end tells that there are several. Names are
for people: nothing is looked up by them, and two files may have the same one. The same files in the
same order give the same bytes.
"""

import json
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from visionloop_labeling.importers import names
from visionloop_labeling.importers.entries import SourceError

MAX_FILES: Final = 10_000  # names and places of all are held in memory, 10 MB at most
MARK: Final = b"album 1\n"
_END: Final = struct.Struct("<Q8s")


@dataclass(frozen=True, slots=True)
class Page:
    """A file in an album. `offset` and `size` in bytes."""

    name: str
    offset: int
    size: int


def index(files: Iterable[tuple[str, int]]) -> Iterator[bytes]:
    """What stands behind the bytes of these files (name, size)."""
    length = 0
    for name, size in files:
        line = json.dumps([name, size], ensure_ascii=False).encode() + b"\n"
        length += len(line)
        yield line
    yield _END.pack(length, MARK)


class Album:
    """An opened album. Threads may read at once."""

    def __init__(self, path: Path) -> None:
        """Raises SourceError for what is no album."""
        self._file = path.open("rb")
        try:
            self.pages = self._index()
        except (ValueError, TypeError, struct.error) as error:
            self._file.close()
            raise SourceError(
                f"the upload is no album of images ({error}); send the form again",
                reason="corrupt_upload",
            ) from error

    def read(self, page: Page, limit: int) -> bytes:
        """A file's bytes. Raises SourceError for more than `limit` of them."""
        if page.size > limit:
            raise SourceError(
                f"{names.shown(page.name)} has {page.size:,} bytes; the limit is {limit:,}",
                reason="too_many_bytes",
            )
        return os.pread(self._file.fileno(), page.size, page.offset)

    def close(self) -> None:
        self._file.close()

    def _index(self) -> list[Page]:
        total = os.fstat(self._file.fileno()).st_size - _END.size
        length, mark = _END.unpack(os.pread(self._file.fileno(), _END.size, max(0, total)))
        if mark != MARK or length > total:
            raise ValueError("its end is missing")
        pages: list[Page] = []
        offset = 0
        for line in os.pread(self._file.fileno(), length, total - length).splitlines():
            name, size = json.loads(line)
            pages.append(Page(name, offset, size))
            offset += size
        if offset != total - length:
            raise ValueError(f"its files have {offset} bytes, not {total - length}")
        return pages

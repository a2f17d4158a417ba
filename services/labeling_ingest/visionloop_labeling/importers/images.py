"""Images that came in one form, each a file of its own: a row each, all with the same class.

Every file gets its receipt, whatever its name ends with: what it is, its bytes tell.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from sqlalchemy.orm import Session

from visionloop.images import Limits
from visionloop_labeling.importers import names
from visionloop_labeling.importers.album import Album, Page
from visionloop_labeling.importers.entries import Entry, SourceError, Step
from visionloop_labeling.importers.parameters import ImagesParameters
from visionloop_labeling.receipts import Receipt


class ImagesImporter:
    """The rows of an album, in the order of the form."""

    def __init__(self, file: Path, parameters: ImagesParameters, limits: Limits) -> None:
        self._album = Album(file)
        self._label = parameters.label
        self._limits = limits
        self.rows = len(self._album.pages)
        self.remark = ""

    def steps(self, start: int) -> Iterator[Step]:
        for ordinal in range(start, self.rows):
            page = self._album.pages[ordinal]
            yield ordinal, page.name, partial(self._entry, page)

    def settle(self, session: Session, receipts: Sequence[Receipt]) -> None:
        """Nothing beside the receipts is kept."""

    def close(self) -> None:
        self._album.close()

    def _entry(self, page: Page) -> Entry:
        if names.is_archive(page.name):
            raise SourceError(
                f"{names.shown(page.name)} is an archive; send it by itself, as kind archive",
                reason="nested_archive",
            )
        return Entry(page.name, self._album.read(page, self._limits.max_bytes), label=self._label)

"""A text file with a URL in each line; empty lines and those that begin with # are passed over."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from sqlalchemy.orm import Session

from visionloop_labeling.importers import names
from visionloop_labeling.importers.entries import Entry, SourceError, Step
from visionloop_labeling.importers.parameters import UrlsParameters
from visionloop_labeling.receipts import Receipt
from visionloop_labeling.safe_fetch import SafeFetcher

_MAX_LINE: Final = 4_000  # bytes


class UrlsImporter:
    """The images behind a list of URLs, in its order."""

    def __init__(self, file: Path, fetcher: SafeFetcher, parameters: UrlsParameters) -> None:
        self._file = file
        self._fetcher = fetcher
        self._label = parameters.label
        self.rows = sum(1 for _ in self._lines())
        self.remark = ""
        if not self.rows:
            raise SourceError("the file holds no URL; write one in each line", reason="no_rows")

    def steps(self, start: int) -> Iterator[Step]:
        for ordinal, (line, url) in enumerate(self._lines()):
            if ordinal >= start:
                yield ordinal, url[:1000], partial(self._entry, line, url)

    def settle(self, session: Session, receipts: Sequence[Receipt]) -> None:
        """Nothing beside the receipts is kept."""

    def close(self) -> None:
        self._fetcher.close()

    def _entry(self, line: int, url: str) -> Entry:
        if not url.startswith(("http://", "https://")):
            raise SourceError(
                f"line {line}: {names.shown(url)} is not a URL (http://, https://)",
                reason="bad_url",
                field="url",
            )
        return Entry(url[:1000], self._fetcher.fetch(url), label=self._label)

    def _lines(self) -> Iterator[tuple[int, str]]:
        with self._file.open("rb") as file:
            number = 0
            while line := file.readline(_MAX_LINE):
                number += 1
                if len(line) == _MAX_LINE and not line.endswith(b"\n"):
                    raise SourceError(
                        f"line {number} has more than {_MAX_LINE} bytes: this is no list of URLs",
                        reason="no_rows",
                    )
                text = line.decode("utf-8-sig", "replace").strip()
                if text and not text.startswith("#"):
                    yield number, text

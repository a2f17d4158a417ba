"""What the CLI says: for people by default, one JSON document on stdout with --json.

Results go to stdout, everything else (progress, warnings, errors) to stderr, so that a pipe gets
the result alone.
"""

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from typing import Any

from visionloop.disk_space import is_full
from visionloop.errors import ConfigurationError, DiskFullError, VisionloopError

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Output:
    """Where a verb writes its result. A verb calls `result` once; `line` is for people only."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def line(self, text: str = "") -> None:
        """One line for people; silent with --json."""
        if not self.as_json:
            self.text(text + "\n")

    def text(self, text: str) -> None:
        """`text` as it is, on stdout. Raises DiskFullError or ConfigurationError where that fails.

        BrokenPipeError passes: the reader has had enough, which is no mistake.
        """
        with _writing():
            sys.stdout.write(_writable(text))

    def raw(self, data: bytes) -> None:
        """Bytes as they are, on stdout. Raises as `text` does."""
        with _writing():
            sys.stdout.flush()
            sys.stdout.buffer.write(data)

    def flush(self) -> None:
        """Hands on what is still in the buffer; raises as `text` does."""
        with _writing():
            sys.stdout.flush()

    def result(self, value: object) -> None:
        """The verb's result as JSON; silent without --json."""
        if self.as_json:
            self.text(
                json.dumps(value, default=_plain, ensure_ascii=not _takes_every_letter(), indent=2)
                + "\n"
            )

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Aligned columns for people; numbers to the right."""
        if self.as_json:
            return
        cells = [[_cell(value) for value in row] for row in rows]
        widths = [
            max([len(header), *(len(row[i]) for row in cells)]) for i, header in enumerate(headers)
        ]
        self.line("  ".join(h.ljust(w) for h, w in zip(headers, widths, strict=True)).rstrip())
        for row, values in zip(cells, rows, strict=True):
            aligned = [
                text.rjust(width) if isinstance(value, int | float) else text.ljust(width)
                for text, width, value in zip(row, widths, values, strict=True)
            ]
            self.line("  ".join(aligned).rstrip())

    def fields(self, values: Mapping[str, object]) -> None:
        """Names and values under one another, for people."""
        width = max((len(name) for name in values), default=0)
        for name, value in values.items():
            self.line(f"{name.ljust(width)}  {_cell(value)}")

    def note(self, text: str) -> None:
        """A remark on stderr, with --json too."""
        _say(_one_line(text))

    def error(self, error: VisionloopError) -> None:
        """The one line a failing verb leaves on stderr."""
        if self.as_json:
            body: dict[str, Any] = {"reason": error.reason, "message": str(error)}
            _say(json.dumps({"error": body}, ensure_ascii=False))
        else:
            _say(f"visionloop: {_one_line(str(error))}")


def _say(line: str) -> None:
    """On stderr; where nobody reads it any more (`2>&1 | head`), nothing else changes."""
    try:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        # What is left in the buffer would fail again, with a traceback, when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        words = f"cannot write the result to stdout: {error.strerror}"
        if is_full(error):
            raise DiskFullError(words) from error
        raise ConfigurationError(words, field="stdout") from error


def _takes_every_letter() -> bool:
    """Whether stdout is UTF-8; a C locale or a terminal of the past is not."""
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


def _writable(text: str) -> str:
    """The text with \\xe4 for what stdout has no letter for, such as a file's name in Latin-1."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return _one_line(str(value))


def _one_line(text: str) -> str:
    """The text with \\n for a line end, and so on: what others wrote (a reason, the name of a file)
    neither breaks a table nor steers the terminal."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def _plain(value: object) -> object:
    if isinstance(value, datetime | date):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON form")

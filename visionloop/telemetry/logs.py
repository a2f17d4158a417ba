"""Structured logs on the standard library: JSON lines in a pod, readable lines on a terminal.

A program calls `configure_logging` once; everything else calls `logging.getLogger(__name__)` and
passes facts as `extra={"model": ..., "version": ...}`, which both formats keep. Secrets are removed
when a line is written: values whose name sounds secret, user names and passwords in URLs, and
`token=...` inside texts and tracebacks. The price is a few regular expressions for each line, about
10 microseconds.
"""

import json as json_format
import logging
import os
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import PurePath

from visionloop.errors import ConfigurationError

REDACTED = "[redacted]"
FORMAT_VARIABLE = "VISIONLOOP_LOG_FORMAT"

_SECRET_NAME = re.compile(r"secret|password|passwd|token|authorization|credential", re.IGNORECASE)
# Up to the last @: a password that was not quoted may hold others.
_URL_USER = re.compile(r"""(?<=://)[^/\s"'<>]+@""")
_SECRET_IN_TEXT = re.compile(
    r"""((?:secret|password|passwd|token|authorization)[\w-]*["']?\s*[=:]\s*["']?)"""
    r"""(?:(?:bearer|basic)\s+)?[^\s,;&"']+""",
    re.IGNORECASE,
)
# What every LogRecord has; all else came in by `extra`.
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
# Their debug lines hold signed headers and whole payloads.
_NEVER_DEBUGGED = (
    "botocore",
    "boto3",
    "urllib3",
    "s3transfer",
    "PIL",
    "matplotlib",
    "asyncio",
    "grpc",
)


def configure_logging(program: str, *, json: bool | None = None, level: str = "INFO") -> None:
    """Sends all logs of this process to stderr, as `program`.

    `json` None means what VISIONLOOP_LOG_FORMAT says ("json" or "text"); where it is not set, JSON
    lines unless stderr is a terminal. Calling it again replaces the format. Raises
    ConfigurationError for another format, and for a level that is not DEBUG, INFO, WARNING, ERROR
    or CRITICAL.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if not number:
        raise ConfigurationError(
            f"log level is {level!r}; it must be DEBUG, INFO, WARNING, ERROR or CRITICAL",
            field="level",
        )
    if json is None:
        json = _json_wanted()
    handler = _ProgramHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(program) if json else LineFormatter(program))
    root = logging.getLogger()
    for earlier in [h for h in root.handlers if isinstance(h, _ProgramHandler)]:
        root.removeHandler(earlier)
    root.addHandler(handler)
    root.setLevel(number)
    for name in _NEVER_DEBUGGED:
        logging.getLogger(name).setLevel(max(number, logging.WARNING))
    logging.captureWarnings(True)


def _json_wanted() -> bool:
    wanted = os.environ.get(FORMAT_VARIABLE) or ("text" if sys.stderr.isatty() else "json")
    if wanted not in ("json", "text"):
        raise ConfigurationError(
            f"{FORMAT_VARIABLE} is {wanted!r}; it must be json or text", field=FORMAT_VARIABLE
        )
    return wanted == "json"


class _ProgramHandler(logging.StreamHandler):  # type: ignore[type-arg]  # generic in typeshed only
    """Told apart from handlers that somebody else (a test runner) put on the root logger."""


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time (UTC), level, program, logger, message, the extra fields."""

    def __init__(self, program: str) -> None:
        super().__init__()
        self._program = program

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": _time(record).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "program": self._program,
            "logger": record.name,
            "message": redacted_text(record.getMessage()),
        }
        for name, value in _extra(record).items():
            line.setdefault(name, value)
        if trouble := _trouble(self, record):
            line["exception"] = trouble
        return json_format.dumps(line, default=str, ensure_ascii=False)


class LineFormatter(logging.Formatter):
    """For people: clock, level, program, message, then the extra fields as name=value."""

    def __init__(self, program: str) -> None:
        super().__init__()
        self._program = program

    def format(self, record: logging.LogRecord) -> str:
        clock = _time(record).astimezone().strftime("%H:%M:%S")
        line = f"{clock} {record.levelname:<7} {self._program}  "
        line += redacted_text(record.getMessage())
        line += "".join(f"  {name}={value}" for name, value in _extra(record).items())
        trouble = _trouble(self, record)
        return f"{line}\n{trouble}" if trouble else line


def redacted(name: str, value: object) -> object:
    """The value as it may be logged under this name; mappings and lists are looked into. Nothing at
    all, and the path of a file, are no secrets, whatever the name."""
    if value is None or isinstance(value, PurePath):
        return None if value is None else str(value)
    if _SECRET_NAME.search(name):
        return REDACTED
    if isinstance(value, str):
        return redacted_text(value)
    if isinstance(value, Mapping):
        return {str(key): redacted(str(key), inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redacted(name, inner) for inner in value]
    if isinstance(value, bool | int | float):
        return value
    return redacted_text(str(value))


def redacted_text(text: str) -> str:
    """The text without passwords in URLs and without what follows `token=` and its like."""
    text = _URL_USER.sub(f"{REDACTED}@", text)
    return _SECRET_IN_TEXT.sub(rf"\1{REDACTED}", text)


def _extra(record: logging.LogRecord) -> dict[str, object]:
    given = record.__dict__.items()
    return {name: redacted(name, value) for name, value in given if name not in _STANDARD}


def _trouble(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = []
    if record.exc_info:
        parts.append(formatter.formatException(record.exc_info))
    if record.stack_info:
        parts.append(record.stack_info)
    return redacted_text("\n".join(parts))


def _time(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)

"""What may come in as text: names, digests, numbers, each refused with its field, value and limit.

Text is trimmed and must be free of control characters, because it ends up in logs, CSV files and
pages. Images are looked at elsewhere (see `inspectors`).
"""

import re
import unicodedata
import uuid
from collections.abc import Mapping
from typing import Final

from visionloop.errors import InvalidInputError

MAX_NAME: Final = 200  # characters, of a label, group, batch, author or attribute value
MAX_SOURCE: Final = 1000
MAX_ATTRIBUTES: Final = 32
MAX_ORDINAL: Final = 2**63 - 1

_DATASET = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_ATTRIBUTE = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,62}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_UNPRINTABLE = {"Cc", "Cs", "Co", "Cn", "Zl", "Zp"}
_SHOWN = 60
_LONGEST_SPELLING = 4  # characters that NFC makes one


def dataset_name(name: str) -> str:
    """A dataset's name: it becomes part of object keys."""
    if not _DATASET.fullmatch(name):
        raise InvalidInputError(
            f"dataset {_show(name)} is not a usable name; use 1 to 63 lower-case letters, digits, "
            '"-" and "_", beginning with a letter or digit',
            field="dataset",
        )
    return name


def text(value: str, field: str, *, limit: int = MAX_NAME, required: bool = True) -> str:
    """Trimmed text without control characters, at most `limit` characters."""
    trimmed = value.strip()
    if trimmed.isascii() and trimmed.isprintable() and 0 < len(trimmed) <= limit:
        return trimmed  # nothing below could object; most texts are such
    if len(trimmed) <= _LONGEST_SPELLING * limit:  # else too long in any; normalising takes long
        # One spelling for what can be encoded in two ways, or "é" would be two classes. Before the
        # limit is checked: some characters become several.
        trimmed = unicodedata.normalize("NFC", trimmed).strip()
    if required and not trimmed:
        raise InvalidInputError(f"{field} is empty; give it 1 to {limit} characters", field=field)
    if len(trimmed) > limit:
        raise InvalidInputError(
            f"{field} {_show(trimmed)} has {len(trimmed)} characters; the limit is {limit}",
            field=field,
        )
    bad = next((c for c in trimmed if unicodedata.category(c) in _UNPRINTABLE), None)
    if bad is not None:
        raise InvalidInputError(
            f"{field} {_show(trimmed)} holds the control character U+{ord(bad):04X}; remove it",
            field=field,
        )
    return trimmed


def lines(value: str, field: str, *, limit: int) -> str:
    """Text of several lines, each trimmed and free of control characters."""
    if len(value) > _LONGEST_SPELLING * limit:
        return text(value, field, limit=limit, required=False)  # says that it is too long
    rows = [
        text(row, field, limit=_LONGEST_SPELLING * limit, required=False)
        for row in value.replace("\r\n", "\n").replace("\t", " ").split("\n")
    ]
    joined = "\n".join(rows).strip()
    if len(joined) > limit:
        raise InvalidInputError(
            f"{field} has {len(joined)} characters; the limit is {limit}", field=field
        )
    return joined


def attributes(values: Mapping[str, str]) -> dict[str, str]:
    """Attribute names and values, sorted by name."""
    if len(values) > MAX_ATTRIBUTES:
        raise InvalidInputError(
            f"{len(values)} attributes are given; the limit is {MAX_ATTRIBUTES}", field="attributes"
        )
    checked = {}
    for name in sorted(values):
        if not _ATTRIBUTE.fullmatch(name):
            raise InvalidInputError(
                f"attribute {_show(name)} is not a usable name; use 1 to 63 letters, digits, "
                '"_", "." and "-", beginning with a letter or "_"',
                field="attributes",
            )
        checked[name] = text(values[name], f"attributes.{name}", required=False)
    return checked


def ordinal(value: int) -> int:
    """A row's number within its batch."""
    if not 0 <= value <= MAX_ORDINAL:
        raise InvalidInputError(
            f"ordinal {value} is not within 0 to {MAX_ORDINAL}", field="ordinal"
        )
    return value


def sha256(value: str) -> str:
    """An image's digest as callers give it."""
    lowered = value.strip().lower()
    if not _SHA256.fullmatch(lowered):
        raise InvalidInputError(
            f"sha256 {_show(value)} is not a digest; use 64 hex digits", field="sha256"
        )
    return lowered


def event_id(value: str) -> str:
    """A label event's UUID in its canonical spelling."""
    try:
        return str(uuid.UUID(value))
    except ValueError as error:
        raise InvalidInputError(
            f"event_id {_show(value)} is not a UUID; make a new one for each label and repeat it "
            "when you repeat the call",
            field="event_id",
        ) from error


def _show(value: str) -> str:
    shown = value if len(value) <= _SHOWN else value[:_SHOWN] + "…"
    return ascii(shown) if not shown.isprintable() else f'"{shown}"'

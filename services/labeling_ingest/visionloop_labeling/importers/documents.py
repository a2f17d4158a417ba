"""JSON of strangers: read with bounds, its values taken with their place in the error."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from visionloop_labeling.importers.entries import SourceError
from visionloop_labeling.importers.names import shown

MAX_BYTES: Final = 64 * 2**20  # of one annotation file; it is about ten times as large in memory


def parse(data: bytes, name: str) -> Any:
    """A JSON document. Raises SourceError."""
    if len(data) > MAX_BYTES:
        raise too_large(shown(name), len(data))
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{shown(name)} is not JSON: {error}", reason="no_json") from None


def too_large(what: str, size: int) -> SourceError:
    """The refusal of so many bytes of JSON, and what to do about it."""
    return SourceError(
        f"{what} has {size:,} bytes of JSON; the limit is {MAX_BYTES:,}, because all of it is held "
        "in memory. Split it by images (each part with its own images, what is said of them, and "
        "all the categories) and import the parts one after the other",
        reason="too_many_bytes",
    )


def is_json(head: bytes) -> bool:
    """Whether a file that begins so may be a JSON document."""
    return head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[")


def number(value: Any, field: str) -> float:
    """A finite number."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            plain = float(value)
        except OverflowError:
            plain = math.inf
        if math.isfinite(plain):
            return plain
    raise wrong(value, field, "a number")


def whole(value: Any, field: str) -> int:
    """An integer of a size that an image may have."""
    plain = number(value, field)
    if plain != int(plain) or not 0 <= plain < 2**31:
        raise wrong(value, field, "a whole number")
    return int(plain)


def numbers(value: Any, field: str, count: int | None = None) -> list[float]:
    """A list of finite numbers, `count` of them if that is given."""
    if not isinstance(value, list) or (count is not None and len(value) != count):
        raise wrong(value, field, f"a list of {count} numbers" if count else "a list of numbers")
    return [number(one, field) for one in value]


def text(value: Any, field: str) -> str:
    """A string that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise wrong(value, field, "a text")
    return value.strip()


def members(value: Any, field: str) -> Mapping[str, Any]:
    """An object."""
    if not isinstance(value, dict):
        raise wrong(value, field, "an object")
    return value


def items(value: Any, field: str) -> Sequence[Any]:
    """A list."""
    if not isinstance(value, list):
        raise wrong(value, field, "a list")
    return value


def attributes(value: Any, field: str) -> dict[str, str | float]:
    """An object of plain values as attributes; what is nested is left out."""
    kept: dict[str, str | float] = {}
    for name, one in members(value, field).items():
        if isinstance(one, bool):
            kept[name] = str(one).lower()
        elif isinstance(one, int | float):
            kept[name] = number(one, f"{field}.{name}")
        elif isinstance(one, str):
            kept[name] = one
    return kept


def wrong(value: Any, field: str, wanted: str) -> SourceError:
    """The refusal of a value."""
    return SourceError(
        f"{field} is {shown(repr(value))}; it must be {wanted}", reason="invalid_row", field=field
    )

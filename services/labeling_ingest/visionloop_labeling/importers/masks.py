"""Masks as other tools pack them, as plain run lengths (columns, the first run being of 0)."""

from typing import Any, Final

from visionloop_labeling.annotation import MAX_COUNTS
from visionloop_labeling.importers import documents
from visionloop_labeling.importers.entries import SourceError

_FIRST: Final = 48  # the character of 0 in COCO's packed runs
_MORE: Final = 0x20
_SIGN: Final = 0x10


def counts_of(said: Any, pixels: int, field: str) -> list[int]:
    """Run lengths from a list, or from the text that COCO's own tools pack them into.

    Raises SourceError unless they sum up to `pixels`.
    """
    if isinstance(said, list) and len(said) <= MAX_COUNTS:
        counts = [documents.whole(run, field) for run in said]
    elif isinstance(said, str) and len(said) <= 6 * MAX_COUNTS:
        counts = unpacked(said, field)
    else:
        raise documents.wrong(type(said).__name__, field, "run lengths, as a list or packed text")
    if sum(counts) != pixels or min(counts, default=0) < 0:
        raise SourceError(
            f"{field} are runs of {sum(counts)} pixels; the mask's size says {pixels}",
            reason="bad_mask",
            field=field,
        )
    return counts


def unpacked(text: str, field: str) -> list[int]:
    """Runs from COCO's packed text: five bits a character, from the third on as differences to the
    run two before."""
    counts: list[int] = []
    place = 0
    codes = [ord(c) - _FIRST for c in text]
    if any(not 0 <= code < 64 for code in codes):
        raise SourceError(f"{field} is not packed runs", reason="bad_mask", field=field)
    while place < len(codes):
        value, shift, more = 0, 0, True
        while more:
            if place == len(codes) or shift > 35:
                raise SourceError(f"{field} ends within a run", reason="bad_mask", field=field)
            code = codes[place]
            value |= (code & 0x1F) << shift
            more = bool(code & _MORE)
            place, shift = place + 1, shift + 5
            if not more and code & _SIGN:
                value |= -1 << shift
        if len(counts) > 2:
            value += counts[-2]
        counts.append(value)
    return counts

"""Masks as other tools pack them, as plain run lengths (columns, the first run being of 0)."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from visionloop_labeling.annotation import MAX_COUNTS
from visionloop_labeling.importers import documents
from visionloop_labeling.importers.entries import SourceError
from visionloop_labeling.importers.frames import encoded

_FIRST: Final = 48  # the character of 0 in COCO's packed runs
_MORE: Final = 0x20
_SIGN: Final = 0x10
_MAX_BRUSH: Final = 2_000_000  # bytes of a packed brush; its bits are read one by one


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


def of_brush(said: Any, size: tuple[int, int], field: str) -> list[int]:
    """Run lengths from the bytes that Label Studio packs a brush into; `size` is (height, width).

    They are the RGBA samples of the drawing, row by row, as runs and literals of a bit stream; what
    is not transparent was painted.
    """
    if not isinstance(said, list) or not 0 < len(said) <= _MAX_BRUSH:
        raise documents.wrong(type(said).__name__, field, "packed bytes")
    packed = [documents.whole(byte, field) for byte in said]
    samples = 4 * size[0] * size[1]
    if max(packed) > 255:
        raise documents.wrong(max(packed), field, "bytes")
    try:
        drawn = _unpacked_brush(_Bits(bytes(packed)), samples)
    except ValueError as error:
        raise SourceError(f"{field} {error}", reason="bad_mask", field=field) from None
    return encoded(drawn.reshape(*size, 4)[:, :, 3])


class _Bits:
    """Bits of bytes, the highest first."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    def read(self, count: int) -> int:
        """The next bits as a number."""
        end = self._place + count
        if end > 8 * len(self._data):
            raise ValueError("ends too early")
        window = self._data[self._place // 8 : -(-end // 8)]
        value = int.from_bytes(window, "big") >> (-end % 8)
        self._place = end
        return value & ((1 << count) - 1)


def _unpacked_brush(bits: _Bits, samples: int) -> NDArray[np.uint8]:
    """A header (samples, bits of a sample, four widths of lengths), then runs and literals."""
    told = bits.read(32)
    if told != samples:
        raise ValueError(f"has {told} samples; the image's size says {samples}")
    width = bits.read(5) + 1
    lengths = [bits.read(4) + 1 for _ in range(4)]
    drawn = np.zeros(samples, np.uint8)
    place = 0
    while place < samples:
        is_run = bits.read(1)
        end = place + 1 + bits.read(lengths[bits.read(2)])
        if end > samples:
            raise ValueError("is longer than the image")
        if is_run:
            drawn[place:end] = min(bits.read(width), 255)
            place = end
        while place < end:
            drawn[place] = min(bits.read(width), 255)
            place += 1
    return drawn

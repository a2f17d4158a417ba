"""Real files with a few bytes changed, by the thousand: what a fuzzer sends, and repeatable."""

import random
import zlib
from collections.abc import Iterator

from support.photographs import variants

_EXTREMES = (b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80\0\0\0")


def mutated(count: int, seed: int = 0) -> Iterator[bytes]:
    """`count` damaged files of every format and mode that the suite takes."""
    source = random.Random(seed)
    originals = [variant.data for _, variant in sorted(variants().items())]
    for number in range(count):
        data = bytearray(originals[number % len(originals)])
        for _ in range(source.randint(1, 6)):
            _change(data, source)
        if source.random() < 0.5:
            mend_png(data)
        if source.random() < 0.1:  # the beginning of one file, the end of another
            other = source.choice(originals)
            data[source.randrange(len(data) + 1) :] = other[source.randrange(len(other)) :]
        yield bytes(data)


def _change(data: bytearray, source: random.Random) -> None:
    if not data:
        return
    # Headers are where the interesting bytes are.
    end = min(source.choice((64, 256, len(data))), len(data))
    place = source.randrange(end)
    match source.randrange(5):
        case 0:
            data[place] = source.randrange(256)
        case 1:
            del data[place : place + source.randint(1, 16)]
        case 2:
            data[place:place] = source.randbytes(source.randint(1, 16))
        case 3:
            data[place:place] = data[place : place + source.randint(1, 64)]
        case _:
            data[place : place + 4] = source.choice(_EXTREMES)


def mend_png(data: bytearray) -> None:
    """Gives every chunk its right checksum, so that damage gets past the first wall."""
    position = 8
    while data[:4] == b"\x89PNG" and position + 12 <= len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        if end > len(data):
            return
        data[end - 4 : end] = zlib.crc32(data[position + 4 : end - 4]).to_bytes(4, "big")
        position = end

"""EXIF as cameras, editors and attackers write it: an orientation that can be read is applied once,
everything else counts as upright, and nothing else happens. In JPEG, PNG and WebP alike.

The segments are made by hand, because Pillow would not write most of them.
"""

import io
import struct
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from support.hostile_images import png_chunk
from support.photographs import encode, small

from visionloop.images import decode, read_header

# Pillow warns of what it passes over.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

ORIENTATION = 0x0112
ASCII, SHORT, LONG, RATIONAL, SIGNED_LONG, BYTE = 2, 3, 4, 5, 9, 1
ENTRIES = 8  # where the first directory stands


def tiff(
    *entries: tuple[int, int, int, bytes], order: str = "<", following: int = 0, body: bytes = b""
) -> bytes:
    """A TIFF of one directory; an entry is (tag, type, count, its 4 bytes)."""
    head = b"II*\0" if order == "<" else b"MM\0*"
    directory = struct.pack(f"{order}H", len(entries))
    for tag, kind, count, value in entries:
        directory += struct.pack(f"{order}HHI", tag, kind, count) + value.ljust(4, b"\0")
    return (
        head
        + struct.pack(f"{order}I", ENTRIES)
        + directory
        + struct.pack(f"{order}I", following)
        + body
    )


def oriented(value: int, order: str = "<") -> bytes:
    """The plain case: one SHORT."""
    return tiff((ORIENTATION, SHORT, 1, struct.pack(f"{order}H", value)), order=order)


def in_jpeg(*segments: bytes) -> bytes:
    """The picture with these APP1 segments behind its start."""
    plain = encode(small(), "JPEG", quality=95)
    app1 = b"".join(b"\xff\xe1" + struct.pack(">H", len(one) + 2) + one for one in segments)
    return plain[:2] + app1 + plain[2:]


def jpeg(exif: bytes) -> bytes:
    return in_jpeg(b"Exif\0\0" + exif)


def png(exif: bytes) -> bytes:
    plain = encode(small(), "PNG")
    return plain[:33] + png_chunk(b"eXIf", exif) + plain[33:]


def webp(exif: bytes) -> bytes:
    """An extended WebP whose EXIF chunk is what it is told."""
    plain = encode(small(), "WEBP", lossless=True)
    width, height = small().size
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    flags = b"VP8X" + struct.pack("<I", 10) + b"\x08\0\0\0" + size
    chunk = b"EXIF" + struct.pack("<I", len(exif)) + exif + b"\0" * (len(exif) % 2)
    body = b"WEBP" + flags + plain[12:] + chunk
    return b"RIFF" + struct.pack("<I", len(body)) + body


CONTAINERS: dict[str, Callable[[bytes], bytes]] = {"jpeg": jpeg, "png": png, "webp": webp}
TURNED, UPRIGHT = 6, 1
CASES = {
    "0": (oriented(0), UPRIGHT),
    "9": (oriented(9), UPRIGHT),
    "65535": (oriented(65535), UPRIGHT),
    "6, big-endian": (oriented(6, ">"), TURNED),
    "a long": (tiff((ORIENTATION, LONG, 1, struct.pack("<I", 6))), TURNED),
    "a byte": (tiff((ORIENTATION, BYTE, 1, b"\x06")), UPRIGHT),  # Pillow gives bytes
    "a negative": (tiff((ORIENTATION, SIGNED_LONG, 1, struct.pack("<i", -6))), UPRIGHT),
    "a text": (tiff((ORIENTATION, ASCII, 2, b"6\0")), UPRIGHT),
    "words": (tiff((ORIENTATION, ASCII, 4, b"top\0")), UPRIGHT),
    "a ratio": (tiff((ORIENTATION, RATIONAL, 1, b"\x1a"), body=struct.pack("<II", 6, 1)), UPRIGHT),
    "a ratio of nothing": (
        tiff((ORIENTATION, RATIONAL, 1, b"\x1a"), body=struct.pack("<II", 6, 0)), UPRIGHT,
    ),
    "two values": (tiff((ORIENTATION, SHORT, 2, struct.pack("<HH", 6, 3))), TURNED),  # the first
    "a billion values": (tiff((ORIENTATION, SHORT, 2**30, b"\x1a")), UPRIGHT),
    "a type that does not exist": (tiff((ORIENTATION, 99, 1, b"\x06")), UPRIGHT),
    "a value behind the end": (tiff((ORIENTATION, RATIONAL, 1, b"\xff\xff\xff\x7f")), UPRIGHT),
    "a directory that follows itself": (
        tiff((ORIENTATION, SHORT, 1, b"\x06"), following=ENTRIES), TURNED,
    ),
    "a directory that is itself a thumbnail's": (
        tiff((ORIENTATION, SHORT, 1, b"\x06"), (0x8769, LONG, 1, struct.pack("<I", ENTRIES))),
        TURNED,
    ),
    "entries that are not there": (oriented(6)[:8] + b"\xff\xff" + oriented(6)[10:], TURNED),
    "nothing": (b"", UPRIGHT),
    "no TIFF": (b"not a TIFF at all", UPRIGHT),
}  # fmt: skip


def orientation(data: bytes) -> int:
    """As the header has it; the pixels are turned accordingly, once."""
    header = read_header(data)
    decoded = decode(data)
    assert decoded.shape == (header.height, header.width, 3)
    with Image.open(io.BytesIO(data)) as opened:
        stored = np.asarray(opened.convert("RGB"))
    turned = np.rot90(stored, -1) if header.orientation == TURNED else stored
    assert np.array_equal(decoded, turned)
    return header.orientation


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", CASES)
def test_what_can_be_read_is_applied_and_the_rest_is_upright(name: str, container: str) -> None:
    exif, expected = CASES[name]
    assert orientation(CONTAINERS[container](exif)) == expected


@pytest.mark.parametrize("container", CONTAINERS)
def test_exif_cut_anywhere_is_read_or_passed_over(container: str) -> None:
    whole = oriented(6)
    found = [orientation(CONTAINERS[container](whole[:end])) for end in range(len(whole))]
    assert set(found) <= {UPRIGHT, TURNED}
    assert found[:ENTRIES] == [UPRIGHT] * ENTRIES  # before the entry there is nothing to read


def test_of_several_segments_the_first_exif_counts() -> None:
    xmp = b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta/>"
    six, three = b"Exif\0\0" + oriented(6), b"Exif\0\0" + oriented(3)
    assert orientation(in_jpeg(six, three)) == TURNED
    assert orientation(in_jpeg(xmp, six, xmp)) == TURNED
    assert orientation(in_jpeg(b"Exif\0\0", six)) == TURNED  # an empty one before it
    assert orientation(in_jpeg(b"Exif\0\0" + oriented(1), six)) == UPRIGHT
    assert orientation(in_jpeg(b"", b"E", b"Exif", six)) == TURNED  # APP1 of other programs


def test_a_webp_may_repeat_the_jpeg_prefix() -> None:
    assert orientation(webp(b"Exif\0\0" + oriented(6))) == TURNED


@pytest.mark.parametrize("container", CONTAINERS)
def test_hundreds_of_entries_cost_nothing(container: str) -> None:
    many = [(0x8000 + n, SHORT, 1, b"\x01") for n in range(500)]
    assert orientation(CONTAINERS[container](tiff((ORIENTATION, SHORT, 1, b"\x06"), *many))) == 6

"""Image files as containers: which format, is the file whole, how many frames; no pixels.

Pillow loads files that lost their end as long as the first frame's pixels are there, walks long
chains of TIFF pages in quadratic time, and decodes a JPEG of a hundred thousand scans without
complaint. These walks visit every chunk, block, marker or directory once (at most about one second
for 20 MB of hostile bytes, about a millisecond for a photograph), refuse a file that has more of
them than any encoder writes, and `visionloop.images` makes them before it lets Pillow near a file.
"""

import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from visionloop.errors import ImageError


class Refusal(StrEnum):
    """Why bytes were refused: the `reason` of every ImageError."""

    EMPTY = "empty"
    TOO_MANY_BYTES = "too_many_bytes"
    NOT_AN_IMAGE = "not_an_image"
    UNSUPPORTED_FORMAT = "unsupported_format"
    TOO_MANY_PIXELS = "too_many_pixels"
    ASPECT_RATIO = "aspect_ratio"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"


# Frames and pages are counted to here; a file with more says this many.
MAX_FRAMES = 10_000
# Encoders write about 10 scans, the longest known scripts 64. Every scan costs a pass over the
# whole image, so a few kilobytes of empty scans would cost hours. A large image may have fewer: 32
# of 50 megapixels.
MAX_JPEG_SCANS = 128
MAX_SCANNED_PIXELS = 1_600_000_000
# Encoders write some thousands at most. Millions fit into a file; each of them costs the GIL, here
# and once more in Pillow, which also keeps those that it does not know.
MAX_PARTS = 100_000  # segments of a JPEG, chunks of a PNG, entries and strips of a TIFF
MAX_GIF_BLOCKS = 500_000  # of at most 255 bytes each: 20 MB of them are 80,000
# A file of 20 MB is full of 320 whole ones. Pillow joins them one by one, each time all over again:
# 20,000 small ones (4 MB) cost 12 seconds of the GIL.
MAX_EXIF_SEGMENTS = 512
# There may be one, and a kilobyte of it unpacks to a megabyte: a file of thousands costs seconds.
MAX_COLOUR_PROFILES = 16

_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),
    (b"MM\x00+", "TIFF"),
    (b"BM", "BMP"),
)
_FOREIGN = (
    (b"%PDF-", "PDF"),
    (b"%!PS", "PostScript"),
    (b"8BPS", "Photoshop"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x01\x00", "icon (ICO)"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"SIMPLE  =", "FITS"),
    (b"II*\x00\x10\x00\x00\x00CR", "Canon camera raw"),
    (b"IIRO", "Olympus camera raw"),
    (b"IIU\x00", "Panasonic camera raw"),
    (b"FUJIFILMCCD-RAW", "Fujifilm camera raw"),
    (b"\x1aE\xdf\xa3", "Matroska or WebM video"),
)
_ISO_BRANDS = {
    b"heic": "HEIC",
    b"heix": "HEIC",
    b"heim": "HEIC",
    b"hevc": "HEIC",
    b"mif1": "HEIF",
    b"msf1": "HEIF",
    b"avif": "AVIF",
    b"avis": "AVIF",
    b"crx ": "Canon camera raw",
}


def sniff(data: bytes) -> str | None:
    """Pillow's name of the format that these bytes begin as, or None for any other."""
    if foreign(data):
        return None
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return next((name for prefix, name in _SIGNATURES if data.startswith(prefix)), None)


def foreign(data: bytes) -> str | None:
    """The name of a picture or document format that we know but do not take, or None."""
    for prefix, name in _FOREIGN:
        if data.startswith(prefix):
            return name
    if data[4:8] == b"ftyp":
        return _ISO_BRANDS.get(data[8:12], "MP4 video")
    start = data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith((b"<svg", b"<?xml", b"<!--", b"<!doctype svg")) and b"<svg" in start:
        return "SVG"
    return None


CheckSize = Callable[[int, int], None]


def count_frames(data: bytes, format_name: str, check_size: CheckSize) -> int:
    """Visits the container's parts once and returns how many frames or pages there are.

    `check_size(width, height)` is called, and may raise, as soon as a size is seen that decoding
    would trust. Raises ImageError (truncated, corrupt) when the file does not reach its format's
    end. WebP's frames are not counted, because libwebp does.
    """
    return _WALKS[format_name](data, check_size)


# --- JPEG: segments, then entropy-coded data in which a marker is FF and neither 00, FF nor RSTn.

_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_JPEG_SCAN, _JPEG_END, _JPEG_BARE = 0xDA, 0xD9, {0x01, 0xD8}
_JPEG_APP1, _EXIF = 0xE1, b"Exif\0\0"
# The least that Huffman coding can spend on a block of 8 x 8 pixels, by start-of-frame marker.
_JPEG_BITS_PER_BLOCK = {0xC0: 2, 0xC1: 2, 0xC2: 1}


def _walk_jpeg(data: bytes, check_size: CheckSize) -> int:
    parts = scans = exifs = pixels = coded_bytes = needed_bits = 0
    marker, position = 0, 2
    while match := _JPEG_MARKER.search(data, position):
        parts += 1
        if parts > MAX_PARTS:
            raise _too_many("JPEG", "segments", MAX_PARTS)
        if marker == _JPEG_SCAN:
            coded_bytes += match.start() - position
        marker = data[match.start() + 1]
        position = match.end()
        if marker == _JPEG_END:
            if coded_bytes * 8 < needed_bits:
                # libjpeg would paint what is missing gray, and say so to nobody.
                raise broken(Refusal.TRUNCATED, "the JPEG has too few bytes for its size in pixels")
            return 1
        if marker in _JPEG_BARE:
            continue
        scans += marker == _JPEG_SCAN
        if scans > MAX_JPEG_SCANS or scans * pixels > MAX_SCANNED_PIXELS:
            raise _too_many("JPEG", "scans", scans - 1)
        exifs += marker == _JPEG_APP1 and data.startswith(_EXIF, position + 2)
        if exifs > MAX_EXIF_SEGMENTS:
            raise _too_many("JPEG", "EXIF segments", MAX_EXIF_SEGMENTS)
        if marker in _JPEG_BITS_PER_BLOCK:
            height = int.from_bytes(data[position + 3 : position + 5], "big")
            width = int.from_bytes(data[position + 5 : position + 7], "big")
            check_size(width, height)
            pixels = max(pixels, width * height)
            needed_bits = _JPEG_BITS_PER_BLOCK[marker] * -(-width // 8) * -(-height // 8)
        position += int.from_bytes(data[position : position + 2], "big")
    raise broken(Refusal.TRUNCATED, "the JPEG ends before its end marker")


# --- PNG: length, type, data, CRC. Pillow checks no CRC of the pixel data.


def _walk_png(data: bytes, check_size: CheckSize) -> int:
    parts, profiles, frames = 0, 0, 1
    position = 8
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            break
        parts += 1
        if parts > MAX_PARTS:
            raise _too_many("PNG", "chunks", MAX_PARTS)
        if kind[0] & 0x20 == 0:  # an upper-case letter: the chunk is critical
            (expected,) = struct.unpack_from(">I", data, end - 4)
            if zlib.crc32(memoryview(data)[position + 4 : end - 4]) != expected:
                name = kind.decode("latin-1")
                raise broken(Refusal.CORRUPT, f"the PNG's {name!r} chunk fails its checksum")
        profiles += kind == b"iCCP"
        if profiles > MAX_COLOUR_PROFILES:
            raise _too_many("PNG", "colour profiles", MAX_COLOUR_PROFILES)
        if kind == b"IHDR" and length >= 8:
            check_size(*struct.unpack_from(">II", data, position + 8))
        if kind == b"acTL" and length >= 8:
            frames = int.from_bytes(data[position + 8 : position + 12], "big")
        if kind == b"IEND":
            return min(max(frames, 1), MAX_FRAMES)
        position = end
    raise broken(Refusal.TRUNCATED, "the PNG ends before its IEND chunk")


def png_exif(data: bytes) -> bytes | None:
    """The EXIF block of a whole PNG, which tools like to append after the pixels."""
    position = 8
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"IEND":
            return None
        if kind == b"eXIf":
            return b"Exif\0\0" + data[position + 8 : position + 8 + length]
        position += 12 + length
    return None


# --- GIF: blocks, each a list of sub-blocks of at most 255 bytes, up to the trailer.

_GIF_EXTENSION, _GIF_IMAGE, _GIF_TRAILER = 0x21, 0x2C, 0x3B


def _walk_gif(data: bytes, _check_size: CheckSize) -> int:
    frames, left = 0, MAX_GIF_BLOCKS
    try:
        position = 13 + _gif_palette(data[10])
        while (block := data[position]) != _GIF_TRAILER:
            position += 1
            if block == _GIF_EXTENSION:
                position, left = _gif_sub_blocks(data, position + 1, left)
            elif block == _GIF_IMAGE:
                begin = position + 10 + _gif_palette(data[position + 8])
                position, left = _gif_sub_blocks(data, begin, left)
                frames += 1
    except IndexError:
        raise broken(Refusal.TRUNCATED, "the GIF ends before its trailer") from None
    if not frames:
        raise broken(Refusal.CORRUPT, "the GIF holds no image")
    return min(frames, MAX_FRAMES)


def _gif_palette(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _gif_sub_blocks(data: bytes, position: int, left: int) -> tuple[int, int]:
    """The place behind a list of blocks, and how many of the `left` ones are left."""
    while length := data[position]:
        position += length + 1
        left -= 1
        if left < 0:
            break
    if left <= 0:
        raise _too_many("GIF", "blocks", MAX_GIF_BLOCKS)
    return position + 1, left - 1  # the empty one that ends the list counts, too


# --- WebP: a RIFF whose header says how long it is; the canvas is read here because libwebp
# allocates it as soon as the file is opened.


def _walk_webp(data: bytes, check_size: CheckSize) -> int:
    if len(data) < 8 + int.from_bytes(data[4:8], "little"):
        raise broken(Refusal.TRUNCATED, "the WebP is shorter than its RIFF header says")
    kind, rest = data[12:16], data[20:30]
    if kind == b"VP8X" and len(rest) == 10:
        width = 1 + int.from_bytes(rest[4:7], "little")
        height = 1 + int.from_bytes(rest[7:10], "little")
    elif kind == b"VP8L" and len(rest) >= 5:
        bits = int.from_bytes(rest[1:5], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 " and len(rest) == 10:
        width = int.from_bytes(rest[6:8], "little") & 0x3FFF
        height = int.from_bytes(rest[8:10], "little") & 0x3FFF
    else:
        raise broken(Refusal.CORRUPT, "the WebP does not begin with a picture chunk")
    check_size(width, height)
    return 1


# --- BMP: nothing to walk. Run-length encoding is refused: Pillow decodes it byte by byte in
# Python, and 30 kB of it cost more than four seconds.

_BMP_RUN_LENGTH = {1, 2}


def _walk_bmp(data: bytes, _check_size: CheckSize) -> int:
    compression = int.from_bytes(data[30:34], "little") if data[14:15] != b"\x0c" else 0
    if compression in _BMP_RUN_LENGTH:
        raise ImageError(
            "the BMP is run-length encoded, which is not taken; save it uncompressed or as PNG",
            reason=Refusal.UNSUPPORTED_FORMAT,
        )
    return 1


# --- TIFF: a chain of directories whose entries point anywhere in the file.

_TIFF_VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8,
                     13: 4, 16: 8, 17: 8, 18: 8}  # fmt: skip
_TIFF_OFFSETS = {273, 324}  # the places of strips and of tiles


@dataclass(frozen=True, slots=True)
class _TiffLayout:
    """Field sizes of classic TIFF and of BigTIFF."""

    order: str
    first: int  # where the offset of the first directory stands
    count: str  # of a directory's entries
    offset: str
    entry: int  # bytes


def _walk_tiff(data: bytes, _check_size: CheckSize) -> int:
    order = "<" if data[:2] == b"II" else ">"
    big = 43 in data[2:4]
    layout = _TiffLayout(order, 8, "Q", "Q", 20) if big else _TiffLayout(order, 4, "H", "I", 12)
    try:
        (offset,) = struct.unpack_from(order + layout.offset, data, layout.first)
        seen: set[int] = set()
        while offset and offset not in seen and len(seen) < MAX_FRAMES:
            following = _tiff_directory(data, offset, layout, check_values=not seen)
            seen.add(offset)
            offset = following
    except struct.error:
        raise broken(Refusal.TRUNCATED, "the TIFF ends before its directories do") from None
    if not seen:
        raise broken(Refusal.CORRUPT, "the TIFF has no directory")
    return len(seen)


def _tiff_directory(data: bytes, offset: int, layout: _TiffLayout, *, check_values: bool) -> int:
    """Returns the offset of the directory after this one; 0 for the last."""
    (entries,) = struct.unpack_from(layout.order + layout.count, data, offset)
    start = offset + struct.calcsize(layout.count)
    end = start + entries * layout.entry
    if end > len(data):
        raise struct.error
    if check_values:
        if entries > MAX_PARTS:
            raise _too_many("TIFF", "entries in its directory", MAX_PARTS)
        fields = struct.Struct(layout.order + "HH" + layout.offset * 2)
        for position in range(start, end, layout.entry):
            tag, kind, count, where = fields.unpack_from(data, position)
            size = count * _TIFF_VALUE_BYTES.get(kind, 0)
            if size > struct.calcsize(layout.offset) and where + size > len(data):
                raise struct.error
            if tag in _TIFF_OFFSETS and count > MAX_PARTS:
                raise _too_many("TIFF", "strips or tiles", MAX_PARTS)
    (following,) = struct.unpack_from(layout.order + layout.offset, data, end)
    return int(following)


_WALKS: dict[str, Callable[[bytes, CheckSize], int]] = {
    "JPEG": _walk_jpeg,
    "PNG": _walk_png,
    "GIF": _walk_gif,
    "WEBP": _walk_webp,
    "BMP": _walk_bmp,
    "TIFF": _walk_tiff,
}


def _too_many(format_name: str, parts: str, limit: int) -> ImageError:
    return broken(
        Refusal.CORRUPT, f"the {format_name} has more than {limit:,} {parts}; save it again"
    )


def broken(reason: Refusal, what: str) -> ImageError:
    """The refusal of a damaged file, with what to do about it."""
    advice = "send the whole file" if reason is Refusal.TRUNCATED else "send an undamaged file"
    return ImageError(f"the image is {reason}: {what}; {advice}", reason=reason)

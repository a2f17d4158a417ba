"""Small files made to cost memory or time, and a program that decodes them with little of both.

`python -m support.hostile_images` decodes every bomb in a process whose address space may grow by
256 MB only, and prints {name: reason} as JSON.
"""

import json
import resource
import struct
import sys
import zlib
from functools import cache
from pathlib import Path

from PIL import Image
from support.photographs import encode, small, variants

from visionloop.errors import ImageError
from visionloop.images import decode

ROOM = 256 * 2**20  # bytes


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """One chunk with its right checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *chunks: bytes, pixels: bytes = b"\0" * 64) -> bytes:
    """An 8-bit gray PNG of that claimed size."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    body = b"".join(chunks) + png_chunk(b"IDAT", zlib.compress(pixels)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + body


def tiff(entries: dict[int, tuple[int, int, int]], body: bytes = b"", following: int = 0) -> bytes:
    """A little-endian TIFF: tag -> (type, count, value); the body stands at offset 8."""
    directory = struct.pack("<H", len(entries))
    for tag, (kind, count, value) in sorted(entries.items()):
        directory += struct.pack("<HHII", tag, kind, count, value)
    start = 8 + len(body)
    return b"II*\0" + struct.pack("<I", start) + body + directory + struct.pack("<I", following)


def gray_tiff(width: int, height: int) -> dict[int, tuple[int, int, int]]:
    """The entries of a plain gray TIFF whose one strip stands at offset 8."""
    return {
        256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1),
        273: (4, 1, 8), 277: (3, 1, 1), 278: (4, 1, height),
        279: (4, 1, min(width * height, 2**32 - 1)),
    }  # fmt: skip


def long_tiff_chain(directories: int) -> bytes:
    """Every directory names the next one."""
    data = bytearray(tiff(gray_tiff(2, 2), body=b"\0" * 4))
    struct.pack_into("<I", data, len(data) - 4, len(data))
    for _ in range(directories):
        data += struct.pack("<HI", 0, len(data) + 6)
    return bytes(data) + struct.pack("<HI", 0, 0)


def webp(kind: bytes, body: bytes) -> bytes:
    """A RIFF with one chunk of a WebP."""
    chunk = kind + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def gif(screen: tuple[int, int], frame: tuple[int, int], frames: int = 1) -> bytes:
    """A GIF of empty frames."""
    image = b"," + struct.pack("<HHHHB", 0, 0, *frame, 0) + b"\x02\x02\x44\x01\x00"
    return b"GIF89a" + struct.pack("<HHBBB", *screen, 0, 0, 0) + image * frames + b";"


def gif_of_a_long_comment(blocks: int) -> bytes:
    """A GIF with a comment in blocks of one byte."""
    image = gif((8, 8), (8, 8))
    return image[:13] + b"\x21\xfe" + b"\x01a" * blocks + b"\0" + image[13:]


def tiff_of_many_entries(entries: int) -> bytes:
    """A BigTIFF with a directory of private entries."""
    entry = struct.pack("<HHQQ", 40_000, 3, 1, 0)
    return struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, entries) + entry * entries + bytes(8)


def jpeg_of_size(width: int, height: int) -> bytes:
    """A real JPEG whose header was changed to claim another size."""
    data = variants()["jpeg"].data
    place = data.index(b"\xff\xc0") + 5
    return data[:place] + struct.pack(">HH", height, width) + data[place + 4 :]


def jpeg_of_depth(bits: int) -> bytes:
    """A real JPEG whose header was changed to claim samples of so many bits."""
    data = variants()["jpeg"].data
    place = data.index(b"\xff\xc0") + 4
    return data[:place] + bytes([bits]) + data[place + 1 :]


def jpeg_of_exif(segments: int) -> bytes:
    """A real JPEG behind small EXIF segments, which a reader joins to one."""
    data = variants()["jpeg"].data
    segment = b"\xff\xe1" + struct.pack(">H", 208) + b"Exif\0\0" + bytes(200)
    return data[:2] + segment * segments + data[2:]


def tiff_of_many_strips(strips: int) -> bytes:
    """A TIFF of 8 rows that come again and again, each in a strip of its own."""
    entries = {**gray_tiff(8, 8), 278: (4, 1, 1), 273: (4, strips, 72), 279: (4, 8, 72)}
    return tiff(entries, bytes(64) + struct.pack("<I", 8) * strips)


def jpeg_of_many_scans(scans: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    data = variants()["jpeg-progressive"].data
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * scans + b"\xff\xd9"


def jpeg_of_large_scans(scans: int) -> bytes:
    """The same of 49 megapixels, with bytes enough for that size."""
    data = variants()["jpeg-progressive"].data
    place, last = data.index(b"\xff\xc2") + 5, data.rindex(b"\xff\xda")
    scan = data[last:-2] + bytes(8192)
    return (
        data[:place] + struct.pack(">HH", 7_000, 7_000) + data[place + 4 : -2] + scan * scans
    ) + b"\xff\xd9"


def jpeg_of_many_comments(comments: int) -> bytes:
    """A real JPEG behind empty comments."""
    data = variants()["jpeg"].data
    return data[:2] + b"\xff\xfe\x00\x02" * comments + data[2:]


def bmp(width: int, height: int, compression: int = 0) -> bytes:
    """A BMP header of that claimed size with few pixels."""
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, compression, 0, 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 1078) + header + bytes(range(256)) * 4 + bytes(64)


@cache
def bombs() -> dict[str, tuple[bytes, set[str]]]:
    """name -> (file, the reasons that are right for it)."""
    many, corrupt, cut = {"too_many_pixels"}, {"corrupt"}, {"truncated"}
    text = zlib.compress(b"a" * 50_000_000)
    side = {**gray_tiff(8, 8), 322: (4, 1, 100_000), 323: (4, 1, 100_000), 324: (4, 1, 8),
            325: (4, 1, 64)}  # fmt: skip
    strips = {**gray_tiff(8, 8), 278: (4, 1, 1), 273: (4, 2**30, 8), 279: (4, 2**30, 8)}
    return {
        "png: 900 megapixels": (png(30_000, 30_000), many),
        "png: 4 billion squared": (png(2**31 - 1, 2**31 - 1), many),
        "png: zTXt of 50 MB": (png(8, 8, png_chunk(b"zTXt", b"k\0\0" + text)), corrupt),
        "png: iTXt of 50 MB": (
            png(8, 8, png_chunk(b"iTXt", b"k\0\1\0\0\0" + text)), corrupt,
        ),
        "png: iCCP of 50 MB": (png(8, 8, png_chunk(b"iCCP", b"k\0\0" + text)), corrupt),
        "png: 100 texts of 1 MB": (
            png(8, 8, *[png_chunk(b"zTXt", b"k%d\0\0" % n + zlib.compress(b"a" * 10**6))
                        for n in range(100)]), corrupt,
        ),
        "png: pixels of 50 MB for 64": (png(8, 8, pixels=b"\0" * 50_000_000), set()),
        "tiff: 1 terapixel": (tiff(gray_tiff(1_000_000, 1_000_000), bytes(64)), many),
        "tiff: tiles of 10 gigapixels": (tiff(side, bytes(64)), many),
        "tiff: a billion strips": (tiff(strips, bytes(64)), cut),
        "tiff: a million strips of 8 rows": (tiff_of_many_strips(1_000_000), corrupt),
        "tiff: 300,000 directories": (long_tiff_chain(300_000), set()),
        "tiff: a directory that names itself": (
            tiff(gray_tiff(8, 8), bytes(64), following=72), set(),
        ),
        "tiff: lzma": (encode(small(), "TIFF", compression="lzma"), {"unsupported_format"}),
        "gif: a screen of 4 gigapixels": (gif((65535, 65535), (1, 1)), many),
        "gif: a frame larger than its screen": (gif((1, 1), (65535, 65535)), many),
        "gif: 200,000 frames": (gif((1, 1), (1, 1), frames=200_000), set()),
        "webp: a canvas of 281 terapixels": (webp(b"VP8X", bytes(4) + b"\xff" * 6), many),
        "webp: 268 megapixels": (webp(b"VP8L", b"\x2f\xff\xff\xff\x0f" + bytes(16)), many),
        "jpeg: 4 gigapixels": (jpeg_of_size(65_500, 65_500), many),
        "jpeg: 49 megapixels of nothing": (jpeg_of_size(7_000, 7_000), cut),
        "jpeg: 10,000 scans": (jpeg_of_many_scans(10_000), corrupt),
        "jpeg: 40 scans of 49 megapixels": (jpeg_of_large_scans(40), corrupt),
        "jpeg: 20,000 EXIF segments": (jpeg_of_exif(20_000), corrupt),
        "jpeg: 2 million comments": (jpeg_of_many_comments(2_000_000), corrupt),
        "png: 2,000 iCCP of 1 MB": (
            png(8, 8, png_chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(2**20))) * 2_000), corrupt,
        ),
        "png: a million chunks": (png(8, 8, png_chunk(b"abCd", b"") * 1_000_000), corrupt),
        "gif: a comment of 5 million blocks": (gif_of_a_long_comment(5_000_000), corrupt),
        "tiff: half a million entries": (tiff_of_many_entries(500_000), corrupt),
        "bmp: 4 exapixels": (bmp(2**31 - 1, 2**31 - 1), many),
        "bmp: run-length": (bmp(7_000, 7_000, compression=1), {"unsupported_format"}),
    }  # fmt: skip


def _reason(data: bytes) -> str:
    try:
        decode(data)
    except ImageError as error:
        return error.reason
    return "decoded"


def main() -> None:
    """Decodes all bombs in little memory."""
    files = bombs()
    Image.init()
    decode(variants()["tiff-lab"].data)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, size + ROOM))
    sys.stdout.write(json.dumps({name: _reason(data) for name, (data, _) in files.items()}))


if __name__ == "__main__":
    main()

"""A ZIP archive written as a stream: what is made is sent, nothing is kept but one line an entry.

`zipfile` holds an object for each entry until the end, a gigabyte for a million images; here the
directory, 46 bytes and a name for each, waits in a temporary file. Entries are stored as they are
(images are compressed already) and bear one fixed time: the same content gives the same bytes.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator
from tempfile import SpooledTemporaryFile
from typing import Final

_STORED: Final = 0
_UTF8: Final = 0x0800
_VERSION: Final = 45  # that of ZIP64
_UNIX_FILE: Final = 0o100644 << 16
_DATE: Final = 0x21  # 1 January 1980, 0:00
_LARGE: Final = 0xFFFF_FFFF  # "see the ZIP64 field"
_MANY: Final = 0xFFFF
_IN_MEMORY: Final = 2**20  # bytes of directory
_CHUNK: Final = 2**16


def zip_stream(entries: Iterable[tuple[str, bytes]]) -> Iterator[bytes]:
    """The archive of (name, content), piece by piece. Names are relative, unique, with slashes."""
    offset = count = 0
    with SpooledTemporaryFile(_IN_MEMORY) as directory:
        for name, content in entries:
            encoded = name.encode()
            check = zlib.crc32(content)
            sizes = struct.pack("<LLL", check, len(content), len(content))
            common = struct.pack("<HHHHH", _VERSION, _UTF8, _STORED, 0, _DATE) + sizes
            head = b"PK\x03\x04" + common + struct.pack("<HH", len(encoded), 0) + encoded
            directory.write(_directory_entry(encoded, common, offset))
            yield head + content
            offset += len(head) + len(content)
            count += 1
        size = directory.tell()
        directory.seek(0)
        while chunk := directory.read(_CHUNK):
            yield chunk
    yield _end(count, size, offset)


def _directory_entry(name: bytes, common: bytes, offset: int) -> bytes:
    extra = b""
    if offset >= _LARGE:
        extra = struct.pack("<HHQ", 1, 8, offset)
        offset = _LARGE
    made_by = struct.pack("<H", 3 << 8 | _VERSION)  # Unix
    rest = struct.pack("<HHHHHLL", len(name), len(extra), 0, 0, 0, _UNIX_FILE, offset)
    return b"PK\x01\x02" + made_by + common + rest + name + extra


def _end(count: int, size: int, offset: int) -> bytes:
    """What follows the directory of `count` entries and `size` bytes that begins at `offset`."""
    large = b""
    if count >= _MANY or size >= _LARGE or offset >= _LARGE:
        large = b"PK\x06\x06" + struct.pack(
            "<QHHLLQQQQ", 44, 3 << 8 | _VERSION, _VERSION, 0, 0, count, count, size, offset
        )
        large += b"PK\x06\x07" + struct.pack("<LQL", 0, offset + size, 1)
    entries = min(count, _MANY)
    end = struct.pack("<HHHHLLH", 0, 0, entries, entries, min(size, _LARGE), min(offset, _LARGE), 0)
    return large + b"PK\x05\x06" + end

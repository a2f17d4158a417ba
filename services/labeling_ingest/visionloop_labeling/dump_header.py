"""Which Postgres a dump was made of, and by which pg_dump: the head of its custom format.

Whoever restores must know. pg_restore 15 does not read a dump of pg_dump 18, and pg_restore 18 sets
what Postgres 15 does not have. The layout is that of `ReadHead` in Postgres'
src/bin/pg_dump/pg_backup_archiver.c, archive versions 1.10 to 1.16 (pg_dump 8.4 to 18).
"""

import struct
from pathlib import Path
from typing import Final

MAGIC: Final = b"PGDMP"
_HEAD_BYTES: Final = 4096
_OLDEST, _NEWEST = (1, 10), (1, 16)
_ONE_BYTE_COMPRESSION = (1, 15)  # before that an integer


def versions(dump: Path) -> tuple[str, str]:
    """Versions of server and pg_dump, as "15.18" and "18.4"; empty where the head is another."""
    with dump.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    try:
        return _read(head)
    except (struct.error, UnicodeDecodeError):
        return "", ""


def _read(head: bytes) -> tuple[str, str]:
    major, minor, _revision, int_bytes, _offset_bytes, _format = struct.unpack_from(
        "6B", head, len(MAGIC)
    )
    version = (major, minor)
    if not head.startswith(MAGIC) or int_bytes != 4 or not _OLDEST <= version <= _NEWEST:
        return "", ""
    at = len(MAGIC) + 6

    def integer() -> int:
        nonlocal at
        sign, value = struct.unpack_from("<BI", head, at)
        at += 5
        return -value if sign else int(value)

    def text() -> str:
        nonlocal at
        length = max(integer(), 0)
        at += length
        return head[at - length : at].decode()

    if version >= _ONE_BYTE_COMPRESSION:
        at += 1
    else:
        integer()
    for _time in range(7):
        integer()
    text()  # the database's name
    server, program = text(), text()
    return server.partition(" ")[0], program.partition(" ")[0]

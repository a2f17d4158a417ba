"""The files of a multipart/form-data body (RFC 7578), as `curl -F file=@a.jpg -F …` sends it.

Read as strictly as the rest of HTTP here: what stands before the first boundary or after the last,
a part of another name or in another encoding is refused, not skipped. The files are views of the
body.
"""

import re
from http import HTTPStatus
from typing import NoReturn

from visionloop_inference.http_message import Head, HttpError

KIND = "multipart/form-data"
FIELD = "file"  # the name of every part
MAX_FILES = 4096  # in one form; --max-images is the limit in words
MAX_PART_HEAD = 4096  # bytes
# Bytes that are searched at once: the interpreter is held meanwhile, and with it the event loop.
PIECE = 2**18

_BOUNDARY = re.compile(
    r"""(?:^|;)\s*boundary=(?:"([0-9A-Za-z'()+_,./:=? -]{1,70})"|([^\s;"]{1,70}))""", re.I
)
_DISPOSITION = re.compile(
    rb'form-data(?:\s*;\s*[a-z*]+=(?:"(?:[^"\\]++|\\.)*+"|[^\s;"]+))+\s*', re.I
)
_PARAMETER = re.compile(rb';\s*([a-z*]+)=(?:"((?:[^"\\]++|\\.)*+)"|([^\s;"]+))', re.I)
_PLAIN_ENCODINGS = (b"", b"binary", b"8bit", b"7bit")


def boundary_of(head: Head) -> bytes | None:
    """What stands between the parts; None where the body is no form. Raises HttpError."""
    kind, _, parameters = head.headers.get("content-type", "").partition(";")
    if kind.strip().lower() != KIND:
        return None
    found = _BOUNDARY.search(parameters)
    if found is None:
        _bad(f"{KIND} names no boundary", "content-type")
    return (found[1] or found[2]).encode("latin-1")


def files(body: bytes, boundary: bytes) -> list[tuple[memoryview, str]]:
    """The content and name of each file, in the form's order. Raises HttpError."""
    view, delimiter = memoryview(body), b"--" + boundary
    if not body.startswith(delimiter):
        _bad("the form does not begin with its boundary")
    found: list[tuple[memoryview, str]] = []
    place = len(delimiter)
    while (after := body[place : place + 2]) != b"--":
        if after != b"\r\n":
            _bad("a boundary in the form is followed by neither a line end nor --")
        if len(found) == MAX_FILES:
            _bad(f"the form has more than {MAX_FILES} files; send them as several")
        head_end = body.find(b"\r\n\r\n", place, place + MAX_PART_HEAD)
        if head_end < 0:
            _bad(f"a part of the form has no head, or one of more than {MAX_PART_HEAD} bytes")
        start = head_end + 4
        stop = _found(body, b"\r\n" + delimiter, start)
        if stop < 0:
            _bad("the form is cut off: the boundary at its end is missing")
        found.append((view[start:stop], _file_name(body[place + 2 : head_end])))
        place = stop + 2 + len(delimiter)
    if body[place + 2 : place + 5] not in (b"", b"\r\n"):
        _bad("something follows the form's end")
    return found


def _found(body: bytes, wanted: bytes, start: int) -> int:
    """As `body.find(wanted, start)`, a piece at a time."""
    for begin in range(start, len(body), PIECE):
        place = body.find(wanted, begin, begin + PIECE + len(wanted) - 1)
        if place >= 0:
            return place
    return -1


def _file_name(head: bytes) -> str:
    """The name that a part gives its file, "" where it gives none."""
    headers: dict[bytes, bytes] = {}
    for line in head.split(b"\r\n") if head else ():
        name, colon, value = line.partition(b":")
        if not colon or name.lower() in headers:
            _bad("the head of a part of the form has a line that is no header, or one twice")
        headers[name.lower()] = value.strip()
    if headers.get(b"content-transfer-encoding", b"").lower() not in _PLAIN_ENCODINGS:
        _bad("a part of the form is encoded; files are taken as they are")
    disposition = headers.get(b"content-disposition", b"")
    if not _DISPOSITION.fullmatch(disposition):
        _bad("a part of the form has no Content-Disposition: form-data; name=…")
    parameters = _PARAMETER.findall(disposition)
    said = {name.lower(): _unescaped(quoted) or plain for name, quoted, plain in parameters}
    if len(said) < len(parameters):
        _bad("a part of the form has a parameter of its Content-Disposition twice")
    field = said.get(b"name", b"")
    if field != FIELD.encode():
        _bad(
            f"the form has a field {field[:100].decode(errors='replace')!r}; every image is a "
            f"field named {FIELD!r}, and what is asked stands in the query"
        )
    try:
        return said.get(b"filename", b"").decode()
    except UnicodeDecodeError:
        _bad("the name of a file in the form is not UTF-8")


def _unescaped(quoted: bytes) -> bytes:
    """With a quote or backslash for each that stands behind a backslash."""
    return b"\\".join([part.replace(b'\\"', b'"') for part in quoted.split(b"\\\\")])


def _bad(message: str, field: str = "") -> NoReturn:
    raise HttpError(HTTPStatus.BAD_REQUEST, message, field=field) from None

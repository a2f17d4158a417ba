"""Forms with one large file, written to disk while they arrive.

The framework's own forms are read whole before a route sees them; here a file of many gigabytes
passes in small pieces and its digest is taken on the way. Everything else in the form is short
text.
"""

import asyncio
import hashlib
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from visionloop.errors import InvalidInputError, UnavailableError
from visionloop_labeling.import_jobs import Upload

_log = logging.getLogger(__name__)
_MAX_TEXT: Final = 64 * 2**10  # bytes, of all fields but the file together
_MAX_HEADERS: Final = 8 * 2**10  # bytes, of one part
_MAX_PARTS: Final = 20
_MAX_NAME: Final = 200  # characters


@dataclass(slots=True)
class Form:
    """What a form held."""

    fields: dict[str, str] = field(default_factory=dict)
    upload: Upload | None = None


async def read_form(request: Request, folder: Path, *, file_field: str = "file") -> Form:
    """Reads a multipart form; its file goes into `folder`. Raises InvalidInputError."""
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 0 < len(boundary) <= 200:
        raise InvalidInputError(
            "send a form as multipart/form-data with the fields kind, parameters and file",
            field="Content-Type",
        )
    reader = _Reader(boundary, folder / "upload", file_field)
    try:
        async for chunk in request.stream():
            if chunk:
                await asyncio.to_thread(reader.feed, chunk)
        return await asyncio.to_thread(reader.finish)
    except OSError as error:
        _log.error("cannot keep an upload", extra={"error": str(error)})
        raise UnavailableError(
            "the service has no room for the file right now (its log says why); try again later"
        ) from error
    finally:
        reader.close()


class _Reader:
    """Takes a form apart as it comes."""

    def __init__(self, boundary: bytes, path: Path, file_field: str) -> None:
        self._form = Form()
        self._path = path
        self._file_field = file_field
        self._file: IO[bytes] | None = None
        self._digest = hashlib.sha256()
        self._size = 0
        self._file_name = ""
        self._name = ""
        self._text = bytearray()
        self._texts = 0
        self._parts = 0
        self._headers: dict[bytes, bytes] = {}
        self._header = [bytearray(), bytearray()]  # name, value
        self._whole = False
        callbacks: Any = {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._header_part(0, data[start:end]),
            "on_header_value": lambda data, start, end: self._header_part(1, data[start:end]),
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_end,
            "on_part_data": lambda data, start, end: self._data(data[start:end]),
            "on_part_end": self._part_end,
            "on_end": self._end,
        }
        self._parser = MultipartParser(boundary, callbacks)

    def feed(self, chunk: bytes) -> None:
        """The next bytes of the body."""
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise InvalidInputError(f"the form is broken: {error}", field="body") from None

    def finish(self) -> Form:
        """The form, once the body has ended."""
        if not self._whole:
            raise InvalidInputError("the form ended too early; send it again", field="body")
        if self._file is not None:
            self._file.close()
            self._form.upload = Upload(
                self._path, self._file_name, self._digest.hexdigest(), self._size
            )
        return self._form

    def close(self) -> None:
        """Lets go of the file."""
        if self._file is not None:
            self._file.close()

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise InvalidInputError(
                f"the form has more than {_MAX_PARTS} parts; all files go into one archive",
                field="file",
            )
        self._headers.clear()
        self._text = bytearray()

    def _header_part(self, place: int, data: bytes) -> None:
        self._header[place] += data
        if sum(map(len, self._header)) > _MAX_HEADERS:
            raise InvalidInputError("a part of the form has a too long header", field="body")

    def _header_end(self) -> None:
        name, value = self._header
        self._headers[bytes(name).lower()] = bytes(value)
        self._header = [bytearray(), bytearray()]

    def _headers_end(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if self._name != self._file_field:
            return
        if self._file is not None:
            raise InvalidInputError(
                "the form has more than one file; put them into one archive", field="file"
            )
        self._file_name = _shown_name(options.get(b"filename", b""))
        self._file = self._path.open("wb")

    def _data(self, data: bytes) -> None:
        if self._name == self._file_field and self._file is not None:
            self._file.write(data)
            self._digest.update(data)
            self._size += len(data)
            return
        self._texts += len(data)
        if self._texts > _MAX_TEXT:
            raise InvalidInputError(
                f"the form's fields have more than {_MAX_TEXT} bytes", field=self._name[:40]
            )
        self._text += data

    def _part_end(self) -> None:
        if self._name == self._file_field:
            return
        try:
            self._form.fields[self._name] = self._text.decode()
        except UnicodeDecodeError:
            raise InvalidInputError(
                f"{self._name[:40]} is not UTF-8", field=self._name[:40]
            ) from None

    def _end(self) -> None:
        self._whole = True


def _shown_name(name: bytes) -> str:
    """The last part of the sender's name for the file; for people only, never a path."""
    text = name.decode("utf-8", "replace").replace("\\", "/").rpartition("/")[2]
    return "".join(c if c.isprintable() else "?" for c in text)[:_MAX_NAME]

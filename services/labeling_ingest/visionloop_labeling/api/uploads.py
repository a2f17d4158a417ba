"""Forms with large files, written to disk while they arrive.

The framework's own forms are read whole before a route sees them; here files of many gigabytes pass
in small pieces and their digest is taken on the way. Everything else in the form is short text.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from visionloop.errors import InvalidInputError
from visionloop_labeling.api.spool import Spool

_MAX_TEXT: Final = 64 * 2**10  # bytes, of all fields but the files together
_MAX_HEADERS: Final = 8 * 2**10  # bytes, of one part
_MAX_FIELDS: Final = 20  # beside the files
_MAX_NAME: Final = 200  # characters

# Raises InvalidInputError where a form with these fields, of which more may follow, may not have so
# many files.
CheckFiles: TypeAlias = Callable[[Mapping[str, str], int], None]


@dataclass(frozen=True, slots=True)
class Form:
    """What a form held. Its files are still to be made an upload of."""

    files: Spool
    fields: dict[str, str] = field(default_factory=dict)


async def read_form(
    request: Request, folder: Path, check_files: CheckFiles, *, file_field: str = "file"
) -> Form:
    """Reads a multipart form; its files go into `folder`.

    Raises InvalidInputError, and UnavailableError where the disk is full.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 0 < len(boundary) <= 200:
        raise InvalidInputError(
            "send a form as multipart/form-data with the fields kind, parameters and file",
            field="Content-Type",
        )
    form = Form(Spool(folder / "upload"))
    reader = _Reader(boundary, form, file_field, check_files)
    try:
        async for chunk in request.stream():
            if chunk:
                await asyncio.to_thread(reader.feed, chunk)
        await asyncio.to_thread(reader.finish)
    finally:
        form.files.close()
    return form


class _Reader:
    """Takes a form apart as it comes."""

    def __init__(
        self, boundary: bytes, form: Form, file_field: str, check_files: CheckFiles
    ) -> None:
        self._form = form
        self._file_field = file_field
        self._check_files = check_files
        self._name = ""
        self._text = bytearray()
        self._texts = 0
        self._fields = 0
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

    def finish(self) -> None:
        """Called once the body has ended."""
        if not self._whole:
            raise InvalidInputError("the form ended too early; send it again", field="body")
        self._form.files.close()
        self._check_files(self._form.fields, self._form.files.count)

    def _begin(self) -> None:
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
        if self._is_file:
            self._form.files.begin(_shown_name(options.get(b"filename", b"")))
            self._check_files(self._form.fields, self._form.files.count)
            return
        self._fields += 1
        if self._fields > _MAX_FIELDS:
            raise InvalidInputError(
                f"the form has more than {_MAX_FIELDS} fields beside its files", field="body"
            )

    @property
    def _is_file(self) -> bool:
        return self._name == self._file_field

    def _data(self, data: bytes) -> None:
        if self._is_file:
            self._form.files.write(data)
            return
        self._texts += len(data)
        if self._texts > _MAX_TEXT:
            raise InvalidInputError(
                f"the form's fields have more than {_MAX_TEXT} bytes", field=self._name[:40]
            )
        self._text += data

    def _part_end(self) -> None:
        if self._is_file:
            self._form.files.end()
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

"""The form that begins an import: what may be in it, and what it asks for."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fastapi import Request

from visionloop.errors import InvalidInputError
from visionloop_labeling.api.uploads import Form, read_form
from visionloop_labeling.import_jobs import Upload
from visionloop_labeling.importers.album import MAX_FILES
from visionloop_labeling.importers.opening import needs_file, takes_several_files
from visionloop_labeling.importers.parameters import KINDS, Parameters, parse_parameters

# Of the OpenAPI description; the framework does not read these forms.
DESCRIPTION: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["kind"],
                    "properties": {
                        "kind": {"type": "string", "enum": list(KINDS)},
                        "parameters": {
                            "type": "string",
                            "description": 'A JSON object, as {"label_column": "class"}.',
                        },
                        "file": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                            "maxItems": MAX_FILES,
                            "description": "One file; for kind images, each image as a part of its "
                            "own; for kind s3, none.",
                        },
                    },
                }
            }
        },
    }
}


@dataclass(frozen=True, slots=True)
class Wish:
    """What a form asks for."""

    kind: str
    parameters: Parameters
    upload: Upload | None


async def read_wish(request: Request, folder: Path) -> Wish:
    """Reads the form; its files go into `folder`. Raises InvalidInputError."""
    form = await read_form(request, folder, _check_files)
    return await asyncio.to_thread(_wish, form)


def _wish(form: Form) -> Wish:
    kind = form.fields.get("kind", "")
    if kind not in KINDS:
        raise InvalidInputError(
            f"kind {kind[:40]!a} is not known; use one of {', '.join(KINDS)}", field="kind"
        )
    upload = form.files.bound() if takes_several_files(kind) else form.files.alone()
    if needs_file(kind) and (upload is None or not upload.size):
        raise InvalidInputError(f"an import of kind {kind} needs a file", field="file")
    if not needs_file(kind) and upload is not None:
        raise InvalidInputError(f"an import of kind {kind} takes no file", field="file")
    return Wish(kind, parse_parameters(kind, form.fields.get("parameters", "")), upload)


def _check_files(fields: Mapping[str, str], count: int) -> None:
    """Refuses more files than a form with these fields may have; its kind may come later."""
    kind = fields.get("kind", "")
    if count > 1 and kind in KINDS and not takes_several_files(kind):
        raise InvalidInputError(
            f"the form has more than one file, and an import of kind {kind} takes one: put them "
            "into one archive; images may also be sent each by itself, as kind images",
            field="file",
        )
    if count > MAX_FILES:
        raise InvalidInputError(
            f"file: the form has more than {MAX_FILES:,} files, which is the limit; send the rest "
            "in another form, or all of them in one archive",
            field="file",
        )

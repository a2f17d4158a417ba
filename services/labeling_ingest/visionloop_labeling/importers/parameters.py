"""What the sender of an import may say about it, for each kind of source.

All have defaults that fit the format as its own tools write it. Unknown names are refused, so that
a mistyped one is not silently without effect.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError

from visionloop.errors import InvalidInputError
from visionloop.record import Record

_Column = Annotated[str, Field(min_length=1, max_length=200)]


class FolderParameters(Record):
    """An archive with a folder per class. Without `classes` folders mean nothing."""

    classes: bool = True


class ImagesParameters(Record):
    """The images of one form; all get `label`, when there is one."""

    label: Annotated[str, Field(max_length=200)] | None = None


class CsvParameters(Record):
    """A table with a row per image. Columns that are None (or are not there) are not read.

    An image is named by the first of these columns that the table has: `path` in the archive,
    `url`, `sha256` of an image that is there. With `label_separator` a cell may name several. An
    empty one leaves the image open, or says that it shows none of the classes. The columns of
    probabilities are called as the classes are (a soft label); a weight is that of a label.
    """

    path_column: _Column = "path"
    url_column: _Column = "url"
    sha256_column: _Column = "sha256"
    label_column: _Column = "label"
    group_column: _Column | None = None
    attribute_columns: Annotated[tuple[_Column, ...], Field(max_length=32)] = ()
    probability_columns: Annotated[tuple[_Column, ...], Field(max_length=1000)] = ()
    weight_column: _Column | None = None
    label_separator: Annotated[str, Field(max_length=3)] = ""
    unannotated: Literal["open", "empty"] = "open"


class CocoParameters(Record):
    """COCO JSON. Images without annotations wait for a label, or say "nothing there"."""

    unannotated: Literal["open", "empty"] = "open"


class YoloParameters(Record):
    """YOLO text files. Images without one wait for a label, or say "nothing there"."""

    unannotated: Literal["open", "empty"] = "open"


class LabelStudioParameters(Record):
    """Label Studio's JSON. `image_key` is the task's data that names the image."""

    image_key: _Column | None = None
    pass_over: Annotated[tuple[_Column, ...], Field(max_length=32)] = ()


class UrlsParameters(Record):
    """A text file with a URL in each line; all get `label`, when there is one."""

    label: Annotated[str, Field(max_length=200)] | None = None


class S3Parameters(Record):
    """A prefix in a store that the operator allowed. With `classes` the first folder is the class.

    What was taken before is not fetched again; what was refused is, with `retry_refused`.
    """

    url: Annotated[str, Field(min_length=1, max_length=400)]
    classes: bool = False
    retry_refused: bool = False


Parameters = (
    FolderParameters
    | ImagesParameters
    | CsvParameters
    | CocoParameters
    | YoloParameters
    | LabelStudioParameters
    | UrlsParameters
    | S3Parameters
)

KINDS: Final[Mapping[str, type[Parameters]]] = {
    "archive": FolderParameters,
    "images": ImagesParameters,
    "csv": CsvParameters,
    "coco": CocoParameters,
    "yolo": YoloParameters,
    "label-studio": LabelStudioParameters,
    "urls": UrlsParameters,
    "s3": S3Parameters,
}


def parse_parameters(kind: str, text: str) -> Parameters:
    """The checked parameters of an import. Raises InvalidInputError that names the one."""
    if kind not in KINDS:
        raise InvalidInputError(
            f"kind {kind[:40]!a} is not known; use one of {', '.join(KINDS)}", field="kind"
        )
    try:
        values = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(
            f"parameters is not JSON ({str(error)[:100]})", field="parameters"
        ) from None
    if not isinstance(values, dict):
        raise InvalidInputError("parameters must be a JSON object", field="parameters")
    return stored_parameters(kind, values)


def stored_parameters(kind: str, values: Mapping[str, Any]) -> Parameters:
    """The parameters from their stored form."""
    try:
        return KINDS[kind].model_validate_json(json.dumps(values))
    except (ValidationError, ValueError) as error:
        if not isinstance(error, ValidationError):
            raise InvalidInputError(f"parameters: {error}", field="parameters") from None
        first = error.errors(include_url=False)[0]
        field = ".".join(("parameters", *(str(part) for part in first["loc"])))
        known = ", ".join(KINDS[kind].model_fields)
        raise InvalidInputError(
            f"{field}: {first['msg']}; {kind} takes {known}", field=field
        ) from None

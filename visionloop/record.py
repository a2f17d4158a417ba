"""The base of every stored record (bundle.json, manifests, aliases), to bytes and back."""

import json
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from visionloop.errors import CorruptError

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class Record(BaseModel):
    """Immutable; unknown fields are an error, so that a newer format is never half understood."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


AnyRecord = TypeVar("AnyRecord", bound=Record)


def record_bytes(record: Record) -> bytes:
    """The record as indented JSON, for people as well."""
    return record.model_dump_json(indent=2).encode() + b"\n"


def parse_record(kind: type[AnyRecord], data: bytes, name: str) -> AnyRecord:
    """The record in `data`. Raises CorruptError that names `name` and the first wrong field."""
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise CorruptError(f"{name} {_what_is_wrong(kind, data, error)}") from None


def _what_is_wrong(kind: type[Record], data: bytes, error: ValidationError) -> str:
    version_field = kind.model_fields.get("format_version")
    if version_field is not None:
        try:
            found = json.loads(data).get("format_version")
        except (ValueError, AttributeError, RecursionError):
            found = None
        if found is not None and found != version_field.default:
            return (
                f"is of format version {found!r}, this program knows {version_field.default}; "
                "install the version of Visionloop that wrote it"
            )
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "its content"
    return f"is torn or not ours: {place}: {first['msg']}"

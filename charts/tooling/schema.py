"""values.schema.json, as strict as values.yaml says: a mistyped value ends `helm install`."""

import json
from pathlib import Path
from typing import Any

import yaml

from charts.tooling.programs import settings_schemas
from charts.tooling.values import Value

_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}
# What Helm adds to a chart's values: the umbrella's switch, and the library chart's key.
_HELMS_OWN: dict[str, Any] = {"enabled": {"type": "boolean"}, "common": {"type": "object"}}


def definitions() -> dict[str, Any]:
    """The shared definitions, with those that the programs' own flags make."""
    text = Path(__file__).with_name("definitions.yaml").read_text(encoding="utf-8")
    return {**yaml.safe_load(text), **settings_schemas()}


def schema_of(values: list[Value], subcharts: tuple[str, ...] = ()) -> dict[str, Any]:
    """The schema of one chart's values. Those of `subcharts` are judged by their own schemas.

    `global` is open, since it is shared with whatever charts of others stand beside ours.
    """
    shared = definitions()
    properties = {value.name: _schema(value, shared) for value in values}
    properties["global"]["additionalProperties"] = True
    for name in subcharts:
        properties[name] = {"type": "object"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "additionalProperties": False,
        "properties": {**properties, **_HELMS_OWN},
    }


def _schema(value: Value, shared: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {"description": value.description} if value.description else {}
    given = dict(value.schema)
    reference = given.pop("$ref", None)
    if reference is not None:
        if reference not in shared:
            raise ValueError(f"{value.path}: there is no definition {reference!r}")
        return {**made, **shared[reference], **given}
    if isinstance(value.default, dict):
        if not value.children and "type" not in given:
            raise ValueError(f"{value.path}: an empty mapping needs a @schema with its type")
        if value.children:
            made |= {
                "type": "object",
                "additionalProperties": False,
                "properties": {child.name: _schema(child, shared) for child in value.children},
            }
    elif "enum" not in given:
        made["type"] = _TYPES[type(value.default)]
    if isinstance(value.default, list) and "items" not in given:
        raise ValueError(f"{value.path}: a list needs a @schema with its items")
    return {**made, **given}


def as_text(schema: dict[str, Any]) -> str:
    """As it stands in the file."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"

"""The settings of the programs as JSON schemas, taken from the programs' own parsers.

A chart's `settings` may name what the program knows and the chart does not decide itself; a setting
that is new in the program is new in the chart with the next run of this tool. What a setting does
is told by the program and its page of docs, not here: words change more often than names.
"""

import argparse
from pathlib import Path
from typing import Any

from visionloop.flags import FlagParser, comma_separated, seconds
from visionloop_inference import flags as inference
from visionloop_labeling import flags as labeling
from visionloop_training.config import TrainingConfig, presets
from visionloop_training.config_source import NO_PRESET

_NOT_SETTINGS = frozenset({"config", "ready_file"})
# What the charts decide: other values of theirs, or what a pod must be.
INFERENCE_OWN = frozenset(
    {
        "store", "models", "cache", "host", "port", "http_port", "https_port", "insecure",
        "tls_certificate", "tls_key", "tls_client_ca", "tokens", "provider", "engine_cache",
        "shared_memory",
    }
)  # fmt: skip
LABELING_OWN = frozenset(
    {
        "store", "database", "inference", "inference_token_file", "inference_ca", "host",
        "http_port", "grpc_port", "probe_port", "insecure", "accounts", "tls_certificate",
        "tls_key", "trusted_proxies", "import_from", "import_networks", "import_ports",
    }
)  # fmt: skip


def settings_schemas() -> dict[str, Any]:
    """By the name that values.yaml refers to them by."""
    return {
        "inferenceSettings": _schema(inference.parser(), INFERENCE_OWN),
        "labelingSettings": _schema(labeling.parser(), LABELING_OWN),
        "trainingPreset": {"enum": ["", NO_PRESET, *presets()]},
        "trainingConfig": _inlined(TrainingConfig.model_json_schema()),
    }


def _schema(parser: FlagParser, own: frozenset[str]) -> dict[str, Any]:
    properties = {
        name.replace("_", "-"): _property(flag)
        for name, flag in parser.flags().items()
        if name not in _NOT_SETTINGS | own
    }
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _property(flag: argparse.Action) -> dict[str, Any]:
    if flag.choices is not None:
        return {"enum": list(flag.choices)}
    if isinstance(flag, argparse._StoreTrueAction):
        return {"type": "boolean"}
    types: dict[Any, dict[str, Any]] = {
        int: {"type": "integer"},
        float: {"type": "number"},
        seconds: {"type": "number"},
        comma_separated: {"type": "array", "items": {"type": "string"}},
        Path: {"type": "string"},
        None: {"type": "string"},
    }
    return types[flag.type]


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """A pydantic schema without references, since it becomes a part of another."""
    named: dict[str, Any] = schema.pop("$defs", {})

    def replaced(node: Any) -> Any:
        if isinstance(node, list):
            return [replaced(one) for one in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return replaced(named[node["$ref"].rpartition("/")[2]])
        noise = ("title", "default", "description")
        return {
            name: replaced(value)
            for name, value in node.items()
            if not (name in noise and not isinstance(value, dict)) and name != "default"
        }

    found: dict[str, Any] = replaced(schema)
    return found

"""Kubernetes' own schemas, strict, for 1.30 to 1.37: what an API server would say of an object.

The schemas are those in the PyPI package kubernetes-validate, whose wheel is fetched into
build/tools and read where it lies. Kinds of others (prometheus-operator, KEDA, Gateway API, …) have
schemas in tests/charts/crds, which say where they come from.
"""

import json
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
from support.helm import downloaded

PACKAGE, VERSION = "kubernetes-validate", "1.37.0"
CRDS = Path(__file__).parents[1] / "charts" / "crds"
_FOLDER = "kubernetes_validate/kubernetes-json-schema/v{}.0-local-strict/_definitions.json"
_URI = "urn:kubernetes"
_KINDS = "x-kubernetes-group-version-kind"


def errors(item: dict[str, Any], kubernetes: str) -> list[str]:
    """What is wrong with an object on this version ("1.37"), each with its place."""
    kind = item.get("apiVersion", ""), item.get("kind", "")
    validator = _crd(kind) or _built_in(kind, kubernetes)
    if validator is None:
        return [f"Kubernetes {kubernetes} has no kind {kind[1]} of {kind[0]}"]
    return [
        f"{'.'.join(map(str, error.instance_path))}: {error.message[:300]}"
        for error in validator.iter_errors(item)
    ]


@cache
def _built_in(kind: tuple[str, str], kubernetes: str) -> Any | None:
    definitions, names = _definitions(kubernetes)
    if kind not in names:
        return None
    registry = jsonschema_rs.Registry([(_URI, definitions)])
    reference = {"$ref": f"{_URI}#/$defs/{names[kind]}"}
    return jsonschema_rs.Draft202012Validator(reference, registry=registry)


@cache
def _definitions(kubernetes: str) -> tuple[dict[str, Any], dict[tuple[str, str], str]]:
    with zipfile.ZipFile(_wheel()) as archive:
        definitions = json.loads(archive.read(_FOLDER.format(kubernetes)))
    names = {}
    for name, definition in definitions["$defs"].items():
        for one in definition.get(_KINDS, ()):
            version = f"{one['group']}/{one['version']}" if one["group"] else one["version"]
            names[version, one["kind"]] = name
    return definitions, names


@cache
def _wheel() -> Path:
    return downloaded(PACKAGE, VERSION)


@cache
def _crd(kind: tuple[str, str]) -> Any | None:
    path = CRDS / f"{kind[0].replace('/', '_')}_{kind[1]}.json"
    if not path.exists():
        return None
    return jsonschema_rs.Draft202012Validator(json.loads(path.read_text(encoding="utf-8")))

"""Where settings are read from: presets, YAML files and `--set a.b=value`, as one plain tree."""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from visionloop.errors import ConfigurationError, NotFoundError

NO_PRESET = "none"  # every setting at its own default


def presets() -> list[str]:
    """The names that `--preset` takes, beside `none`."""
    folder = resources.files("visionloop_training") / "presets"
    return sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name[-5:] == ".yaml")


def tree_of(preset: str | None, file: Path | None, overrides: Sequence[str]) -> dict[str, Any]:
    """The given settings, later sources over earlier ones; not validated yet.

    Raises NotFoundError for a missing file or preset, ConfigurationError for what is no settings.
    """
    tree: dict[str, Any] = {}
    if preset and preset != NO_PRESET:
        if preset not in presets():
            raise NotFoundError(
                f"--preset {preset}: there are {', '.join(presets())}, and {NO_PRESET}"
            )
        text = resources.files("visionloop_training").joinpath(f"presets/{preset}.yaml").read_text()
        _merge(tree, _mapping(text, f"preset {preset}"))
    if file:
        try:
            text = file.read_text(encoding="utf-8")
        except OSError as error:
            raise NotFoundError(f"--config: cannot read {file}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ConfigurationError(
                f"--config {file} is not UTF-8 text; save it as YAML in UTF-8", field="config"
            ) from error
        _merge(tree, _mapping(text, f"--config {file}"))
    for override in overrides:
        _merge(tree, _override(override))
    return tree


def _mapping(text: str, source: str) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        where = " ".join(str(error).split())
        raise ConfigurationError(f"{source} is not valid YAML: {where}", field="config") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigurationError(f"{source} is not a mapping of settings", field="config")
    return tree


def _override(text: str) -> dict[str, Any]:
    path, separator, value = text.partition("=")
    keys = path.strip().split(".")
    if not separator or not all(keys):
        raise ConfigurationError(f"--set {text}: write --set section.field=value", field="set")
    tree: Any = _parsed(value)
    for key in reversed(keys):
        tree = {key: tree}
    result: dict[str, Any] = tree
    return result


def _parsed(value: str) -> object:
    try:
        parsed: object = yaml.safe_load(value)
    except yaml.YAMLError:
        return value
    if isinstance(parsed, str):  # YAML 1.1 reads 1e-3 as a word
        try:
            return float(parsed)
        except ValueError:
            return parsed
    return parsed


def _merge(tree: dict[str, Any], other: dict[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        else:
            tree[key] = value

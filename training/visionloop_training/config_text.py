"""The configuration as people read it: commented YAML, and docs/training-settings.md."""

from collections.abc import Iterator

import yaml
from pydantic import BaseModel

TABLE_START, TABLE_END = "<!-- settings -->", "<!-- end of settings -->"


def rows_of(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """(field, default, description) of every setting, in order."""
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from rows_of(kind, f"{prefix}{name}.")
        else:
            yield prefix + name, _yaml(field.default), field.description or ""


def table_of(rows: list[tuple[str, str, str]]) -> str:
    """A Markdown table of settings between its two markers."""
    lines = ["| setting | default | what it does |", "| --- | --- | --- |"]
    lines += [f"| `{field}` | `{default}` | {text} |" for field, default, text in rows]
    return "\n".join([TABLE_START, *lines, TABLE_END])


def dump(config: BaseModel) -> str:
    """The effective configuration as YAML, each setting under its description as a comment."""
    lines: list[str] = []
    _dump(config, "", lines)
    return "\n".join(lines) + "\n"


def _dump(section: BaseModel, indent: str, lines: list[str]) -> None:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            lines += ["", f"{indent}# {(type(value).__doc__ or '').splitlines()[0]}"]
            lines.append(f"{indent}{name}:")
            _dump(value, indent + "  ", lines)
        else:
            lines += [f"{indent}# {field.description}", f"{indent}{name}: {_yaml(value)}"]


def _yaml(value: object) -> str:
    plain = [list(one) if isinstance(one, tuple) else one for one in value] if isinstance(
        value, list
    ) else value  # fmt: skip
    return yaml.safe_dump(plain, default_flow_style=True, width=1000).split("\n", 1)[0]

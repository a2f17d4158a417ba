"""A chart's values.yaml, read with its comments: the one place where a value is declared.

A comment above a key describes it. A line `@schema {…}` in it narrows the JSON schema beyond the
type of the default: `{enum: [a, b]}`, `{items: {type: string}}`, or `{$ref: labels}` for a shared
definition (definitions.yaml).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

MARK = "@schema"


@dataclass(frozen=True, slots=True)
class Value:
    """One key of values.yaml. `path` is dotted; `children` are those of a mapping without $ref."""

    path: str
    default: Any
    description: str
    schema: dict[str, Any]
    children: list["Value"] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition(".")[2]

    def walk(self) -> Iterator["Value"]:
        """This value and all below, in the order of the file."""
        yield self
        for child in self.children:
            yield from child.walk()


def read_values(path: Path) -> list[Value]:
    """The top values of a file. Raises ValueError naming what is wrong in it."""
    text = path.read_text(encoding="utf-8")
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    if node is None:
        return []
    if not isinstance(node, yaml.MappingNode):
        raise ValueError(f"{path} must hold names and values")
    return _children(node, yaml.safe_load(text), text.splitlines(), "")


def _children(node: yaml.MappingNode, defaults: Any, lines: list[str], prefix: str) -> list[Value]:
    return [_value(key, value, defaults[key.value], lines, prefix) for key, value in node.value]


def _value(key: yaml.Node, node: yaml.Node, default: Any, lines: list[str], prefix: str) -> Value:
    path = f"{prefix}{key.value}"
    description, schema = _comment(lines, key.start_mark.line, key.start_mark.column, path)
    below = []
    # A shared definition describes its keys; those of `image` are in the table, each, all the same.
    if isinstance(node, yaml.MappingNode) and schema.get("$ref", "image") == "image":
        below = _children(node, default, lines, f"{path}.")
    return Value(path, default, description, schema, below)


def _comment(lines: list[str], line: int, column: int, path: str) -> tuple[str, dict[str, Any]]:
    """What stands right above a key, at its indentation: the description, and the schema."""
    comment: list[str] = []
    for above in reversed(lines[:line]):
        if not above.startswith(" " * column + "#"):
            break
        comment.insert(0, above.strip().removeprefix("#").strip())
    schema: dict[str, Any] = {}
    words = []
    for text in comment:
        if text.startswith(MARK):
            try:
                schema |= yaml.safe_load(text.removeprefix(MARK))
            except (yaml.YAMLError, TypeError) as error:
                raise ValueError(f"{path}: {text} is no YAML mapping: {error}") from error
        else:
            words.append(text)
    return " ".join(words), schema

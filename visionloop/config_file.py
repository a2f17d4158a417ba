"""A program's settings in one YAML file: the names of its flags, each with a plain value.

    store: s3://models/production
    max-batch: 16            # max_batch is the same
    models: [cells, panels]

It is a flat list on purpose: one schema for the command line, the environment and the file, so
that `--help` documents all three. What the file says is checked strictly, with its line: a name
nobody knows, a name given twice, and a value of another type ("16" is no number) are mistakes that
would otherwise be found out in production. Needs PyYAML, which comes with the programs' extras.
"""

from dataclasses import dataclass
from pathlib import Path

import yaml

from visionloop.errors import ConfigurationError

MAX_BYTES = 2**20

Scalar = str | int | float | bool
Value = Scalar | list[Scalar]


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the file. `name` is the flag's name as a Python name (max_batch)."""

    path: Path
    line: int
    written: str  # the name as it stands in the file
    value: Value

    def wrong(self, wanted: str) -> ConfigurationError:
        """The error for a value that is not what it should be."""
        shown = f"the text {self.value!r}" if isinstance(self.value, str) else repr(self.value)
        return ConfigurationError(
            f"{self.path}, line {self.line}: {self.written} is {shown}; it must be {wanted}",
            field=self.written.replace("-", "_"),
        )


def read_config_file(path: Path) -> dict[str, Entry]:
    """The entries by name. Raises ConfigurationError naming the file and the line."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1).decode()
    except OSError as error:
        raise ConfigurationError(
            f"--config {path} cannot be read: {error.strerror}", field="config"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"--config {path} is not UTF-8 text", field="config") from error
    if len(text) > MAX_BYTES:
        raise ConfigurationError(
            f"--config {path} is larger than {MAX_BYTES} bytes; is it the right file?",
            field="config",
        )
    try:
        root = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{_place(path, error)} is not YAML", field="config") from error
    if root is None or root.tag == "tag:yaml.org,2002:null":  # empty, or comments alone
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise ConfigurationError(
            f"{path} must hold names and values, as `max-batch: 16`", field="config"
        )
    return _entries(path, root)


def _entries(path: Path, root: yaml.MappingNode) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for key, node in root.value:
        line = key.start_mark.line + 1
        name = str(key.value).replace("-", "_")
        entry = Entry(path, line, str(key.value), _value(path, line, str(key.value), node))
        if name in entries:
            raise ConfigurationError(
                f"{path}, line {line}: {entry.written} stands in line {entries[name].line} "
                "already; leave one",
                field=name,
            )
        entries[name] = entry
    return entries


def _value(path: Path, line: int, name: str, node: yaml.Node) -> Value:
    if isinstance(node, yaml.SequenceNode):
        return [_scalar(path, line, name, item) for item in node.value]
    return _scalar(path, line, name, node)


def _scalar(path: Path, line: int, name: str, node: yaml.Node) -> Scalar:
    value: object = None
    if isinstance(node, yaml.ScalarNode):
        try:
            value = yaml.constructor.SafeConstructor().construct_object(node)
        except (yaml.YAMLError, ValueError):  # a tag of another program, an impossible date
            value = None
    if not isinstance(value, str | int | float | bool):
        raise ConfigurationError(
            f"{path}, line {line}: {name} must have a text, a number, true or false, or a list of "
            "these; leave the line out for the default",
            field=name.replace("-", "_"),
        )
    return value


def _place(path: Path, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f"{path}" if mark is None else f"{path}, line {mark.line + 1},"

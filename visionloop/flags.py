"""Flags of the programs: argparse with environment variables, and mistakes as ConfigurationError.

Every flag can be given as VISIONLOOP_<FLAG> instead, which is how a pod is configured, and, where a
program has `--config`, in its YAML file. The command line wins over the environment, which wins
over the file. What all servers share (ports, where to listen, the ready file) is checked here.
"""

import argparse
import ipaddress
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import visionloop
from visionloop.disk_space import room_for
from visionloop.errors import ConfigurationError
from visionloop.objectstore.local import written_whole

if TYPE_CHECKING:
    from visionloop.config_file import Entry

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


class StrictParser(argparse.ArgumentParser):
    """An ArgumentParser whose mistakes are errors of the suite: one line and exit code 64.

    Names are never abbreviated: a flag added later would make a short form mean something else.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        """Raises ConfigurationError instead of printing the usage and exiting with 2."""
        raise ConfigurationError(f"{message}; see {self.prog} --help")


class FlagParser(StrictParser):
    """The parser of one program. Help shows defaults and speaks of the environment.

    A program that adds `--config` (of type Path) takes a file of settings by it.
    """

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog="Each flag can be given as an environment variable: VISIONLOOP_<FLAG>.",
            formatter_class=_HelpFormatter,
        )
        self.register("type", Path, _path)
        self.add_argument("--version", action="version", version=f"{prog} {visionloop.__version__}")

    def flags(self) -> dict[str, argparse.Action]:
        """All flags but --help and --version, by their names as Python names (max_batch)."""
        return {
            action.dest: action
            for action in self._actions
            if action.option_strings and action.dest not in ("help", "version")
        }

    def parse(
        self, arguments: Sequence[str], environment: Mapping[str, str] = os.environ
    ) -> argparse.Namespace:
        """The values: command line, else environment, else the file, else default.

        Raises ConfigurationError; `--help` and `--version` print and exit as usual.
        """
        flags = self.flags()
        file = (
            None
            if {"-h", "--help", "--version"} & set(arguments)
            else _config(flags, arguments, environment)
        )
        if file is not None:
            _take_file(file, flags)
        for action in flags.values():
            value = environment.get(_variable(action))
            if value is not None:
                action.required = False
                action.default = _from_environment(action, value)
        return self.parse_args(arguments)


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults where there is something to show."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        nothing = action.required or action.default in (None, ())
        return action.help if nothing else super()._get_help_string(action)


def _variable(action: argparse.Action) -> str:
    return f"VISIONLOOP_{action.dest.upper()}"


def _is_switch(action: argparse.Action) -> bool:
    return isinstance(action, argparse.BooleanOptionalAction | argparse._StoreTrueAction)


def _from_environment(action: argparse.Action, value: str) -> object:
    name = _variable(action)
    if _is_switch(action):
        if value.lower() not in _TRUE | _FALSE:
            raise ConfigurationError(f"{name} is {value!r}; use 1 or 0", field=action.dest)
        return value.lower() in _TRUE
    if action.choices is not None and value not in action.choices:
        choices = ", ".join(map(str, action.choices))
        raise ConfigurationError(
            f"{name} is {value!r}; it must be one of {choices}", field=action.dest
        )
    for number, wanted in _NUMBERS:
        if action.type is number:
            try:
                number(value)  # here, because argparse would name the flag that nobody gave
            except ValueError:
                raise ConfigurationError(
                    f"{name} is {value!r}; it must be {wanted}", field=action.dest
                ) from None
    return value  # argparse converts string defaults with the action's type


def _config(
    flags: Mapping[str, argparse.Action], arguments: Sequence[str], environment: Mapping[str, str]
) -> Path | None:
    """The file of settings that the command line or the environment names."""
    if "config" not in flags:
        return None
    first = StrictParser(add_help=False)
    first.add_argument("--config", default=environment.get(_variable(flags["config"])))
    named: str | None = first.parse_known_args(arguments)[0].config
    return Path(named) if named else None


def _take_file(path: Path, flags: Mapping[str, argparse.Action]) -> None:
    """Makes what the file says the defaults."""
    from visionloop.config_file import read_config_file  # PyYAML is no part of the bare install

    for name, entry in read_config_file(path).items():
        action = flags.get(name)
        if action is None or name == "config":
            raise ConfigurationError(
                f"{path}, line {entry.line}: {entry.written} is no setting of this program; there "
                f"are: {', '.join(sorted(set(flags) - {'config'}))}",
                field=name,
            )
        action.required = False
        action.default = _from_file(action, entry)


def _from_file(action: argparse.Action, entry: "Entry") -> object:
    """The value in its type; texts are left to the action's own type, as argparse does."""
    value = entry.value
    if _is_switch(action):
        if not isinstance(value, bool):
            raise entry.wrong("true or false")
        return value
    if isinstance(value, bool):
        raise entry.wrong(
            "a number" if action.type in (int, float, seconds) else "a text in quotes"
        )
    if action.type is int:
        if not isinstance(value, int):
            raise entry.wrong("a whole number")
        return value
    if action.type in (float, seconds):
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise entry.wrong("a number")
        return float(value)
    return _text_from_file(action, entry)


def _text_from_file(action: argparse.Action, entry: "Entry") -> str:
    value = entry.value
    if isinstance(value, list) and action.type is comma_separated:
        value = ",".join(map(str, value))
    if not isinstance(value, str):
        raise entry.wrong("a text in quotes")
    if action.choices is not None and value not in action.choices:
        raise entry.wrong(f"one of {', '.join(map(str, action.choices))}")
    return value


def comma_separated(text: str) -> tuple[str, ...]:
    """The type of flags that take several names: `a, b` on the command line, a list in a file."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _path(text: str) -> Path:
    """What type=Path means here: Path("") would be the folder that the program was started in."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty; leave the flag out for the default")
    return Path(text)


def seconds(text: str) -> float:
    """The type of flags that are a time. Endless is a mistake, not a wish."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


_NUMBERS: tuple[tuple[Callable[[str], float], str], ...] = (
    (int, "a whole number"), (float, "a number"), (seconds, "a number of seconds"),
)  # fmt: skip


def check_port(name: str, port: int) -> None:
    """Raises ConfigurationError unless 0 (any free one) to 65535. `name` is the flag's."""
    if not 0 <= port <= 65535:
        raise ConfigurationError(
            f"--{name} is {port}; a port is 0 (any free one) to 65535",
            field=name.replace("-", "_"),
        )


def check_above_zero(name: str, value: float) -> None:
    """Raises ConfigurationError unless above 0. `name` is the flag's."""
    if not value > 0:
        raise ConfigurationError(
            f"--{name} is {value}; it must be above 0", field=name.replace("-", "_")
        )


def check_range(name: str, value: float, least: float, most: float) -> None:
    """Raises ConfigurationError unless `least` to `most`, both allowed. `name` is the flag's."""
    if not least <= value <= most:  # NaN is not, either
        raise ConfigurationError(
            f"--{name} is {value}; it must be {least:.10g} to {most:.10g}",
            field=name.replace("-", "_"),
        )


def check_host(host: str, *, insecure: bool, lacks: str = "TLS and authentication") -> None:
    """Refuses to listen beyond this machine as long as something is lacking, unless told to.

    `lacks` is what this server is without; "" is nothing.
    """
    if lacks and not is_loopback(host) and not insecure:
        raise ConfigurationError(
            f"--host {host} is reachable from other machines, and this server is without {lacks}; "
            "add --insecure if the network around it is trusted",
            field="host",
        )


def is_loopback(host: str) -> bool:
    """True for localhost and the addresses that never leave this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def endpoint(host: str, port: int) -> str:
    """HOST:PORT; an IPv6 address gets its brackets where it came without: [::]:8001."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def write_ready_file(path: Path, addresses: Mapping[str, str]) -> None:
    """Tells others, in one step, that this program listens: {"pid": …, "grpc": …, "http": …}.

    Raises ConfigurationError where it cannot be written.
    """
    try:
        with room_for(path, setting="--ready-file"), written_whole(path) as file:
            file.write(json.dumps({"pid": os.getpid(), **addresses}).encode())
    except OSError as error:
        raise ConfigurationError(
            f"--ready-file {path} cannot be written: {error.strerror}", field="ready_file"
        ) from error

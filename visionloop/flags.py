"""Flags of the programs: argparse with environment variables, and mistakes as ConfigurationError.

Every flag can be given as VISIONLOOP_<FLAG> instead, which is how a pod is configured; the command
line wins. What all servers share (ports, where to listen, the ready file) is checked here.
"""

import argparse
import ipaddress
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from visionloop.errors import ConfigurationError
from visionloop.objectstore.local import written_whole

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


class StrictParser(argparse.ArgumentParser):
    """An ArgumentParser whose mistakes are errors of the suite: one line and exit code 64."""

    def error(self, message: str) -> NoReturn:
        """Raises ConfigurationError instead of printing the usage and exiting with 2."""
        raise ConfigurationError(f"{message}; see {self.prog} --help")


class FlagParser(StrictParser):
    """The parser of one program. Help shows defaults and speaks of the environment."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog="Each flag can be given as an environment variable: VISIONLOOP_<FLAG>.",
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )

    def parse(
        self, arguments: Sequence[str], environment: Mapping[str, str] = os.environ
    ) -> argparse.Namespace:
        """The values: command line, else environment, else default.

        Raises ConfigurationError; `--help` prints and exits as usual.
        """
        for action in self._actions:
            value = environment.get(f"VISIONLOOP_{action.dest.upper()}")
            if value is not None and action.option_strings and action.dest != "help":
                action.required = False
                action.default = _from_environment(action, value)
        return self.parse_args(arguments)


def _from_environment(action: argparse.Action, value: str) -> object:
    name = f"VISIONLOOP_{action.dest.upper()}"
    if isinstance(action, argparse.BooleanOptionalAction | argparse._StoreTrueAction):
        if value.lower() not in _TRUE | _FALSE:
            raise ConfigurationError(f"{name} is {value!r}; use 1 or 0", field=action.dest)
        return value.lower() in _TRUE
    if action.choices is not None and value not in action.choices:
        choices = ", ".join(map(str, action.choices))
        raise ConfigurationError(
            f"{name} is {value!r}; it must be one of {choices}", field=action.dest
        )
    return value  # argparse converts string defaults with the action's type


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


def check_host(host: str, *, insecure: bool) -> None:
    """Refuses to listen beyond this machine, without TLS and authentication, unless told to."""
    if not is_loopback(host) and not insecure:
        raise ConfigurationError(
            f"--host {host} is reachable from other machines, and this server has neither TLS nor "
            "authentication; add --insecure if the network around it is trusted",
            field="host",
        )


def is_loopback(host: str) -> bool:
    """True for localhost and the addresses that never leave this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def write_ready_file(path: Path, addresses: Mapping[str, str]) -> None:
    """Tells others, in one step, that this program listens: {"pid": …, "grpc": …, "http": …}."""
    with written_whole(path) as file:
        file.write(json.dumps({"pid": os.getpid(), **addresses}).encode())

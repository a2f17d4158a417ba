"""The service's flags: every knob, its default, and why the default is what it is.

A flag that is not given falls back to the environment variable VISIONLOOP_<FLAG> (as
VISIONLOOP_GRPC_PORT). Nothing else in this package reads the command line or the environment.
"""

import argparse
import ipaddress
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final, NoReturn

from visionloop.errors import ConfigurationError
from visionloop.images import Limits
from visionloop_labeling.grpc_api import MAX_MESSAGE_BYTES

_LIMITS: Final = Limits()
_TRUE: Final = {"1", "true", "yes", "on"}
_FALSE: Final = {"0", "false", "no", "off", ""}


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line said. Sizes in bytes unless named otherwise."""

    store: str
    database: str
    host: str
    http_port: int
    grpc_port: int
    insecure: bool
    ready_file: Path | None
    max_image_bytes: int
    max_image_pixels: int
    drain_seconds: float
    log_json: bool | None

    @property
    def limits(self) -> Limits:
        """What an image may be."""
        return Limits(max_bytes=self.max_image_bytes, max_pixels=self.max_image_pixels)

    def check(self) -> None:
        """Raises ConfigurationError for values that cannot work."""
        for name in ("http_port", "grpc_port"):
            if not 0 <= getattr(self, name) <= 65535:
                raise ConfigurationError(
                    f"--{name.replace('_', '-')} is {getattr(self, name)}; "
                    "a port is 0 (any free one) to 65535",
                    field=name,
                )
        for name in ("max_image_bytes", "max_image_pixels", "drain_seconds"):
            if getattr(self, name) <= 0:
                raise ConfigurationError(
                    f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be above 0",
                    field=name,
                )
        if self.max_image_bytes > MAX_MESSAGE_BYTES // 2:
            raise ConfigurationError(
                f"--max-image-bytes is {self.max_image_bytes}; the limit is "
                f"{MAX_MESSAGE_BYTES // 2}, half of the largest gRPC message",
                field="max_image_bytes",
            )
        if not is_loopback(self.host) and not self.insecure:
            raise ConfigurationError(
                f"--host {self.host} is reachable from other machines, and this service has "
                "neither TLS nor authentication; add --insecure if its network is trusted",
                field="host",
            )


def is_loopback(host: str) -> bool:
    """True for localhost and the addresses that never leave this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(f"{message}; see {self.prog} --help")


def parse(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> Settings:
    """The checked settings. Raises ConfigurationError; `--help` prints and exits as usual."""
    parser = _parser()
    for action in parser._actions:
        value = environment.get(f"VISIONLOOP_{action.dest.upper()}")
        if value is not None and action.option_strings and action.dest != "help":
            action.required = False
            action.default = _from_environment(action, value)
    values = vars(parser.parse_args(arguments))
    settings = Settings(**{field.name: values[field.name] for field in fields(Settings)})
    settings.check()
    return settings


def _from_environment(action: argparse.Action, value: str) -> object:
    if not isinstance(action, argparse.BooleanOptionalAction | argparse._StoreTrueAction):
        return value  # argparse converts string defaults with the action's type
    if value.lower() not in _TRUE | _FALSE:
        raise ConfigurationError(
            f"VISIONLOOP_{action.dest.upper()} is {value!r}; use 1 or 0", field=action.dest
        )
    return value.lower() in _TRUE


def _parser() -> _Parser:
    parser = _Parser(
        prog="visionloop-labeling",
        description="Takes images and labels over HTTP and gRPC, and cuts dataset snapshots.",
        epilog="Each flag can be given as an environment variable: VISIONLOOP_<FLAG>.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--store", required=True, help="file:///folder or s3://bucket/prefix for images, snapshots")
    add(
        "--database",
        required=True,
        help="sqlite:///path/to/file for one replica, postgresql://user@host/name for several",
    )
    add("--host", default="127.0.0.1", help="address to listen on")
    add("--http-port", type=int, default=8080, help="API and metrics; 0 takes a free one")
    add("--grpc-port", type=int, default=8081, help="gRPC port; 0 takes a free one")
    add("--insecure", action="store_true", help="allow other addresses than loopback")
    add("--ready-file", type=Path, help="written as JSON (pid, grpc, http) once it listens")
    add("--max-image-bytes", type=int, default=_LIMITS.max_bytes, help="largest encoded image")
    add("--max-image-pixels", type=int, default=_LIMITS.max_pixels, help="largest decoded image")
    add(
        "--drain-seconds",
        type=float,
        default=25.0,  # below the 30 seconds that Kubernetes grants
        help="longest time after SIGTERM for what has been received",
    )
    add(
        "--log-json",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="JSON log lines; default: only when stderr is not a terminal",
    )
    return parser

"""What the settings of both servers share: who may reach them, how they drain, what they log.

A server's own settings are a frozen dataclass that adds its knobs to `ServerSettings`; its module
`flags` declares them for the command line, which the environment and the file of `--config` follow
(visionloop.flags).
"""

import argparse
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

from visionloop.errors import ConfigurationError
from visionloop.flags import (
    FlagParser,
    check_above_zero,
    check_host,
    check_range,
    is_loopback,
    seconds,
)
from visionloop.telemetry.logs import redacted_text


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """The values in force. Times in seconds, sizes in bytes unless named otherwise."""

    store: str
    host: str
    ready_file: Path | None
    insecure: bool
    tls_certificate: Path | None
    tls_key: Path | None
    drain_seconds: float
    drain_quiet_seconds: float
    access_log: float
    config: Path | None

    @classmethod
    def of(cls, values: argparse.Namespace) -> Self:
        """The settings among the values that a parser of all their flags gave; not checked."""
        return cls(**{field.name: getattr(values, field.name) for field in fields(cls)})

    @property
    def tls(self) -> bool:
        """Connections are encrypted."""
        return self.tls_certificate is not None

    @property
    def loopback(self) -> bool:
        """Only this machine reaches the server."""
        return is_loopback(self.host)

    def check_server(self, *, authentication: str) -> None:
        """Raises ConfigurationError for values that no server can work with.

        `authentication` names the flags that would ask callers who they are, "" where they are
        asked: without it or without TLS, a server listens beyond this machine only if told so.
        """
        check_range("access-log", self.access_log, 0.0, 1.0)
        if (self.tls_certificate is None) != (self.tls_key is None):
            given, missing = ("key", "certificate") if self.tls_key else ("certificate", "key")
            raise ConfigurationError(
                f"--tls-{given} is given without --tls-{missing}; TLS needs both",
                field=f"tls_{missing}",
            )
        lacking = [] if self.tls else ["TLS (--tls-certificate, --tls-key)"]
        if authentication:
            lacking.append(f"authentication ({authentication})")
        check_host(self.host, insecure=self.insecure, lacks=" and ".join(lacking))
        check_above_zero("drain-seconds", self.drain_seconds)
        if not 0 <= self.drain_quiet_seconds <= self.drain_seconds / 2:
            raise ConfigurationError(
                f"--drain-quiet-seconds {self.drain_quiet_seconds} must lie between 0 and half of "
                f"--drain-seconds {self.drain_seconds}",
                field="drain_quiet_seconds",
            )

    def in_force(self) -> dict[str, object]:
        """All values for a log, without secrets."""
        return {field.name: _shown(getattr(self, field.name)) for field in fields(self)}


def add_config(parser: FlagParser, example: str) -> None:
    """`--config`; `example` is a line of such a file."""
    parser.add_argument(
        "--config",
        type=Path,
        help=f"YAML file with any of these settings by name ({example}); the command line and "
        "the environment win over it",
    )


def add_operations(group: argparse._ArgumentGroup, drained: str) -> None:
    """The flags of a server's end and of its access log; `drained` says what its end waits for."""
    add = group.add_argument
    add(
        "--drain-seconds",
        type=seconds,
        default=25.0,  # Kubernetes kills after 30
        help=drained,
    )
    add(
        "--drain-quiet-seconds",
        type=seconds,
        default=1.0,
        help="after SIGTERM, serve on until no request has come for so long",
    )
    add(
        "--access-log",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of the requests that are logged, 0 to 1; failed ones are logged anyway, at "
        "most 10 a second",
    )


def _shown(value: object) -> object:
    if isinstance(value, str):
        return redacted_text(value)
    return list(value) if isinstance(value, tuple) else value

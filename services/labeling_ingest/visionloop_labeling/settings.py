"""The service's settings: every knob, its default, and why the default is what it is.

A value comes from the command line, else from the environment (VISIONLOOP_GRPC_PORT), else from the
YAML file of `--config` (grpc-port or grpc_port), else it is the default. Nothing else in this
package reads the command line, the environment or that file.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

from visionloop.errors import ConfigurationError
from visionloop.flags import (
    FlagParser,
    check_above_zero,
    check_host,
    check_port,
    comma_separated,
    is_loopback,
    seconds,
)
from visionloop.images import Limits
from visionloop.telemetry.logs import redacted_text
from visionloop_labeling.engines import DEFAULT_CONNECTIONS
from visionloop_labeling.grpc_api import MAX_MESSAGE_BYTES
from visionloop_labeling.import_rules import check_prefixes, fetch_rules
from visionloop_labeling.safe_fetch import FetchRules

_LIMITS: Final = Limits()


@dataclass(frozen=True, slots=True)
class Settings:
    """The values in force. Times in seconds, sizes in bytes unless named otherwise."""

    store: str
    database: str
    database_connections: int
    inference: str
    inference_token_file: Path | None
    inference_ca: Path | None
    host: str
    http_port: int
    grpc_port: int
    probe_port: int | None
    ready_file: Path | None
    trusted_proxies: tuple[str, ...]
    insecure: bool
    accounts: bool
    tls_certificate: Path | None
    tls_key: Path | None
    requests_per_second: float
    daily_images: int
    daily_bytes: int
    max_import_bytes: int
    import_from: tuple[str, ...]
    import_networks: tuple[str, ...]
    import_ports: tuple[str, ...]
    max_image_bytes: int
    max_image_pixels: int
    inspectors: int
    drain_seconds: float
    drain_quiet_seconds: float
    access_log: float
    config: Path | None

    @property
    def tls(self) -> bool:
        """Connections are encrypted."""
        return self.tls_certificate is not None

    @property
    def loopback(self) -> bool:
        """Only this machine reaches the service."""
        return is_loopback(self.host)

    @property
    def limits(self) -> Limits:
        """What an image may be."""
        return Limits(max_bytes=self.max_image_bytes, max_pixels=self.max_image_pixels)

    @property
    def fetch_rules(self) -> FetchRules:
        """What imports may fetch by URL. Raises ConfigurationError."""
        return fetch_rules(self.import_networks, self.import_ports, self.max_image_bytes)

    def check(self) -> None:
        """Raises ConfigurationError for values that cannot work."""
        check_prefixes(self.import_from)
        _ = self.fetch_rules
        check_port("http-port", self.http_port)
        check_port("grpc-port", self.grpc_port)
        if self.probe_port is not None:
            check_port("probe-port", self.probe_port)
        check_above_zero("max-image-bytes", self.max_image_bytes)
        check_above_zero("max-image-pixels", self.max_image_pixels)
        check_above_zero("inspectors", self.inspectors)
        check_above_zero("database-connections", self.database_connections)
        check_above_zero("max-import-bytes", self.max_import_bytes)
        self._check_drain()
        self._check_ranges()
        self._check_tls()
        check_host(self.host, insecure=self.insecure, lacks=self._lacks())
        if self.max_image_bytes > MAX_MESSAGE_BYTES // 2:
            raise ConfigurationError(
                f"--max-image-bytes is {self.max_image_bytes}; the limit is "
                f"{MAX_MESSAGE_BYTES // 2}, half of the largest gRPC message",
                field="max_image_bytes",
            )

    def _check_ranges(self) -> None:
        for name, least, most in (
            ("requests_per_second", 0.0, 1e6),
            ("daily_images", 0, 10**12),
            ("daily_bytes", 0, 10**18),
            ("access_log", 0.0, 1.0),
        ):
            value = getattr(self, name)
            if not least <= value <= most:  # NaN is not, either
                raise ConfigurationError(
                    f"--{name.replace('_', '-')} is {value}; it must be {least:g} to {most:g}",
                    field=name,
                )

    def _check_drain(self) -> None:
        check_above_zero("drain-seconds", self.drain_seconds)
        if not 0 <= self.drain_quiet_seconds <= self.drain_seconds / 2:
            raise ConfigurationError(
                f"--drain-quiet-seconds {self.drain_quiet_seconds} must lie between 0 and half of "
                f"--drain-seconds {self.drain_seconds}",
                field="drain_quiet_seconds",
            )

    def _check_tls(self) -> None:
        if (self.tls_certificate is None) != (self.tls_key is None):
            given, missing = ("key", "certificate") if self.tls_key else ("certificate", "key")
            raise ConfigurationError(
                f"--tls-{given} is given without --tls-{missing}; TLS needs both",
                field=f"tls_{missing}",
            )

    def _lacks(self) -> str:
        """What keeps this service from being safe on a network."""
        lacking = []
        if not self.tls:
            lacking.append("TLS (--tls-certificate, --tls-key)")
        if not self.accounts:
            lacking.append("authentication (--accounts)")
        return " and ".join(lacking)

    def in_force(self) -> dict[str, object]:
        """All values for a log, in the order of --help, without secrets."""
        return {field.name: _shown(getattr(self, field.name)) for field in fields(self)}


def parse(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> Settings:
    """The checked settings. Raises ConfigurationError; `--help` prints and exits as usual."""
    values = vars(_parser().parse(arguments, environment))
    settings = Settings(**{field.name: values[field.name] for field in fields(Settings)})
    settings.check()
    return settings


def _shown(value: object) -> object:
    if isinstance(value, str):
        return redacted_text(value)
    return list(value) if isinstance(value, tuple) else value


def _parser() -> FlagParser:
    parser = FlagParser(
        "visionloop-labeling",
        "Takes images and labels over HTTP and gRPC, and cuts dataset snapshots. "
        "`visionloop-labeling account --help` tells of accounts, `migrate --help` of the tables; "
        "`visionloop-labeling doctor`, with the same flags, tries what it needs instead.",
    )
    parser.add_argument(
        "--config",
        type=Path,
        help="YAML file with any of these settings by name (grpc-port: 8081); the command line and "
        "the environment win over it",
    )
    _add_data(parser.add_argument_group("what is kept where"))
    _add_listening(parser.add_argument_group("where it listens"))
    _add_security(parser.add_argument_group("who may ask"))
    _add_imports(parser.add_argument_group("imports"))
    _add_limits(parser.add_argument_group("limits"))
    _add_operations(parser.add_argument_group("operations"))
    return parser


def _add_data(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--store", required=True, help="file:///folder or s3://bucket/prefix for images, snapshots")
    add(
        "--database",
        required=True,
        help="sqlite:///path/to/file for one replica, postgresql://user@host/name for several",
    )
    add(
        "--database-connections",
        type=int,
        default=DEFAULT_CONNECTIONS,
        help="most connections of this replica to Postgres; four times the default fit into its "
        "own default of 100",
    )
    add(
        "--inference",
        default="",
        metavar="HOST:PORT",
        help="the inference service to ask for suggestions; without it there are none",
    )
    add("--inference-token-file", type=Path, help="holds the bearer token that it wants")
    add("--inference-ca", type=Path, metavar="PEM", help="TLS to it, trusting these authorities")


def _add_listening(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--host", default="127.0.0.1", help="address to listen on, for all ports")
    add("--http-port", type=int, default=8080, help="pages, API and metrics; 0 takes a free one")
    add("--grpc-port", type=int, default=8081, help="gRPC port; 0 takes a free one")
    add(
        "--probe-port",
        type=int,
        help="another port, always plain and open to all, for /healthz, /readyz and /metrics alone "
        "(8082); 0 takes a free one, without it there is none",
    )
    add("--ready-file", type=Path, help="written as JSON (pid and addresses) once it listens")
    add(
        "--trusted-proxies",
        type=comma_separated,
        default=(),
        metavar="A,B",
        help="addresses or networks of reverse proxies, whose X-Forwarded-For and "
        "X-Forwarded-Proto are believed",
    )


def _add_security(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--insecure",
        action="store_true",
        help="allow other addresses than loopback without TLS or without accounts",
    )
    add(
        "--accounts",
        action="store_true",
        help="everybody signs in, people by password and programs by token; `visionloop-labeling "
        "account add NAME --role admin` makes the first account. Without it everybody who reaches "
        "the service may do everything",
    )
    add("--tls-certificate", type=Path, metavar="PEM", help="the server's certificate chain, for "
        "both ports; a renewed file is picked up by the next connection")  # fmt: skip
    add("--tls-key", type=Path, metavar="PEM", help="its private key")
    add(
        "--requests-per-second",
        type=float,
        default=100.0,  # a fast labeller with 24 previews a page sends about 30
        help="most requests of one account, ten seconds' worth at once; 0: no limit",
    )
    add(
        "--daily-images",
        type=int,
        default=0,
        help="most images that one account may send on a day (UTC); 0: no limit",
    )
    add("--daily-bytes", type=int, default=0, help="most bytes of images, likewise")


def _add_imports(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--import-from",
        type=comma_separated,
        default=(),
        metavar="URL,URL",
        help="prefixes that imports may read by this service's credentials: s3://bucket/prefix",
    )
    add(
        "--import-networks",
        type=comma_separated,
        default=(),
        metavar="A,B",
        help="networks beside the public Internet that imports may fetch URLs from, as 10.1.0.0/16",
    )
    add(
        "--import-ports",
        type=comma_separated,
        default=("80", "443"),
        metavar="N,N",
        help="ports that imports may fetch URLs from",
    )


def _add_limits(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--max-image-bytes", type=int, default=_LIMITS.max_bytes, help="largest encoded image")
    add("--max-image-pixels", type=int, default=_LIMITS.max_pixels, help="largest decoded image")
    add(
        "--max-import-bytes",
        type=int,
        default=20 * 2**30,
        help="largest file that an import may upload",
    )
    add(
        "--inspectors",
        type=int,
        # One more than cores, so that a page's preview never waits behind an import.
        default=len(os.sched_getaffinity(0)) + 1,
        help="processes that decode images; the largest allowed image takes 1.3 GB in one of them",
    )


def _add_operations(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--drain-seconds",
        type=seconds,
        default=25.0,  # below the 30 seconds that Kubernetes grants
        help="longest time after SIGTERM for what has been received",
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

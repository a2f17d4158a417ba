"""The service's flags: every knob, its default, and why the default is what it is.

A flag that is not given falls back to the environment variable VISIONLOOP_<FLAG> (as
VISIONLOOP_GRPC_PORT). Nothing else in this package reads the command line or the environment.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

from visionloop.errors import ConfigurationError
from visionloop.flags import FlagParser, check_above_zero, check_host, check_port
from visionloop.images import Limits
from visionloop_labeling.grpc_api import MAX_MESSAGE_BYTES

_LIMITS: Final = Limits()


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

    @property
    def limits(self) -> Limits:
        """What an image may be."""
        return Limits(max_bytes=self.max_image_bytes, max_pixels=self.max_image_pixels)

    def check(self) -> None:
        """Raises ConfigurationError for values that cannot work."""
        check_port("http-port", self.http_port)
        check_port("grpc-port", self.grpc_port)
        check_above_zero("max-image-bytes", self.max_image_bytes)
        check_above_zero("max-image-pixels", self.max_image_pixels)
        check_above_zero("drain-seconds", self.drain_seconds)
        check_host(self.host, insecure=self.insecure)
        if self.max_image_bytes > MAX_MESSAGE_BYTES // 2:
            raise ConfigurationError(
                f"--max-image-bytes is {self.max_image_bytes}; the limit is "
                f"{MAX_MESSAGE_BYTES // 2}, half of the largest gRPC message",
                field="max_image_bytes",
            )


def parse(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> Settings:
    """The checked settings. Raises ConfigurationError; `--help` prints and exits as usual."""
    values = vars(_parser().parse(arguments, environment))
    settings = Settings(**{field.name: values[field.name] for field in fields(Settings)})
    settings.check()
    return settings


def _parser() -> FlagParser:
    parser = FlagParser(
        "visionloop-labeling",
        "Takes images and labels over HTTP and gRPC, and cuts dataset snapshots.",
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
    return parser

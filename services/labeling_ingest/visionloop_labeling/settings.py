"""The service's settings, checked: what the flags declare (`flags`), typed and known to fit."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from visionloop.errors import ConfigurationError
from visionloop.flags import check_above_zero, check_port, check_range
from visionloop.images import Limits
from visionloop.server_settings import ServerSettings
from visionloop_labeling import flags
from visionloop_labeling.fetch_rules import FetchRules
from visionloop_labeling.grpc_api import MAX_MESSAGE_BYTES
from visionloop_labeling.import_rules import check_prefixes, fetch_rules


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(ServerSettings):
    """The values in force. Times in seconds, sizes in bytes unless named otherwise."""

    database: str
    database_connections: int
    inference: str
    inference_token_file: Path | None
    inference_ca: Path | None
    http_port: int
    grpc_port: int
    probe_port: int | None
    trusted_proxies: tuple[str, ...]
    accounts: bool
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
    snapshot_hours: float

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
        check_range("requests-per-second", self.requests_per_second, 0.0, 1e6)
        check_range("snapshot-hours", self.snapshot_hours, 0.0, 1e5)
        check_range("daily-images", self.daily_images, 0, 10**12)
        check_range("daily-bytes", self.daily_bytes, 0, 10**18)
        self.check_server(authentication="" if self.accounts else "--accounts")
        if self.max_image_bytes > MAX_MESSAGE_BYTES // 2:
            raise ConfigurationError(
                f"--max-image-bytes is {self.max_image_bytes}; the limit is "
                f"{MAX_MESSAGE_BYTES // 2}, half of the largest gRPC message",
                field="max_image_bytes",
            )


def parse(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> Settings:
    """The checked settings. Raises ConfigurationError; `--help` prints and exits as usual."""
    settings = Settings.of(flags.parser().parse(arguments, environment))
    settings.check()
    return settings

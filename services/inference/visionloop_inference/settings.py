"""The service's settings, checked: what the flags declare (`flags`), typed and known to fit.

Nothing else in this package reads the command line, the environment or the file of `--config`.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from visionloop.bundle import MODEL_NAME_PATTERN
from visionloop.errors import ConfigurationError
from visionloop.flags import check_above_zero, check_port, check_range
from visionloop.server_settings import ServerSettings
from visionloop_inference import flags
from visionloop_inference.machine import cores, memory
from visionloop_inference.version_policy import VersionPolicy

# One front end parses and decodes for so many cores: beside graphs that take their share of them,
# and where a GPU runs the graphs.
ONE_FRONT_END_CORES, ONE_BESIDE_A_GPU = 4, 2
# What one takes beside the requests that it holds: 80 MB when it starts, 100 MB under load.
FRONT_END_BYTES = 128 * 2**20
MOST_FRONT_ENDS = 64
# What a decoder takes: 30 MB of its own when it starts, up to twice as much under load.
DECODER_BYTES = 96 * 2**20
MOST_DECODERS = 256
# In one request: each is looked at by itself, on an event loop that answers others, too.
MOST_IMAGES = 16_384
# Of one message: gRPC and protobuf count its bytes in 32 bits.
MOST_MESSAGE_BYTES = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(ServerSettings):
    """The values in force. Times in seconds, sizes in bytes unless named otherwise."""

    models: tuple[str, ...]
    version_policy: str
    model_control: str
    cache: Path | None
    poll_seconds: float
    port: int
    http_port: int
    https_port: int
    tls_client_ca: Path | None
    tokens: Path | None
    shared_memory: bool
    front_ends: int
    instances: int
    provider: str
    threads: int
    decode_threads: int
    decode_processes: int
    max_batch: int
    pad: str
    engine_cache: Path | None
    queue_rows: int
    queue_bytes: int
    max_images: int
    max_message_bytes: int
    max_concurrent_requests: int
    max_connection_age_seconds: float
    load_seconds: float
    restart_pause_seconds: float

    def check(self) -> None:
        """Raises ConfigurationError for values that cannot work, or not together."""
        positive = (
            "poll_seconds", "load_seconds", "restart_pause_seconds", "decode_threads",
            "queue_rows", "queue_bytes", "max_concurrent_requests",
        )  # fmt: skip
        for name in positive:
            check_above_zero(name.replace("_", "-"), getattr(self, name))
        self._check_ranges()
        check_port("port", self.port)
        check_port("http-port", self.http_port)
        check_port("https-port", self.https_port)
        self._check_models()
        unauthenticated = self.tokens is None and self.tls_client_ca is None
        self.check_server(authentication="--tokens, or --tls-client-ca" if unauthenticated else "")
        if self.tls_client_ca is not None and not self.tls:
            raise ConfigurationError(
                "--tls-client-ca is given without --tls-certificate and --tls-key; clients can be "
                "asked for a certificate only by a server that has one",
                field="tls_client_ca",
            )

    def _check_ranges(self) -> None:
        for name, least, most in (
            ("front_ends", -1, MOST_FRONT_ENDS),
            ("decode_processes", -1, MOST_DECODERS),
            ("instances", 1, 64),
            ("max_batch", 1, 65536),
            ("max_images", 1, MOST_IMAGES),
            ("max_message_bytes", 1, MOST_MESSAGE_BYTES),
            ("threads", 0, 1024),
            ("max_connection_age_seconds", 0.0, 10.0 * 365 * 86400),
        ):
            check_range(name.replace("_", "-"), getattr(self, name), least, most)
        if self.decode_processes > 0 and self.front_ends == 0:
            raise ConfigurationError(
                f"--decode-processes is {self.decode_processes} and --front-ends is 0, which keeps "
                "everything in one process; set one of them only",
                field="decode_processes",
            )
        if self.queue_rows < self.max_images:
            raise ConfigurationError(
                f"--queue-rows {self.queue_rows} is below --max-images {self.max_images}: the "
                "largest request allowed could never be admitted; raise one or lower the other",
                field="queue_rows",
            )

    def _check_models(self) -> None:
        for model in self.models:
            if not re.fullmatch(MODEL_NAME_PATTERN, model):
                raise ConfigurationError(
                    f"--models names {model!r}; a model's name is 1 to 63 of a-z, 0-9, - and _",
                    field="models",
                )
        VersionPolicy.parse(self.version_policy)

    @property
    def front_end_processes(self) -> int:
        """How many front ends there are; 0 means that everything runs in one process.

        By themselves they keep to half of the memory that a limit allows, with all that they may
        hold: a pod without a limit on its CPUs sees all cores of a large node.
        """
        if self.front_ends >= 0:
            return self.front_ends
        each = ONE_FRONT_END_CORES if self.provider == "cpu" else ONE_BESIDE_A_GPU
        limit = memory()
        most = MOST_FRONT_ENDS
        fit = most if limit is None else limit // 2 // (FRONT_END_BYTES + self.queue_bytes)
        return max(1, min(most, cores() // each, fit))

    @property
    def decoding_processes(self) -> int:
        """How many processes decode for all front ends; 0: their threads do.

        By themselves they come beside a GPU, for three quarters of the cores: front ends and
        runners have the rest. They keep to an eighth of the memory that a limit allows.
        """
        if self.decode_processes >= 0:
            return self.decode_processes
        if self.provider == "cpu" or self.front_ends == 0:
            return 0
        limit = memory()
        fit = MOST_DECODERS if limit is None else limit // 8 // DECODER_BYTES
        return max(1, min(MOST_DECODERS, -(-3 * cores() // 4), fit))

    def to_message(self) -> dict[str, Any]:
        """The values for a child process, as JSON takes them."""
        return {
            field.name: str(value) if isinstance(value, Path) else value
            for field in fields(self)
            for value in [getattr(self, field.name)]
        }

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Self:
        """What `to_message` gave, after its way through JSON."""
        paths = {field.name for field in fields(cls) if "Path" in str(field.type)}
        values = dict(message, models=tuple(message["models"]))
        for name in paths & values.keys():
            values[name] = Path(values[name]) if values[name] is not None else None
        return cls(**values)


def parse(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> Settings:
    """The checked settings. Raises ConfigurationError; `--help` prints and exits as usual."""
    settings = Settings.of(flags.parser().parse(arguments, environment))
    settings.check()
    return settings

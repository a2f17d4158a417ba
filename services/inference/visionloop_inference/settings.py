"""The service's flags: every knob, its default, and why the default is what it is.

A flag that is not given falls back to the environment variable VISIONLOOP_<FLAG> (as
VISIONLOOP_MAX_BATCH). Nothing else in this package reads the command line or the environment.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from visionloop.bundle import MODEL_NAME_PATTERN
from visionloop.errors import ConfigurationError
from visionloop.flags import FlagParser, check_above_zero, check_host, check_port
from visionloop_inference.providers import PROVIDERS, cores

MEBIBYTE = 2**20


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line said. Times in seconds, sizes in bytes unless named otherwise."""

    store: str
    models: tuple[str, ...]
    host: str
    port: int
    http_port: int
    insecure: bool
    ready_file: Path | None
    cache: Path | None
    poll_seconds: float
    provider: str
    threads: int
    decode_threads: int
    max_batch: int
    queue_rows: int
    queue_bytes: int
    max_images: int
    max_message_bytes: int
    drain_seconds: float
    drain_quiet_seconds: float

    def check(self) -> None:
        """Raises ConfigurationError for values that cannot work together."""
        positive = (
            "poll_seconds", "threads", "decode_threads", "max_batch", "queue_rows", "queue_bytes",
            "max_images", "max_message_bytes",
        )  # fmt: skip
        for name in positive:
            check_above_zero(name.replace("_", "-"), getattr(self, name))
        check_port("port", self.port)
        check_port("http-port", self.http_port)
        check_host(self.host, insecure=self.insecure)
        for model in self.models:
            if not re.fullmatch(MODEL_NAME_PATTERN, model):
                raise ConfigurationError(
                    f"--models names {model!r}; a model's name is 1 to 63 of a-z, 0-9, - and _",
                    field="models",
                )
        if self.queue_rows < self.max_images:
            raise ConfigurationError(
                f"--queue-rows {self.queue_rows} is below --max-images {self.max_images}: the "
                "largest request allowed could never be admitted; raise one or lower the other",
                field="queue_rows",
            )
        if not 0 <= self.drain_quiet_seconds <= self.drain_seconds / 2:
            raise ConfigurationError(
                f"--drain-quiet-seconds {self.drain_quiet_seconds} must lie between 0 and half of "
                f"--drain-seconds {self.drain_seconds}",
                field="drain_quiet_seconds",
            )


def parse(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> Settings:
    """The checked settings. Raises ConfigurationError; `--help` prints and exits as usual."""
    values = vars(_parser().parse(arguments, environment))
    settings = Settings(**{field.name: values[field.name] for field in fields(Settings)})
    settings.check()
    return settings


def _parser() -> FlagParser:
    parser = FlagParser(
        "visionloop-inference",
        "Serves the stable version of every model in a store over gRPC.",
    )
    add = parser.add_argument
    add("--store", required=True, help="file:///folder or s3://bucket/prefix with models/ in it")
    add(
        "--models",
        type=lambda text: tuple(name.strip() for name in text.split(",") if name.strip()),
        default=(),
        help="comma-separated; only these, and all must load before the server is ready; "
        "the first is the default model. Empty: every model with a stable alias",
    )
    add("--host", default="127.0.0.1", help="address to listen on")
    add("--port", type=int, default=8001, help="gRPC port; 0 takes a free one")
    add("--http-port", type=int, default=8002, help="port of /healthz, /readyz and /metrics")
    add("--insecure", action="store_true", help="allow other addresses than loopback")
    add("--ready-file", type=Path, help="written as JSON (pid, grpc, http) once it listens")
    add("--cache", type=Path, help="folder that keeps fetched bundles; default: a temporary one")
    add("--poll-seconds", type=float, default=5.0, help="how often the aliases are looked at")
    add("--provider", choices=sorted(PROVIDERS), default="cpu", help="what runs the graph")
    add("--threads", type=int, default=cores(), help="threads for one graph run on the CPU")
    add("--decode-threads", type=int, default=min(4, cores()), help="threads that decode images")
    add(
        "--max-batch",
        type=int,
        default=32,
        help="most rows in one run of the graph; warm-up may find that fewer are faster",
    )
    add("--queue-rows", type=int, default=256, help="most rows admitted per model, unanswered")
    add(
        "--queue-bytes",
        type=int,
        default=512 * MEBIBYTE,
        help="most request bytes held at once, over all models",
    )
    add("--max-images", type=int, default=64, help="most images or rows in one request")
    add("--max-message-bytes", type=int, default=64 * MEBIBYTE, help="largest gRPC message")
    add(
        "--drain-seconds",
        type=float,
        default=25.0,  # Kubernetes kills after 30
        help="longest time from SIGTERM to the end; what is under way then is cut off",
    )
    add(
        "--drain-quiet-seconds",
        type=float,
        default=1.0,
        help="after SIGTERM, serve on until no request has come for so long",
    )
    return parser

"""The service's settings: every knob, its default, and why the default is what it is.

A value comes from the command line, else from the environment (VISIONLOOP_MAX_BATCH), else from the
YAML file of `--config` (max-batch or max_batch), else it is the default. Nothing else in this
package reads the command line, the environment or that file.
"""

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from visionloop.bundle import MODEL_NAME_PATTERN
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
from visionloop.telemetry.logs import redacted_text
from visionloop_inference.machine import cores
from visionloop_inference.version_policy import VersionPolicy

MEBIBYTE = 2**20
ONE_FRONT_END_CORES = 4  # one parses and decodes for so many; each 4 more bring one more
PADDING = ("auto", "always", "never")
MODEL_CONTROL = ("poll", "explicit")
PROVIDERS = ("cpu", "cuda", "tensorrt")  # as in `providers`, which brings onnxruntime along


@dataclass(frozen=True, slots=True)
class Settings:
    """The values in force. Times in seconds, sizes in bytes unless named otherwise."""

    store: str
    models: tuple[str, ...]
    version_policy: str
    model_control: str
    cache: Path | None
    poll_seconds: float
    host: str
    port: int
    http_port: int
    https_port: int
    ready_file: Path | None
    insecure: bool
    tls_certificate: Path | None
    tls_key: Path | None
    tls_client_ca: Path | None
    tokens: Path | None
    shared_memory: bool
    front_ends: int
    instances: int
    provider: str
    threads: int
    decode_threads: int
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
    drain_seconds: float
    drain_quiet_seconds: float
    access_log: float
    config: Path | None

    def check(self) -> None:
        """Raises ConfigurationError for values that cannot work, or not together."""
        positive = (
            "poll_seconds", "load_seconds", "restart_pause_seconds", "instances",
            "decode_threads", "max_batch", "queue_rows", "queue_bytes", "max_images",
            "max_message_bytes", "max_concurrent_requests",
        )  # fmt: skip
        for name in positive:
            check_above_zero(name.replace("_", "-"), getattr(self, name))
        self._check_ranges()
        check_port("port", self.port)
        check_port("http-port", self.http_port)
        check_port("https-port", self.https_port)
        self._check_models()
        self._check_tls()
        check_host(self.host, insecure=self.insecure, lacks=self._lacks())
        self._check_drain()

    def _check_ranges(self) -> None:
        for name, least, most in (
            ("front_ends", -1, 64),
            ("instances", 1, 64),
            ("max_batch", 1, 65536),
            ("threads", 0, 1024),
            ("access_log", 0.0, 1.0),
            ("max_connection_age_seconds", 0.0, 10.0 * 365 * 86400),
        ):
            value = getattr(self, name)
            if not least <= value <= most:  # NaN is not, either
                raise _wrong(name, value, f"it must be {least:g} to {most:g}")
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

    def _check_tls(self) -> None:
        if (self.tls_certificate is None) != (self.tls_key is None):
            given, missing = ("key", "certificate") if self.tls_key else ("certificate", "key")
            raise ConfigurationError(
                f"--tls-{given} is given without --tls-{missing}; TLS needs both",
                field=f"tls_{missing}",
            )
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ConfigurationError(
                "--tls-client-ca is given without --tls-certificate and --tls-key; clients can be "
                "asked for a certificate only by a server that has one",
                field="tls_client_ca",
            )

    def _check_drain(self) -> None:
        check_above_zero("drain-seconds", self.drain_seconds)
        if not 0 <= self.drain_quiet_seconds <= self.drain_seconds / 2:
            raise ConfigurationError(
                f"--drain-quiet-seconds {self.drain_quiet_seconds} must lie between 0 and half of "
                f"--drain-seconds {self.drain_seconds}",
                field="drain_quiet_seconds",
            )

    def _lacks(self) -> str:
        """What keeps this server from being safe on a network."""
        lacking = []
        if not self.tls:
            lacking.append("TLS (--tls-certificate, --tls-key)")
        if self.tokens is None and self.tls_client_ca is None:
            lacking.append("authentication (--tokens, or --tls-client-ca)")
        return " and ".join(lacking)

    @property
    def tls(self) -> bool:
        """Connections are encrypted."""
        return self.tls_certificate is not None

    @property
    def loopback(self) -> bool:
        """Only this machine reaches the server."""
        return is_loopback(self.host)

    @property
    def front_end_processes(self) -> int:
        """How many front ends there are; 0 means that everything runs in one process."""
        if self.front_ends >= 0:
            return self.front_ends
        return max(1, cores() // ONE_FRONT_END_CORES)

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


def _wrong(name: str, value: object, rule: str) -> ConfigurationError:
    return ConfigurationError(f"--{name.replace('_', '-')} is {value}; {rule}", field=name)


def _parser() -> FlagParser:
    parser = FlagParser(
        "visionloop-inference",
        "Serves the models of a store over gRPC, and follows their aliases. `visionloop-inference "
        "doctor`, with the same flags, tries what it needs instead (--json for machines).",
    )
    parser.add_argument(
        "--config",
        type=Path,
        help="YAML file with any of these settings by name (max-batch: 16); the command line and "
        "the environment win over it",
    )
    _add_models(parser.add_argument_group("what is served"))
    _add_listening(parser.add_argument_group("where it listens"))
    _add_security(parser.add_argument_group("who may ask"))
    _add_running(parser.add_argument_group("how models run"))
    _add_limits(parser.add_argument_group("limits"))
    _add_operations(parser.add_argument_group("operations"))
    return parser


def _add_models(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--store", required=True, help="file:///folder or s3://bucket/prefix with models/ in it")
    add(
        "--models",
        type=comma_separated,
        default=(),
        metavar="A,B",
        help="only these, and all must load before the server is ready; the first is the default "
        "model. Empty: every model that has something to serve",
    )
    add(
        "--version-policy",
        default="aliases",
        metavar="POLICY",
        help="which versions of a model are loaded: aliases (stable and canary), and besides them "
        "latest:N (the N newest), all, or specific:N,N (where published). Each loaded version is a "
        "process with the whole model in memory",
    )
    add(
        "--model-control",
        choices=MODEL_CONTROL,
        default="poll",
        help="poll: the store alone decides what is loaded. explicit: callers with the scope admin "
        "do, by RepositoryModelLoad and RepositoryModelUnload",
    )
    add("--cache", type=Path, help="folder that keeps fetched bundles; default: a temporary one, "
        "which a server that is killed leaves behind")  # fmt: skip
    add(
        "--poll-seconds",
        type=seconds,
        default=5.0,
        help="how often the aliases are looked at; one small read per model",
    )


def _add_listening(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--host", default="127.0.0.1", help="address to listen on, for all ports")
    add("--port", type=int, default=8001, help="gRPC port; 0 takes a free one")
    add(
        "--http-port",
        type=int,
        default=8002,
        help="port of /healthz, /readyz, /metrics and, on loopback or with --insecure, POST "
        "/v1/recognize; 0 takes a free one",
    )
    add(
        "--https-port",
        type=int,
        default=8003,
        help="with TLS: the port of the same over HTTPS; 0 takes a free one",
    )
    add("--ready-file", type=Path, help="written as JSON (pid and addresses) once it listens")


def _add_security(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--insecure",
        action="store_true",
        help="allow other addresses than loopback without TLS or without authentication",
    )
    add("--tls-certificate", type=Path, metavar="PEM", help="the server's certificate chain; a "
        "renewed file is picked up by the next connection")  # fmt: skip
    add("--tls-key", type=Path, metavar="PEM", help="its private key")
    add(
        "--tls-client-ca",
        type=Path,
        metavar="PEM",
        help="ask every client for a certificate of one of these authorities (mTLS)",
    )
    add(
        "--tokens",
        type=Path,
        metavar="FILE",
        help="YAML or JSON list of callers with the sha256 of their bearer token and their scopes "
        "(infer, feedback, metadata, admin); re-read when it changes. Without it everybody may do "
        "everything but what needs admin, which only loopback gives",
    )
    add(
        "--shared-memory",
        action="store_true",
        help="let callers on this machine pass tensors through POSIX shared memory "
        "(SystemSharedMemoryRegister)",
    )


def _add_running(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--front-ends",
        type=int,
        default=-1,
        help="processes that parse and decode; -1: one for every 4 cores. 0: the whole service in "
        "one process, which saves memory and gives up protection from native crashes",
    )
    add(
        "--instances",
        type=int,
        default=1,
        help="runner processes per version and device; more than 1 helps graphs that leave cores "
        "or the GPU idle, and takes the model's memory each time",
    )
    add("--provider", choices=PROVIDERS, default="cpu", help="what runs the graph; one "
        "that cannot be loaded ends the start, nothing is swapped in silence")  # fmt: skip
    add(
        "--threads",
        type=int,
        default=0,
        help="threads for one graph run on the CPU; 0: what warm-up measures as fastest",
    )
    add("--decode-threads", type=int, default=min(4, cores()), help="threads that decode images, "
        "per front end")  # fmt: skip
    add(
        "--max-batch",
        type=int,
        default=32,
        help="most rows in one run of the graph; warm-up may find that fewer are faster",
    )
    add(
        "--pad",
        choices=PADDING,
        default="auto",
        help="pad batches to powers of two, so that a GPU sees few sizes; auto: where the provider "
        "is no CPU",
    )
    add(
        "--engine-cache",
        type=Path,
        metavar="FOLDER",
        help="keeps TensorRT's engines, which take minutes to build, over restarts",
    )


def _add_limits(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--queue-rows", type=int, default=256, help="most rows admitted per model and front end, "
        "unanswered; more mean longer waits, not more answers")  # fmt: skip
    add(
        "--queue-bytes",
        type=int,
        default=512 * MEBIBYTE,
        help="most request bytes held at once per front end, over all models",
    )
    add("--max-images", type=int, default=64, help="most images or rows in one request")
    add(
        "--max-message-bytes",
        type=int,
        default=64 * MEBIBYTE,
        help="largest gRPC message and HTTP body",
    )
    add(
        "--max-concurrent-requests",
        type=int,
        default=4096,
        help="most calls under way per front end, a stream being one; further ones get "
        "RESOURCE_EXHAUSTED",
    )
    add(
        "--max-connection-age-seconds",
        type=seconds,
        default=0.0,
        help="ask clients to connect anew after so long, so that they spread over new replicas; "
        "calls under way are finished. 0: never",
    )


def _add_operations(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--load-seconds",
        type=seconds,
        default=300.0,
        help="longest time a version may take to load, warm up and pass its first golden images",
    )
    add(
        "--restart-pause-seconds",
        type=seconds,
        default=30.0,
        help="longest pause before a process that dies again and again is started once more",
    )
    add(
        "--drain-seconds",
        type=seconds,
        default=25.0,  # Kubernetes kills after 30
        help="longest time from SIGTERM to the end; what is under way then is cut off",
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

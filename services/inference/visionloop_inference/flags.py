"""The flags of `visionloop-inference`: every knob, its default, and why the default is what it is.

A value comes from the command line, else from the environment (VISIONLOOP_MAX_BATCH), else from the
YAML file of `--config` (max-batch or max_batch), else it is the default.
"""

import argparse
from pathlib import Path

from visionloop.flags import FlagParser, comma_separated, seconds
from visionloop.server_settings import add_config, add_operations
from visionloop_inference.machine import cores

MEBIBYTE = 2**20
PADDING = ("auto", "always", "never")
MODEL_CONTROL = ("poll", "explicit")
PROVIDERS = ("cpu", "cuda", "tensorrt")  # as in `providers`, which brings onnxruntime along


def parser() -> FlagParser:
    """All flags, in the groups that --help shows."""
    flags = FlagParser(
        "visionloop-inference",
        "Serves the models of a store over gRPC, and follows their aliases. `visionloop-inference "
        "doctor`, with the same flags, tries what it needs instead (--json for machines).",
    )
    add_config(flags, "max-batch: 16")
    _add_models(flags.add_argument_group("what is served"))
    _add_listening(flags.add_argument_group("where it listens"))
    _add_security(flags.add_argument_group("who may ask"))
    _add_running(flags.add_argument_group("how models run"))
    _add_limits(flags.add_argument_group("limits"))
    _add_operations(flags.add_argument_group("operations"))
    return flags


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
        "/v1/recognize and /v1/feedback; 0 takes a free one",
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
        help="processes that parse and decode; -1: one for every 4 cores, with a GPU for every 2, "
        "as far as half of the memory that a limit allows holds them and their --queue-bytes. 0: "
        "the whole service in one process, which saves memory and gives up protection from native "
        "crashes",
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
        "--decode-processes",
        type=int,
        default=-1,
        help="processes that decode images for all front ends: threads of one process do not scale "
        "over many cores, and one connection reaches one front end only. -1: with a GPU three for "
        "every 4 cores (front ends and runners have the rest), as far as an eighth of the memory "
        "that a limit allows holds them; none on CPUs, where graphs take the cores. 0: none, front "
        "ends decode in their threads",
    )
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
    add(
        "--max-images",
        type=int,
        default=64,
        help="most images or rows in one request, at most 16384",
    )
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
    add_operations(group, "longest time from SIGTERM to the end; what is under way then is cut off")

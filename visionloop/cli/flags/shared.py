"""How a verb is declared, and the flags that several verbs have."""

import argparse
import os
from collections.abc import Sequence
from typing import TypeAlias

from visionloop.flags import StrictParser

Verbs: TypeAlias = "argparse._SubParsersAction[StrictParser]"

DEFAULT_DATA = "visionloop-data"
GRPC_PORTS = {"inference": 8001, "labeling": 8081}
# The verbs' modules whose libraries are not in the bare install, and the extra that brings them.
NEEDS = {
    "alias_moves": "core",
    "doctor": "core",
    "imports": "core",
    "model_check": "core",
    "models": "core",
    "onnx_files": "inference",
    "snapshots": "snapshots",
    "trained": "training",
}


def verb(
    verbs: Verbs, name: str, runs: str, parents: Sequence[StrictParser], help_text: str
) -> StrictParser:
    """A verb that calls `runs` ("module.function" below visionloop.cli)."""
    parser = verbs.add_parser(name, parents=list(parents), help=help_text, description=help_text)
    module, function = runs.split(".")
    parser.set_defaults(module=module, function=function, needs=NEEDS.get(module))
    return parser


def group(verbs: Verbs, name: str, help_text: str) -> Verbs:
    """A noun with verbs of its own, as `models`."""
    parser = verbs.add_parser(name, help=help_text, description=help_text)
    return parser.add_subparsers(required=True, metavar="VERB")


def store_flags() -> StrictParser:
    """A parent for verbs that work on the store itself."""
    flags = StrictParser(add_help=False)
    flags.add_argument(
        "--store",
        default=environment("STORE"),
        metavar="URL",
        help="object store, file:///dir or s3://bucket/prefix "
        f"(default: $VISIONLOOP_STORE, else {DEFAULT_DATA}/store in this folder)",
    )
    return flags


def service_flags(name: str) -> StrictParser:
    """A parent for verbs that ask a service: where it is, and how it is trusted."""
    flags = StrictParser(add_help=False)
    flags.add_argument(
        "--target",
        default=environment(f"{name.upper()}_TARGET", f"127.0.0.1:{GRPC_PORTS[name]}"),
        metavar="HOST:PORT",
        help=f"gRPC address of the {name} service (default: %(default)s)",
    )
    _add_tls(flags)
    return flags


def environment(name: str, default: str | None = None) -> str | None:
    """The variable VISIONLOOP_<name>."""
    return os.environ.get(f"VISIONLOOP_{name}", default)


def _add_tls(flags: StrictParser) -> None:
    tls = flags.add_argument_group(
        "TLS and authentication", "a bearer token is read from VISIONLOOP_TOKEN"
    )
    tls.add_argument("--tls", action="store_true", help="TLS, with the usual authorities")
    tls.add_argument("--tls-ca", metavar="PEM", help="TLS, and trust these authorities alone")
    tls.add_argument(
        "--tls-server-name",
        metavar="NAME",
        default="",
        help="the name in the service's certificate, where it is reached by another one, as "
        "through kubectl port-forward",
    )
    tls.add_argument("--tls-certificate", metavar="PEM", help="our own, for mTLS")
    tls.add_argument("--tls-key", metavar="PEM", help="its key")

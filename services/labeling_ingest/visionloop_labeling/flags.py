"""The flags of `visionloop-labeling`: every knob, its default, and why the default is what it is.

A value comes from the command line, else from the environment (VISIONLOOP_GRPC_PORT), else from the
YAML file of `--config` (grpc-port or grpc_port), else it is the default.
"""

import argparse
import os
from pathlib import Path

from visionloop.flags import FlagParser, comma_separated
from visionloop.images import Limits
from visionloop.server_settings import add_config, add_operations
from visionloop_labeling.engines import DEFAULT_CONNECTIONS


def parser() -> FlagParser:
    """All flags, in the groups that --help shows."""
    flags = FlagParser(
        "visionloop-labeling",
        "Takes images and labels over HTTP and gRPC, and cuts dataset snapshots. "
        "`visionloop-labeling account --help` tells of accounts, `migrate --help` of the tables; "
        "`visionloop-labeling doctor`, with the same flags, tries what it needs instead.",
    )
    add_config(flags, "grpc-port: 8081")
    _add_data(flags.add_argument_group("what is kept where"))
    _add_listening(flags.add_argument_group("where it listens"))
    _add_security(flags.add_argument_group("who may ask"))
    _add_imports(flags.add_argument_group("imports"))
    _add_limits(flags.add_argument_group("limits"))
    add_operations(
        flags.add_argument_group("operations"),
        "longest time after SIGTERM for what has been received",
    )
    return flags


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
        "--snapshot-hours",
        type=float,
        # A nightly training run learns a day's labels; a cut of a million images takes two minutes.
        default=24.0,
        help="cut the next snapshot of a dataset when its latest one is so old and labels came "
        "since then; the first one is for people or programs to cut. 0: never",
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
    images = Limits()
    add("--max-image-bytes", type=int, default=images.max_bytes, help="largest encoded image")
    add("--max-image-pixels", type=int, default=images.max_pixels, help="largest decoded image")
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

"""Flags from the command line and the environment, and what is refused in words."""

import json
from pathlib import Path

import pytest

from visionloop.errors import ConfigurationError
from visionloop.flags import (
    FlagParser,
    check_above_zero,
    check_host,
    check_port,
    is_loopback,
    write_ready_file,
)


@pytest.fixture
def parser() -> FlagParser:
    parser = FlagParser("program", "does something")
    parser.add_argument("--store", required=True, help="where")
    parser.add_argument("--max-batch", type=int, default=8, help="rows")
    parser.add_argument("--insecure", action="store_true", help="trust")
    parser.add_argument("--provider", choices=["cpu", "cuda"], default="cpu", help="device")
    return parser


def test_the_command_line_wins_over_the_environment(parser: FlagParser) -> None:
    environment = {
        "VISIONLOOP_STORE": "file:///a",
        "VISIONLOOP_MAX_BATCH": "16",
        "VISIONLOOP_INSECURE": "yes",
        "VISIONLOOP_PROVIDER": "cuda",
    }
    flags = parser.parse(["--max-batch", "4"], environment)
    assert (flags.store, flags.max_batch, flags.insecure, flags.provider) == (
        "file:///a",
        4,
        True,
        "cuda",
    )


def test_defaults(parser: FlagParser) -> None:
    flags = parser.parse(["--store", "x"], {})
    assert (flags.max_batch, flags.insecure, flags.provider) == (8, False, "cpu")


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        ([], {}, "--store; see program --help"),
        (["--store", "x", "--max-batch", "many"], {}, "invalid int value: 'many'"),
        (["--store", "x"], {"VISIONLOOP_INSECURE": "maybe"}, "'maybe'; use 1 or 0"),
        (["--store", "x"], {"VISIONLOOP_PROVIDER": "tpu"}, "'tpu'; it must be one of cpu, cuda"),
        (["--store", "x"], {"VISIONLOOP_MAX_BATCH": "many"}, "invalid int value: 'many'"),
        (["--sotre", "x"], {}, "see program --help"),
    ],
)
def test_mistakes(
    parser: FlagParser, arguments: list[str], environment: dict[str, str], said: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parser.parse(arguments, environment)
    assert said in str(caught.value)


def test_ports_hosts_and_sizes() -> None:
    for port in (0, 65535):
        check_port("port", port)
    for port in (-1, 65536):
        with pytest.raises(ConfigurationError, match="--http-port is"):
            check_port("http-port", port)
    with pytest.raises(ConfigurationError, match="above 0"):
        check_above_zero("drain-seconds", float("nan"))
    check_host("0.0.0.0", insecure=True)  # noqa: S104
    with pytest.raises(ConfigurationError, match="--insecure"):
        check_host("0.0.0.0", insecure=False)  # noqa: S104
    assert [is_loopback(h) for h in ("127.0.0.1", "[::1]", "localhost", "10.0.0.1", "web")] == [
        True,
        True,
        True,
        False,
        False,
    ]


def test_the_ready_file_appears_whole(tmp_path: Path) -> None:
    write_ready_file(tmp_path / "ready.json", {"grpc": "127.0.0.1:1"})
    assert json.loads((tmp_path / "ready.json").read_text())["grpc"] == "127.0.0.1:1"
    assert [path.name for path in tmp_path.iterdir()] == ["ready.json"]

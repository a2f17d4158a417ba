"""Flags from the command line and the environment, and what is refused in words."""

import json
from pathlib import Path

import pytest

import visionloop
from visionloop.errors import ConfigurationError
from visionloop.flags import (
    FlagParser,
    check_above_zero,
    check_host,
    check_port,
    comma_separated,
    endpoint,
    is_loopback,
    seconds,
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


def test_an_ipv6_address_gets_its_brackets_once() -> None:
    assert [endpoint(host, 1) for host in ("::", "[::1]", "web", "10.0.0.1")] == [
        "[::]:1", "[::1]:1", "web:1", "10.0.0.1:1",
    ]  # fmt: skip


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
        (
            ["--store", "x"],
            {"VISIONLOOP_MAX_BATCH": "many"},
            "VISIONLOOP_MAX_BATCH is 'many'; it must be a whole number",
        ),
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


@pytest.mark.parametrize("given", [["--cache="], ["--cache", ""], []])
def test_an_empty_path_is_not_the_current_folder(
    configurable: FlagParser, given: list[str]
) -> None:
    environment = {} if given else {"VISIONLOOP_CACHE": ""}
    with pytest.raises(ConfigurationError, match="--cache: the path is empty"):
        configurable.parse(["--store=x", *given], environment)
    assert configurable.parse(["--store=x", "--cache=."], {}).cache == Path()


def test_a_ready_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"--ready-file .*/file/x cannot be written: "):
        write_ready_file(tmp_path / "file" / "x", {})


def test_the_version_is_told_without_what_is_required(
    parser: FlagParser, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parser.parse(["--version"], {"VISIONLOOP_VERSION": "9"})
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"program {visionloop.__version__}\n"


@pytest.fixture
def configurable() -> FlagParser:
    parser = FlagParser("program", "does something")
    parser.add_argument("--config", type=Path, help="file")
    parser.add_argument("--store", required=True, help="where")
    parser.add_argument("--max-batch", type=int, default=8, help="rows")
    parser.add_argument("--share", type=float, default=0.5, help="part")
    parser.add_argument("--wait", type=seconds, default=1.0, help="time")
    parser.add_argument("--insecure", action="store_true", help="trust")
    parser.add_argument("--provider", choices=["cpu", "cuda"], default="cpu", help="device")
    parser.add_argument("--models", type=comma_separated, default=(), help="names")
    parser.add_argument("--cache", type=Path, help="folder")
    return parser


WHOLE = """\
# a comment
store: s3://bucket/prefix
max-batch: 16
share: 1
wait: 2.5
insecure: true
provider: cuda
models: [cells, panels]
cache: /var/cache
"""


def test_a_file_holds_any_setting(configurable: FlagParser, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(WHOLE)
    flags = configurable.parse(["--config", str(tmp_path / "c.yaml")], {})
    assert vars(flags) == {
        "config": tmp_path / "c.yaml",
        "store": "s3://bucket/prefix",
        "max_batch": 16,
        "share": 1.0,
        "wait": 2.5,
        "insecure": True,
        "provider": "cuda",
        "models": ("cells", "panels"),
        "cache": Path("/var/cache"),
    }
    assert isinstance(flags.share, float)


def test_command_line_then_environment_then_file_then_default(
    configurable: FlagParser, tmp_path: Path
) -> None:
    (tmp_path / "c.yaml").write_text("store: a\nmax_batch: 1\nshare: 0.1\nmodels: a, b\n")
    environment = {
        "VISIONLOOP_CONFIG": str(tmp_path / "c.yaml"),
        "VISIONLOOP_MAX_BATCH": "2",
        "VISIONLOOP_SHARE": "0.2",
        "VISIONLOOP_INSECURE": "0",
    }
    flags = configurable.parse(["--share=0.3"], environment)
    assert (flags.store, flags.max_batch, flags.share, flags.wait) == ("a", 2, 0.3, 1.0)
    assert flags.models == ("a", "b")


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n"])
def test_an_empty_file_is_no_mistake(configurable: FlagParser, tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    assert configurable.parse([f"--config={tmp_path}/c.yaml", "--store=x"], {}).max_batch == 8


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("store: x\nmax-bach: 4\n", "line 2: max-bach is no setting of this program; there are:"),
        ("store: x\nconfig: other.yaml\n", "line 2: config is no setting"),
        ("store: x\nhelp: true\n", "line 2: help is no setting"),
        ("max-batch: 4\n\nmax_batch: 5\n", "line 3: max_batch stands in line 1 already"),
        ('max-batch: "16"\n', "line 1: max-batch is the text '16'; it must be a whole number"),
        ("max-batch: 1.5\n", "max-batch is 1.5; it must be a whole number"),
        ("max-batch: true\n", "max-batch is True; it must be a number"),
        ("share: much\n", "share is the text 'much'; it must be a number"),
        ("wait: .inf\n", "wait is inf; it must be a number"),
        ("insecure: 1\n", "insecure is 1; it must be true or false"),
        ("insecure: 'yes'\n", "insecure is the text 'yes'; it must be true or false"),
        ("store: 7\n", "store is 7; it must be a text in quotes"),
        ("store: yes\n", "store is True; it must be a text in quotes"),
        ("store: [a, b]\n", "store is ['a', 'b']; it must be a text in quotes"),
        ("provider: tpu\n", "provider is the text 'tpu'; it must be one of cpu, cuda"),
        ("cache:\n", "line 1: cache must have a text, a number"),
        ("models: {a: b}\n", "line 1: models must have a text"),
        ("models: [[a]]\n", "line 1: models must have a text"),
        ("store: !!python/object/apply:os.getcwd []\n", "line 1: store is []"),
        ("store: !!python/name:os.getcwd x\n", "line 1: store must have a text"),
        ("- store\n", "must hold names and values"),
        ("store: [\n", "line 2, is not YAML"),
        ("a: b: c\n", "line 1, is not YAML"),
    ],
)
def test_mistakes_in_a_file_name_file_and_line(
    configurable: FlagParser, tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        configurable.parse([f"--config={tmp_path}/c.yaml"], {})
    assert str(caught.value).startswith(str(tmp_path / "c.yaml"))
    assert said in str(caught.value)


def test_files_that_cannot_be_read(configurable: FlagParser, tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "large").write_bytes(b"#" * (2**20 + 1))
    for name, said in (
        ("missing", "No such file"),
        (".", "Is a directory"),
        ("binary", "UTF-8"),
        ("large", "larger than"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            configurable.parse([f"--config={tmp_path}/{name}"], {})


def test_a_broken_file_does_not_hide_the_help(
    configurable: FlagParser, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text("[")
    with pytest.raises(SystemExit):
        configurable.parse([f"--config={tmp_path}/c.yaml", "--help"], {})
    assert "rows (default: 8)" in capsys.readouterr().out


def test_flags_are_not_abbreviated(configurable: FlagParser) -> None:
    with pytest.raises(ConfigurationError, match="unrecognized arguments: --max"):
        configurable.parse(["--store=x", "--max=4"], {})


def test_what_a_server_lacks_is_said() -> None:
    with pytest.raises(ConfigurationError, match="is without TLS; add --insecure"):
        check_host("192.0.2.1", insecure=False, lacks="TLS")
    check_host("192.0.2.1", insecure=False, lacks="")
    check_host("::1", insecure=False, lacks="TLS")

"""Flags, their environment variables, and what is refused before anything is opened."""

from pathlib import Path

import pytest

from visionloop.errors import ConfigurationError, InvalidInputError
from visionloop.flags import is_loopback
from visionloop_labeling import flags, validation
from visionloop_labeling.database import open_database
from visionloop_labeling.settings import parse

NEEDED = ["--store=file:///s", "--database=sqlite:///l.db"]


def test_defaults_are_those_of_the_design() -> None:
    settings = parse(NEEDED, {})
    assert (settings.host, settings.http_port, settings.grpc_port) == ("127.0.0.1", 8080, 8081)
    assert settings.limits.max_bytes == 20 * 2**20
    assert not settings.insecure


def test_the_environment_stands_in_for_flags_and_flags_win() -> None:
    environment = {
        "VISIONLOOP_STORE": "file:///e",
        "VISIONLOOP_DATABASE": "sqlite:///e.db",
        "VISIONLOOP_GRPC_PORT": "7",
        "VISIONLOOP_INSECURE": "true",
        "VISIONLOOP_HOST": "0.0.0.0",  # noqa: S104 - parsed, not bound
    }
    settings = parse(["--grpc-port=8"], environment)
    assert (settings.store, settings.grpc_port, settings.insecure) == ("file:///e", 8, True)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--host=0.0.0.0"], "--insecure"),
        (["--http-port=70000"], "65535"),
        (["--grpc-port=x"], "invalid int"),
        (["--max-image-bytes=0"], "above 0"),
        (["--max-image-bytes=99999999"], "half of the largest"),
        (["--drain-seconds=-1"], "above 0"),
        (["--colour"], "--help"),
        (["--host=0.0.0.0", "--accounts"], "TLS"),
        (["--host=0.0.0.0", "--tls-certificate=c", "--tls-key=k"], "--accounts"),
        (["--tls-certificate=c"], "--tls-key"),
        (["--tls-key=k"], "--tls-certificate"),
        (["--snapshot-hours=-1"], "0 to"),
        (["--requests-per-second=-1"], "0 to"),
        (["--requests-per-second=nan"], "0 to"),
        (["--daily-images=-1"], "0 to"),
        (["--access-log=2"], "0 to 1"),
        (["--max-import-bytes=0"], "above 0"),
        (["--drain-seconds=1", "--drain-quiet-seconds=0.6"], "half of"),
    ],
)
def test_impossible_flags_are_refused(flags: list[str], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        parse([*NEEDED, *flags], {})


def test_an_odd_switch_in_the_environment_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="VISIONLOOP_INSECURE"):
        parse(NEEDED, {"VISIONLOOP_INSECURE": "perhaps"})


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("labels.db", "not a database URL"),
        ("mysql://x/y", "not supported"),
        ("sqlite://", "needs a file"),
        ("sqlite:////proc/none/l.db", "folder"),
    ],
)
def test_impossible_databases_are_refused(url: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        open_database(url)


def test_loopback_addresses() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "localhost", "::1", "[::1]")))
    assert not any(map(is_loopback, ("0.0.0.0", "10.0.0.1", "example.org", "::")))  # noqa: S104


@pytest.mark.parametrize("name", ["", "A", "-a", "a b", "a/b", "..", "a" * 64, "a\n", "é"])
def test_dataset_names_that_cannot_be_keys(name: str) -> None:
    with pytest.raises(InvalidInputError, match="not a usable name"):
        validation.dataset_name(name)


@pytest.mark.parametrize("name", ["a", "0", "a-b_c", "a" * 63])
def test_dataset_names(name: str) -> None:
    assert validation.dataset_name(name) == name


def test_long_or_unprintable_values_are_shown_short_and_escaped() -> None:
    with pytest.raises(InvalidInputError) as caught:
        validation.text("x" * 5000, "label")
    assert len(str(caught.value)) < 200
    with pytest.raises(InvalidInputError) as caught:
        validation.text("a\x1b[31mb", "label")
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    "flags",
    [
        ["--host=0.0.0.0", "--accounts", "--tls-certificate=c", "--tls-key=k"],
        ["--host=0.0.0.0", "--insecure"],
        ["--host=localhost"],
        ["--accounts"],
    ],
)
def test_where_it_may_listen(flags: list[str]) -> None:
    assert parse([*NEEDED, *flags], {}).accounts == ("--accounts" in flags)


def test_a_file_of_settings_stands_below_the_environment_and_the_flags(tmp_path: Path) -> None:
    file = tmp_path / "labeling.yaml"
    file.write_text(
        "store: file:///f\ndatabase: sqlite:///f.db\ngrpc-port: 1\nhttp_port: 2\n"
        "accounts: true\ntrusted-proxies: [10.0.0.1, 10.1.0.0/16]\ndrain-seconds: 9\n"
    )
    settings = parse([f"--config={file}", "--grpc-port=3"], {"VISIONLOOP_HTTP_PORT": "4"})
    assert (settings.store, settings.grpc_port, settings.http_port) == ("file:///f", 3, 4)
    assert settings.trusted_proxies == ("10.0.0.1", "10.1.0.0/16")
    assert (settings.accounts, settings.drain_seconds) == (True, 9.0)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("colour: red", "line 1: colour is no setting"),
        ('grpc-port: "8081"', "must be a whole number"),
        ("accounts: 1", "true or false"),
        ("store: [a]", "a text"),
    ],
)
def test_mistakes_in_the_file_are_told_with_their_line(
    tmp_path: Path, line: str, words: str
) -> None:
    file = tmp_path / "labeling.yaml"
    file.write_text(line)
    with pytest.raises(ConfigurationError, match=words):
        parse([*NEEDED, f"--config={file}"], {})


def test_the_probe_port_is_off_unless_asked_for() -> None:
    assert parse(NEEDED, {}).probe_port is None
    assert parse([*NEEDED, "--probe-port=0"], {}).probe_port == 0
    with pytest.raises(ConfigurationError, match="probe-port"):
        parse([*NEEDED, "--probe-port=70000"], {})


def test_what_is_printed_has_no_secrets() -> None:
    flags = ["--store=s3://key:hush@bucket/p", "--database=postgresql://u:hush@h/l"]
    shown = parse(flags, {}).in_force()
    assert "hush" not in str(shown)
    assert (shown["grpc_port"], shown["accounts"]) == (8081, False)


def test_the_documentation_has_every_flag() -> None:
    page = (Path(__file__).parents[2] / "docs" / "labeling.md").read_text(encoding="utf-8")
    table = "".join(line for line in page.splitlines() if line.startswith("| `--"))
    for action in flags.parser().flags().values():
        assert f"`--{action.dest.replace('_', '-')}`" in table

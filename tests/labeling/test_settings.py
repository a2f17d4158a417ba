"""Flags, their environment variables, and what is refused before anything is opened."""

import pytest

from visionloop.errors import ConfigurationError, InvalidInputError
from visionloop.flags import is_loopback
from visionloop_labeling import validation
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

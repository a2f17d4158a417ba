"""The flags."""

import pytest

from visionloop.errors import ConfigurationError
from visionloop_inference.settings import parse

STORE = "--store=file:///tmp/x"


def test_defaults_bind_loopback() -> None:
    settings = parse([STORE], {})
    assert (settings.host, settings.port, settings.http_port) == ("127.0.0.1", 8001, 8002)
    assert settings.models == ()


def test_the_environment_stands_in_for_flags() -> None:
    environment = {
        "VISIONLOOP_STORE": "s3://bucket/x",
        "VISIONLOOP_MAX_BATCH": "7",
        "VISIONLOOP_MODELS": "a, b",
        "VISIONLOOP_INSECURE": "true",
    }
    settings = parse([], environment)
    assert (settings.store, settings.max_batch) == ("s3://bucket/x", 7)
    assert settings.models == ("a", "b")
    assert settings.insecure


def test_a_flag_wins_over_the_environment() -> None:
    assert parse([STORE, "--port=5"], {"VISIONLOOP_PORT": "6"}).port == 5


@pytest.mark.parametrize(
    ("flags", "environment", "words"),
    [
        ([], {}, "--store"),
        ([STORE, "--max-batch=0"], {}, "--max-batch is 0; it must be above 0"),
        ([STORE, "--max-batch=many"], {}, "invalid int value"),
        ([STORE, "--port=70000"], {}, "--port is 70000"),
        ([STORE, "--queue-rows=8", "--max-images=9"], {}, "could never be admitted"),
        ([STORE, "--drain-seconds=1", "--drain-quiet-seconds=2"], {}, "--drain-quiet-seconds 2"),
        ([STORE, "--host=0.0.0.0"], {}, "add --insecure"),
        ([STORE, "--host=::"], {}, "add --insecure"),
        ([STORE, "--host=example.com"], {}, "add --insecure"),
        ([STORE, "--models=a,Dogs!"], {}, "--models names 'Dogs!'"),
        ([STORE, "--provider=tpu"], {}, "invalid choice"),
        ([STORE], {"VISIONLOOP_PROVIDER": "tpu"}, "VISIONLOOP_PROVIDER is 'tpu'"),
        ([STORE, "--nonsense"], {}, "unrecognized arguments"),
    ],
)
def test_wrong_flags_are_said(flags: list[str], environment: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        parse(flags, environment)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.9.9.9"])
def test_loopback_needs_no_consent(host: str) -> None:
    assert parse([STORE, f"--host={host}"], {}).host == host


def test_other_addresses_need_it() -> None:
    assert parse([STORE, "--host=192.0.2.1", "--insecure"], {}).host == "192.0.2.1"

"""The settings: flags, environment and file, and what is refused in words."""

from pathlib import Path

import pytest

from visionloop.errors import ConfigurationError
from visionloop_inference import flags
from visionloop_inference import settings as module
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
        ([STORE, "--max-batch=0"], {}, "--max-batch is 0; it must be 1 to 65536"),
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
        ([STORE, "--front-ends=-2"], {}, "--front-ends is -2; it must be -1 to 64"),
        ([STORE, "--decode-processes=999"], {}, "--decode-processes is 999; it must be -1 to 256"),
        ([STORE, "--decode-processes=2", "--front-ends=0"], {}, "set one of them only"),
        ([STORE, "--instances=0"], {}, "--instances is 0; it must be 1 to 64"),
        ([STORE, "--threads=-1"], {}, "--threads is -1"),
        ([STORE, "--instances=99999"], {}, "--instances is 99999; it must be 1 to 64"),
        ([STORE, "--max-batch=70000"], {}, "--max-batch is 70000; it must be 1 to 65536"),
        ([STORE, "--max-images=0"], {}, "--max-images is 0; it must be 1 to 16384"),
        ([STORE, "--max-images=20000", "--queue-rows=20000"], {}, "--max-images is 20000"),
        ([STORE, "--max-message-bytes=2147483648"], {}, "it must be 1 to 2147483647"),
        ([STORE, "--access-log=1.5"], {}, "--access-log is 1.5; it must be 0 to 1"),
        ([STORE, "--access-log=nan"], {}, "--access-log is nan"),
        ([STORE, "--max-connection-age-seconds=-1"], {}, "--max-connection-age-seconds is -1"),
        ([STORE, "--drain-seconds=inf"], {}, "invalid seconds value: 'inf'"),
        ([STORE, "--poll-seconds=nan"], {}, "invalid seconds value: 'nan'"),
        ([STORE, "--max-concurrent-requests=0"], {}, "above 0"),
        ([STORE, "--version-policy=newest"], {}, "--version-policy is newest; it must be"),
        ([STORE, "--version-policy=latest:0"], {}, "--version-policy is latest:0"),
        ([STORE, "--version-policy=specific:1,,2"], {}, "--version-policy is specific:1,,2"),
        ([STORE, "--model-control=push"], {}, "invalid choice"),
        ([STORE, "--pad=maybe"], {}, "invalid choice"),
        ([STORE, "--tls-key=k"], {}, "--tls-key is given without --tls-certificate"),
        ([STORE, "--tls-certificate=c"], {}, "--tls-certificate is given without --tls-key"),
        ([STORE, "--tls-client-ca=c"], {}, "--tls-client-ca is given without"),
        ([STORE, "--host=::", "--tokens=t"], {}, r"is without TLS \(--tls-certificate"),
        (
            [STORE, "--host=::", "--tls-certificate=c", "--tls-key=k"],
            {},
            r"is without authentication \(--tokens",
        ),
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


def test_tls_and_a_way_to_know_callers_need_no_consent_either() -> None:
    encrypted = [STORE, "--host=192.0.2.1", "--tls-certificate=c", "--tls-key=k"]
    assert parse([*encrypted, "--tokens=t"], {}).tls
    assert not parse([*encrypted, "--tls-client-ca=a"], {}).loopback


def test_a_file_of_settings(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("store: s3://bucket/x\nmodels: [a, b]\nport: 5\nversion-policy: latest:2\n")
    settings = parse([f"--config={file}"], {"VISIONLOOP_PORT": "6"})
    assert (settings.store, settings.models, settings.port) == ("s3://bucket/x", ("a", "b"), 6)
    assert settings.version_policy == "latest:2"
    assert settings.config == file
    file.write_text("store: s3://bucket/x\naccess-log: 2\n")
    with pytest.raises(ConfigurationError, match="--access-log is 2"):
        parse([f"--config={file}"], {})


@pytest.mark.parametrize(
    ("cores", "wanted", "processes"),
    [(1, -1, 1), (4, -1, 1), (7, -1, 1), (8, -1, 2), (64, -1, 16), (64, 0, 0), (2, 3, 3)],
)
def test_front_ends_follow_the_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, wanted: int, processes: int
) -> None:
    monkeypatch.setattr(module, "cores", lambda: cores)
    assert parse([STORE, f"--front-ends={wanted}"], {}).front_end_processes == processes


def test_beside_a_gpu_half_of_the_cores_have_front_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "cores", lambda: 16)
    assert parse([STORE, "--provider=cuda"], {}).front_end_processes == 8
    monkeypatch.setattr(module, "cores", lambda: 192)
    assert parse([STORE, "--provider=cuda"], {}).front_end_processes == 64


@pytest.mark.parametrize(
    ("cores", "limit", "flags", "number"),
    [
        (16, None, [], 0),
        (16, None, ["--decode-processes=5"], 5),
        (16, None, ["--provider=cuda"], 12),
        (4, None, ["--provider=tensorrt"], 3),
        (2, None, ["--provider=cuda"], 2),
        (1, None, ["--provider=cuda"], 1),
        (16, None, ["--provider=cuda", "--decode-processes=0"], 0),
        (16, None, ["--provider=cuda", "--front-ends=0"], 0),
        (192, 4 * 2**30, ["--provider=cuda"], 5),  # the chart's limit
        (16, 16 * 2**30, ["--provider=cuda"], 12),
        (16, 2**28, ["--provider=cuda"], 1),
        (512, None, ["--provider=cuda"], 256),
    ],
)
def test_decoders_come_with_a_gpu_and_keep_to_their_part_of_the_memory(
    cores: int, limit: int | None, flags: list[str], number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "cores", lambda: cores)
    monkeypatch.setattr(module, "memory", lambda: limit)
    assert parse([STORE, *flags], {}).decoding_processes == number


def test_the_values_in_force_hold_no_secret() -> None:
    shown = parse(["--store=s3://key:hush@bucket/x", "--tokens=/run/tokens.yaml"], {}).in_force()
    assert "hush" not in str(shown)
    assert shown["store"] == "s3://[redacted]@bucket/x"
    assert shown["max_batch"] == 32
    assert next(iter(shown)) == "store"


def test_every_setting_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--help"], {})
    text = capsys.readouterr().out
    for name in parse([STORE], {}).in_force():
        assert f"  --{name.replace('_', '-')} " in text or f"--{name.replace('_', '-')}\n" in text
    assert "None" not in text


def test_the_documentation_has_every_setting_with_its_default() -> None:
    text = (Path(__file__).parents[2] / "docs/serving.md").read_text()
    for action in flags.parser().flags().values():
        shown = "" if action.default in (None, ()) else action.default
        if action.default is False:
            shown = "off"
        if action.dest == "store":
            shown = "needed"
        if action.dest == "decode_threads":
            shown = "cores, at most 4"
        row = f"| `--{action.dest.replace('_', '-')}` | {shown} | {action.help} |"
        assert row in text, f"docs/serving.md lacks: {row}"


@pytest.mark.parametrize(
    ("cores", "limit", "flags", "number"),
    [
        (2, None, [], 1),
        (64, None, [], 16),
        (64, 4 * 2**30, [], 3),  # the chart's limit: 3 x (128 + 512 MiB) is less than 2 GiB
        (192, 4 * 2**30, ["--provider=cuda"], 3),  # a node with eight GPUs: 64 would not even start
        (192, 128 * 2**30, ["--provider=cuda"], 64),
        (64, 2**29, [], 1),
        (64, 4 * 2**30, ["--front-ends=9"], 9),
        (64, 4 * 2**30, ["--queue-bytes=67108864"], 10),
    ],
)
def test_front_ends_keep_to_the_memory_that_they_may_use(
    cores: int, limit: int | None, flags: list[str], number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "cores", lambda: cores)
    monkeypatch.setattr(module, "memory", lambda: limit)
    assert parse([STORE, *flags], {}).front_end_processes == number

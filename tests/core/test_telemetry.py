"""Logs without secrets, progress that says something, metrics declared once."""

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from visionloop.errors import ConfigurationError
from visionloop.proto.v1 import labeling_pb2, labeling_pb2_grpc, recognition_pb2
from visionloop.proto.v1 import recognition_pb2_grpc as recognition_grpc
from visionloop.telemetry import configure_logging, logs, metrics, progress, rpc, table
from visionloop.telemetry.logs import JsonFormatter, LineFormatter, redacted_text

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def stderr(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """Reads what went to stderr; the root logger is put back afterwards."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield lambda: capsys.readouterr().err
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


# --- logs


def test_json_lines_where_there_is_no_terminal(
    stderr: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(logs.FORMAT_VARIABLE, raising=False)
    configure_logging("visionloop-inference")
    logging.getLogger("a.b").info("loaded %s\nwell", "m", extra={"model": "m", "version": 7})
    line = json.loads(stderr())
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "INFO",
        "program": "visionloop-inference",
        "logger": "a.b",
        "message": "loaded m\nwell",
        "model": "m",
        "version": 7,
    }


def test_lines_for_people(stderr: Callable[[], str]) -> None:
    configure_logging("visionloop", json=False)
    logging.getLogger("x").warning("slow", extra={"seconds": 3})
    assert stderr().endswith("WARNING visionloop  slow  seconds=3\n")


def test_the_environment_chooses_the_format(
    stderr: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(logs.FORMAT_VARIABLE, "text")
    configure_logging("visionloop")
    logging.getLogger("a").info("hello")
    assert not stderr().startswith("{")
    monkeypatch.setenv(logs.FORMAT_VARIABLE, "xml")
    with pytest.raises(ConfigurationError, match="'xml'; it must be json or text"):
        configure_logging("visionloop")


def test_level_and_repetition(stderr: Callable[[], str]) -> None:
    configure_logging("one", json=True)
    configure_logging("two", json=True, level="warning")
    logging.getLogger("x").info("no")
    logging.getLogger("x").error("yes")
    lines = [json.loads(line) for line in stderr().splitlines()]
    assert [(line["program"], line["message"]) for line in lines] == [("two", "yes")]


def test_an_unknown_level_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="DEBUG, INFO"):
        configure_logging("x", level="loud")


def test_exceptions_stay_on_one_line(stderr: Callable[[], str]) -> None:
    configure_logging("x", json=True)
    try:
        raise ValueError("https://me:hunter2@host/ failed")
    except ValueError:
        logging.getLogger("x").exception("it broke")
    (text,) = stderr().splitlines()
    line = json.loads(text)
    assert "ValueError" in line["exception"]
    assert "hunter2" not in text


SECRETS = st.text("abcdefXYZ0123456789+/", min_size=6, max_size=20).map(lambda s: f"s3cr3t{s}")
SECRET_NAMES = st.sampled_from(
    ["password", "db_password", "token", "AWS_SECRET_ACCESS_KEY", "Authorization", "sessionToken"]
)


@given(SECRETS, SECRET_NAMES)
def test_secrets_never_reach_a_line(secret: str, name: str) -> None:
    record = logging.makeLogRecord(
        {
            "msg": "cannot reach %s with %s=%s",
            "args": (f"postgresql://user:{secret.replace('/', '_')}@host/db", name, secret),
            name: secret,
            "nested": {"headers": [{name: secret}], "plain": f"{name}: Bearer {secret}"},
            "levelname": "INFO",
        }
    )
    for formatter in (JsonFormatter("x"), LineFormatter("x")):
        text = formatter.format(record)
        assert "s3cr3t" not in text
        assert "host" in text


def test_a_password_that_holds_an_at_is_hidden_whole() -> None:
    for text in ("postgresql://me:s3c@ret@host/db", "s3://a@b@host said no", '"x://s3c@ret@host"'):
        assert "ret" not in redacted_text(text)
        assert "s3c" not in redacted_text(text)
        assert "@host" in redacted_text(text)


def test_no_token_and_the_path_of_a_file_are_no_secrets(stderr: Callable[[], str]) -> None:
    configure_logging("x", json=True)
    logging.getLogger("x").info("in force", extra={"token": None, "tokens": Path("/run/tokens")})
    line = json.loads(stderr())
    assert line["token"] is None
    assert line["tokens"] == "/run/tokens"


def test_harmless_text_is_left_alone() -> None:
    for text in ("s3://bucket/a@b", "http://127.0.0.1:8080/label?a=1", "author: ann@example.org",
                 '{"a": "http://host","b": "ann@example.org"}'):  # fmt: skip
        assert redacted_text(text) == text


@given(st.dictionaries(st.text(max_size=8), st.floats() | st.text(max_size=8) | st.binary()))
def test_any_extra_makes_one_json_line(extra: dict[str, object]) -> None:
    record = logging.makeLogRecord({**{f"x{k}": v for k, v in extra.items()}, "msg": "m"})
    line = JsonFormatter("x").format(record)
    assert "\n" not in line
    assert json.loads(line)["message"] == "m"


def test_chatty_libraries_stay_quiet_when_we_debug(stderr: Callable[[], str]) -> None:
    configure_logging("x", json=True, level="DEBUG")
    logging.getLogger("botocore.auth").debug("signature")
    logging.getLogger("visionloop").debug("ours")
    text = stderr()
    assert "signature" not in text
    assert "ours" in text


# --- progress


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_progress_in_a_pod_is_a_line_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    with caplog.at_level(logging.INFO, logger="visionloop.telemetry"):
        bar = progress(range(100), description="import", unit="images", terminal=False, clock=clock)
        for number in bar:
            clock.now += 0.5
            bar.note(f"row {number}")
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 6  # at 10, 20, 30, 40 and 50 s, and the end
    assert messages[0] == "import: 20 of 100 images (20 %) in 10 s, 2.0/s, 40 s left, row 19"
    assert messages[-1] == "import done: 100 of 100 images (100 %) in 50 s, 2.0/s, row 99"


def test_progress_of_what_stops_early(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()

    def fails() -> None:
        with progress(description="fit", unit="batches", terminal=False, clock=clock) as bar:
            clock.now += 1
            bar.advance(3)
            raise KeyError

    with caplog.at_level(logging.INFO, logger="visionloop.telemetry"), pytest.raises(KeyError):
        fails()
    assert caplog.messages == ["fit stopped: 3 batches in 1 s, 3.0/s"]


def test_progress_on_a_terminal_is_a_bar(stderr: Callable[[], str]) -> None:
    assert list(progress([1, 2, 3], description="import", terminal=True)) == [1, 2, 3]
    text = stderr()
    assert "import" in text
    assert "3/3" in text


# --- metrics


def test_the_table_is_current() -> None:
    text = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    wanted = "run python -m visionloop.telemetry.table docs/metrics.md"
    fresh = subprocess.run(
        [sys.executable, "-c", "from visionloop.telemetry import table; print(table.table())"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert fresh.stdout.rstrip() == text.rstrip(), wanted


def test_every_metric_has_a_fit_name_and_says_something() -> None:
    declared = metrics.declared()
    names = [metric.name for metric in declared]
    assert len(set(names)) == len(names)
    for metric in declared:
        assert metric.name.startswith(("visionloop_", "grpc_server_", "nv_")), metric.name
        if not metric.name.startswith("nv_"):  # Triton's names are as they are
            assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert len(metric.help) > 15
        assert metric.help.endswith(".")


def test_exposition_is_what_prometheus_reads() -> None:
    table.inference.REJECTED.labels(reason="late").inc()
    body, content_type = metrics.exposition()
    families = {family.name: family for family in text_string_to_metric_families(body.decode())}
    samples = families["visionloop_rejected"].samples
    assert any(s.labels == {"reason": "late"} and s.value >= 1 for s in samples)
    assert content_type.startswith("text/plain")


def test_the_latency_objective_is_a_bucket_edge() -> None:
    """Alerts compare with le="0.25"; without that edge they would see nothing."""
    assert 0.25 in metrics.LATENCY_BUCKETS


def test_logs_and_progress_need_no_library() -> None:
    code = """
import sys, visionloop.telemetry
print([m for m in ("prometheus_client", "grpc", "tqdm", "numpy") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- the interceptor, on a real server


class Recognition(recognition_grpc.RecognitionServicer):
    async def Recognize(self, request: object, context: grpc.aio.ServicerContext) -> object:
        model = request.model
        if model == "abort":
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        if model == "set":
            context.set_code(grpc.StatusCode.NOT_FOUND)
        if model == "bug":
            raise ZeroDivisionError
        if model == "hang":
            await asyncio.Event().wait()
        return recognition_pb2.RecognizeResponse(model=model)


class Labeling(labeling_pb2_grpc.LabelingIngestServicer):
    async def SubmitImages(
        self, requests: AsyncIterator[object], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[object]:
        async for request in requests:
            yield labeling_pb2.SubmitImageReceipt(ordinal=request.ordinal)

    def ExportLabels(self, request: object, context: object) -> Iterator[object]:
        yield from (labeling_pb2.ExportedLabel(sha256=str(n)) for n in range(3))

    def ListDatasets(self, request: object, context: object) -> object:
        return labeling_pb2.ListDatasetsResponse()


def handled(kind: str, method: str, code: str) -> float:
    service = "visionloop.v1." + ("Recognition" if method == "Recognize" else "LabelingIngest")
    labels = {"grpc_type": kind, "grpc_service": service, "grpc_method": method}
    return metrics.REGISTRY.get_sample_value(
        "grpc_server_handled_total", {**labels, "grpc_code": code}
    ) or 0.0  # fmt: skip


async def call_everything() -> None:
    server = grpc.aio.server(interceptors=[rpc.MetricsInterceptor()])
    recognition_grpc.add_RecognitionServicer_to_server(Recognition(), server)
    labeling_pb2_grpc.add_LabelingIngestServicer_to_server(Labeling(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        recognition = recognition_grpc.RecognitionStub(channel)
        for model in ("ok", "abort", "set", "bug"):
            try:
                await recognition.Recognize(recognition_pb2.RecognizeRequest(model=model))
            except grpc.aio.AioRpcError:
                assert model != "ok"
        with pytest.raises(grpc.aio.AioRpcError):
            await recognition.Recognize(recognition_pb2.RecognizeRequest(model="hang"), timeout=0.2)
        labeling = labeling_pb2_grpc.LabelingIngestStub(channel)
        rows = (labeling_pb2.SubmitImageRequest(ordinal=n) for n in range(4))
        assert [r.ordinal async for r in labeling.SubmitImages(rows)] == [0, 1, 2, 3]
        exported = labeling.ExportLabels(labeling_pb2.ExportLabelsRequest())
        assert len([label async for label in exported]) == 3
        await labeling.ListDatasets(labeling_pb2.ListDatasetsRequest())
        with pytest.raises(grpc.aio.AioRpcError):
            await channel.unary_unary("/no.such/Method")(b"")
    await server.stop(5)


def test_rpc_metrics_count_every_call_by_its_code() -> None:
    expected = {
        ("unary", "Recognize", "OK"): 1,
        ("unary", "Recognize", "ResourceExhausted"): 1,
        ("unary", "Recognize", "NotFound"): 1,
        ("unary", "Recognize", "Unknown"): 1,
        ("unary", "Recognize", "Canceled"): 1,
        ("bidi_stream", "SubmitImages", "OK"): 1,
        ("server_stream", "ExportLabels", "OK"): 1,
        ("unary", "ListDatasets", "OK"): 1,
    }
    before = {key: handled(*key) for key in expected}
    asyncio.run(call_everything())
    assert {key: handled(*key) - before[key] for key in expected} == expected
    body = metrics.exposition()[0].decode()
    assert "no.such" not in body
    assert "grpc_server_handling_seconds_bucket{" in body
    assert logs.REDACTED not in body

"""What is kept of a request, and what never is."""

import json
import logging
from collections.abc import Sequence

import pytest

from visionloop.proto.inference import open_inference_pb2 as oip
from visionloop.proto.v1 import recognition_pb2 as pb
from visionloop.telemetry import request_lines
from visionloop.telemetry.logs import JsonFormatter
from visionloop_inference.access_log import AccessLog, peer_of

METHOD = "/visionloop.v1.Recognition/Recognize"


class Context:
    """What a servicer's context says of its caller."""

    def __init__(self, peer: str, *metadata: tuple[str, str]) -> None:
        self._peer, self._metadata = peer, metadata

    def peer(self) -> str:
        return self._peer

    def invocation_metadata(self) -> Sequence[tuple[str, str]]:
        return self._metadata


NEAR = Context("ipv4:127.0.0.1:5000", ("authorization", "Bearer hush"))


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    """The lines written so far, as the JSON log has them."""
    caplog.set_level(logging.INFO, "visionloop_inference.access_log")

    class Lines(list[dict[str, object]]):
        def __getitem__(self, index):
            formatter = JsonFormatter("test")
            return json.loads(formatter.format(caplog.records[index]))

        def __len__(self) -> int:
            return len(caplog.records)

    return Lines()


def test_a_recognition_is_one_line(lines: list[dict[str, object]]) -> None:
    request = pb.RecognizeRequest(images=[pb.EncodedImage(data=b"secret pixels")] * 2)
    response = pb.RecognizeResponse(model="cells", version=7)
    AccessLog(1.0).write(
        METHOD, "OK", 0.0123456789, peer=peer_of(NEAR), caller="line-3", request=request,
        response=response,
    )  # fmt: skip
    line = lines[0]
    assert {
        k: line[k] for k in line.keys() - {"time", "level", "program", "logger", "message"}
    } == {
        "method": "visionloop.v1.Recognition/Recognize",
        "code": "OK",
        "seconds": 0.012346,
        "peer": "ipv4:127.0.0.1:5000",
        "bytes": request.ByteSize(),
        "rows": 2,
        "model": "cells",
        "version": "7",
        "caller": "line-3",
    }
    assert "hush" not in str(line)
    assert "pixels" not in str(line)


def test_tensors_bytes_and_streams(lines: list[dict[str, object]]) -> None:
    log = AccessLog(1.0)
    request = oip.ModelInferRequest(model_name="m", model_version="stable")
    request.inputs.add(name="x", datatype="UINT8", shape=[5, 2])
    response = oip.ModelInferResponse(model_name="m", model_version="3")
    log.write("/i/ModelInfer", "OK", 0.1, peer=peer_of(NEAR), request=request, response=response)
    log.write("/i/ModelInfer", "OK", 0.1, peer=peer_of(NEAR), request=b"12345", response=response)
    log.write("/i/ModelStreamInfer", "CANCELLED", 0.1, peer=peer_of(NEAR))
    log.write("/i/ModelInfer", "NOT_FOUND", 0.1, peer=peer_of(NEAR), request=request)
    assert (lines[0]["rows"], lines[0]["model"], lines[0]["version"]) == (5, "m", "3")
    assert (lines[1]["bytes"], lines[1].get("rows"), lines[1]["version"]) == (5, None, "3")
    assert "bytes" not in lines[2]
    assert lines[3]["model"] == "m"
    assert "version" not in lines[3]  # none answered


def test_messages_that_come_as_bytes_tell_as_much(lines: list[dict[str, object]]) -> None:
    log = AccessLog(1.0)
    request = oip.ModelInferRequest(model_name="m", id="7", raw_input_contents=[b"hush" * 5])
    request.inputs.add(name="x", datatype="UINT8", shape=[10, 2])
    response = oip.ModelInferResponse(
        model_name="m" * 63, model_version="3", id="7", raw_output_contents=[b"hush" * 1000]
    )
    sent, given = request.SerializeToString(), response.SerializeToString()
    log.write("/i/ModelInfer", "OK", 0.1, peer=peer_of(NEAR), request=sent, response=given)
    log.write("/i/ModelInfer", "NOT_FOUND", 0.1, peer=peer_of(NEAR), request=sent)
    answered, refused = lines[0], lines[1]
    assert (answered["bytes"], answered["rows"]) == (len(sent), 10)
    assert (answered["model"], answered["version"]) == ("m" * 63, "3")
    assert (refused["model"], refused["rows"], refused.get("version")) == ("m", 10, None)
    assert "hush" not in f"{answered}{refused}"


def test_texts_of_callers_are_cut_and_bear_no_line_ends(lines: list[dict[str, object]]) -> None:
    request = pb.RecognizeRequest(model="a\nERROR forged" + "x" * 10_000)
    AccessLog(1.0).write(METHOD, "NOT_FOUND", 0.1, peer=peer_of(NEAR), request=request)
    model = lines[0]["model"]
    assert isinstance(model, str)
    assert model.startswith("'a\\nERROR forged")
    assert len(model) < 200


def test_the_http_port_may_say_who_asked_and_nobody_else(lines: list[dict[str, object]]) -> None:
    said = ("visionloop-peer", "192.0.2.7:1234")
    for context in (Context("unix:/x/http.sock", said), Context("ipv4:10.0.0.1:1", said)):
        AccessLog(1.0).write(METHOD, "OK", 0.1, peer=peer_of(context))
    assert [lines[0]["peer"], lines[1]["peer"]] == ["http:192.0.2.7:1234", "ipv4:10.0.0.1:1"]
    assert peer_of(Context("ipv6:%5B::1%5D:59254")) == "ipv6:[::1]:59254"


def test_the_share_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any(AccessLog(0.0).wants("OK") for _ in range(1000))
    assert all(AccessLog(1.0).wants("OK") for _ in range(1000))
    log = AccessLog(0.2)
    drawn = iter([i / 1000 for i in range(1000)])
    monkeypatch.setattr(request_lines.random, "random", lambda: next(drawn))
    assert sum(log.wants("OK") for _ in range(1000)) == 200


def test_failures_are_kept_but_no_flood_of_them(
    monkeypatch: pytest.MonkeyPatch, lines: list[dict[str, object]]
) -> None:
    now = 100.0
    monkeypatch.setattr(request_lines.time, "monotonic", lambda: now)
    log = AccessLog(0.0)
    assert sum(log.wants("INTERNAL") for _ in range(1000)) == 10
    now += 0.5
    assert sum(log.wants("INTERNAL") for _ in range(1000)) == 5
    now += 100.0
    assert log.wants("INTERNAL")
    log.write(METHOD, "INTERNAL", 0.1, peer=peer_of(NEAR))
    log.write(METHOD, "INTERNAL", 0.1, peer=peer_of(NEAR))
    assert lines[0]["failures_left_out"] == 990 + 995
    assert "failures_left_out" not in lines[1]

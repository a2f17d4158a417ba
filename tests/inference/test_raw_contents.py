"""Requests taken apart: the same meaning as protobuf's own parser, whatever the bytes."""

import os
import random
import tracemalloc

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from support.mutations import mutated

from visionloop.errors import InvalidInputError
from visionloop.proto.inference import open_inference_pb2 as pb
from visionloop_inference.raw_contents import (
    MAX_FIELDS,
    MAX_HEADER_BYTES,
    parse_header,
    take_apart,
)

CASES = int(os.environ.get("FUZZ_CASES", "12000"))

names = st.text(max_size=12)
parameters = st.dictionaries(
    names,
    st.one_of(
        st.builds(pb.InferParameter, bool_param=st.booleans()),
        st.builds(pb.InferParameter, int64_param=st.integers(-(2**63), 2**63 - 1)),
        st.builds(pb.InferParameter, string_param=names),
        st.builds(pb.InferParameter, double_param=st.floats(allow_nan=False)),
    ),
    max_size=3,
)
contents = st.builds(
    pb.InferTensorContents,
    uint_contents=st.lists(st.integers(0, 2**32 - 1), max_size=4),
    fp32_contents=st.lists(st.floats(width=32, allow_nan=False), max_size=4),
    bytes_contents=st.lists(st.binary(max_size=9), max_size=3),
)
tensors = st.builds(
    pb.ModelInferRequest.InferInputTensor,
    name=names,
    datatype=st.sampled_from(["FP32", "BYTES", ""]),
    shape=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4),
    parameters=parameters,
    contents=st.none() | contents,
)
wanted_outputs = st.builds(
    pb.ModelInferRequest.InferRequestedOutputTensor, name=names, parameters=parameters
)
requests = st.builds(
    pb.ModelInferRequest,
    model_name=names,
    model_version=names,
    id=names,
    parameters=parameters,
    inputs=st.lists(tensors, max_size=3),
    outputs=st.lists(wanted_outputs, max_size=3),
    raw_input_contents=st.lists(st.binary(max_size=300), max_size=3),
)


def protobuf_s(data: bytes) -> tuple[pb.ModelInferRequest, list[bytes]] | None:
    """What protobuf's parser says; None: refused."""
    try:
        request = pb.ModelInferRequest.FromString(data)
    except DecodeError:
        return None
    raws = list(request.raw_input_contents)
    request.ClearField("raw_input_contents")
    return request, raws


def ours(data: bytes) -> tuple[pb.ModelInferRequest, list[bytes]] | None:
    try:
        parts = take_apart(data)
        request = parse_header(parts.header)
    except InvalidInputError:
        return None
    request.id = parts.id.decode()
    return request, [bytes(raw) for raw in parts.raws]


@settings(max_examples=500, deadline=None)
@given(requests, st.randoms(use_true_random=False))
def test_any_request_and_its_damaged_copies(
    request: pb.ModelInferRequest, chance: random.Random
) -> None:
    data = request.SerializeToString()
    assert ours(data) == protobuf_s(data)
    for damaged in (mutated(data, chance, INTERESTING) for _ in range(4)):
        assert ours(damaged) == protobuf_s(damaged)


# Fields of every wire type, unknown numbers, groups, lengths that are padded, cut off or huge.
INTERESTING = (
    b"\x1a\x02id", b"\x1a\x01\xff", b"\x3a\x01r", b"\x3a\x00", b"\x38\x05", b"\x18\x07",
    b"\x3d\0\0\0\0", b"\x39\0\0\0\0\0\0\0\0", b"\x3b\x3c", b"\x3b", b"\x3c", b"\x42\x01u",
    b"\xba\x01\x01u", b"\x3a\x81\x80\x00r", b"\x3a\xff\xff\xff\xff\x07",
    b"\x3a\xff\xff\xff\xff\x0f",
    b"\x3a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", b"\xba\x80\x00\x01r", b"\x00", b"\x02\x00",
    b"\x0a\x01m", b"\x12\x011", b"\x2a\x00", b"\x32\x00", b"\x22\x00", b"\xfa\xff\xff\xff\x0f\x00",
)  # fmt: skip


def test_thousands_of_damaged_messages() -> None:
    chance = random.Random(20)
    whole = pb.ModelInferRequest(model_name="m", id="seven", raw_input_contents=[b"abc", b"", b"x"])
    whole.inputs.add(name="x", datatype="FP32", shape=[1, 4]).parameters["p"].bool_param = True
    whole.outputs.add(name="y")
    seeds = [whole.SerializeToString(), b"", b"".join(INTERESTING[:4])]
    refused = 0
    for case in range(CASES):
        data = mutated(chance.choice(seeds), chance, INTERESTING)
        wanted = protobuf_s(data)
        assert ours(data) == wanted, (case, data)
        refused += wanted is None
    assert CASES / 50 < refused < CASES * 0.9


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    assert ours(data) == protobuf_s(data)


def test_raw_contents_are_views_of_the_message() -> None:
    sent = pb.ModelInferRequest(model_name="m", raw_input_contents=[bytes(2**20)] * 3)
    data = sent.SerializeToString()
    tracemalloc.start()
    try:
        raws = take_apart(data).raws
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [len(raw) for raw in raws] == [2**20] * 3
    assert all(raw.obj is data for raw in raws)
    assert most < 2**16


def test_requests_of_a_kind_share_a_header() -> None:
    def header(ident: str, raw: bytes) -> bytes:
        sent = pb.ModelInferRequest(model_name="m", id=ident, raw_input_contents=[raw])
        sent.inputs.add(name="x", datatype="UINT8", shape=[3])
        return take_apart(sent.SerializeToString()).header

    assert header("", b"abc") == header("1", b"def") == header("ünïcode" * 40, bytes(500))
    assert parse_header(header("1", b"abc")).inputs[0].name == "x"


@pytest.mark.parametrize("unknown", [b"", b"\xb8\x3e\x07"], ids=["plain", "with unknown field"])
@pytest.mark.parametrize("field", [b"\x2a\x00", b"\x32\x00", b"\x3a\x00", b"\x22\x00"])
def test_a_million_empty_fields_are_refused_before_they_are_parsed(
    field: bytes, unknown: bytes
) -> None:
    data = unknown + field * 2**20
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInputError, match=f"the limit is {MAX_FIELDS}"):
            take_apart(data)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 2**18


def test_long_headers_are_refused() -> None:
    sent = pb.ModelInferRequest()
    sent.inputs.add(name="x").contents.bytes_contents.append(bytes(MAX_HEADER_BYTES))
    with pytest.raises(InvalidInputError, match="send large tensors as raw_input_contents"):
        take_apart(sent.SerializeToString())


def test_as_many_fields_as_allowed() -> None:
    sent = pb.ModelInferRequest(raw_input_contents=[b""] * MAX_FIELDS)
    assert len(take_apart(sent.SerializeToString()).raws) == MAX_FIELDS

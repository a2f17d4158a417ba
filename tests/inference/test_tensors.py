"""The rules of Open Inference Protocol tensors."""

import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visionloop.bundle import TensorInput
from visionloop.errors import InvalidInputError
from visionloop.proto.inference import open_inference_pb2 as pb
from visionloop_inference.tensors import (
    add_output,
    check_input,
    encoded_images_of,
    pixels_of,
    split_bytes,
)

SPEC = TensorInput(name="pixels", height=2, width=2)
PIXELS = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)


def request(
    *, shape: list[int] | None = None, datatype: str = "UINT8", raw: list[bytes] | None = None
) -> pb.ModelInferRequest:
    made = pb.ModelInferRequest(raw_input_contents=raw or [])
    made.inputs.add(name="pixels", datatype=datatype, shape=shape or [2, 2, 2, 3])
    return made


def test_raw_pixels() -> None:
    sent = request(raw=[PIXELS.tobytes()])
    assert check_input(sent, SPEC) == "UINT8"
    assert np.array_equal(pixels_of(sent, SPEC, 8), PIXELS)


def test_typed_pixels() -> None:
    sent = request()
    sent.inputs[0].contents.uint_contents.extend(PIXELS.ravel().tolist())
    assert check_input(sent, SPEC) == "UINT8"
    assert np.array_equal(pixels_of(sent, SPEC, 8), PIXELS)


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (request(raw=[b"123"]), "3 bytes in raw_input_contents; its shape .* needs 24"),
        (request(raw=[PIXELS.tobytes(), b""]), "2 entries for 1 inputs"),
        (request(shape=[2, 3, 2, 2], raw=[PIXELS.tobytes()]), r"must be \[n, 2, 2, 3\]"),
        (request(shape=[2, 2, 3], raw=[PIXELS.tobytes()]), r"must be \[n, 2, 2, 3\]"),
        (request(shape=[-1, 2, 2, 3], raw=[PIXELS.tobytes()]), "n of at least 1"),
        (request(shape=[0, 2, 2, 3]), "n of at least 1"),
        (request(), "in no field"),
    ],
)
def test_pixels_that_do_not_fit_are_said(sent: pb.ModelInferRequest, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        pixels_of(sent, SPEC, 8)


def test_typed_values_must_be_bytes() -> None:
    sent = request()
    sent.inputs[0].contents.uint_contents.extend([256] * 24)
    with pytest.raises(InvalidInputError, match="holds the value 256; UINT8 ends at 255"):
        pixels_of(sent, SPEC, 8)


def test_typed_values_must_be_in_the_field_of_the_datatype() -> None:
    sent = request()
    sent.inputs[0].contents.int_contents.extend([1] * 24)
    with pytest.raises(InvalidInputError, match="in int_contents; they belong in uint_contents"):
        pixels_of(sent, SPEC, 8)


def test_raw_and_typed_exclude_each_other() -> None:
    sent = request(raw=[PIXELS.tobytes()])
    sent.inputs[0].contents.uint_contents.append(1)
    with pytest.raises(InvalidInputError, match="use one"):
        check_input(sent, SPEC)


@pytest.mark.parametrize("datatype", ["FP32", "INT8", "", "uint8"])
def test_other_datatypes_are_refused(datatype: str) -> None:
    with pytest.raises(InvalidInputError, match="it must be UINT8"):
        check_input(request(datatype=datatype), SPEC)


def test_the_input_is_asked_for_by_name_and_only_it() -> None:
    sent = request()
    sent.inputs.add(name="more")
    with pytest.raises(InvalidInputError, match=r"inputs are \['pixels', 'more'\]"):
        check_input(sent, SPEC)


def test_shared_memory_is_refused() -> None:
    sent = request()
    sent.inputs[0].parameters["shared_memory_region"].string_param = "r"
    with pytest.raises(InvalidInputError, match="shared memory"):
        check_input(sent, SPEC)


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=8))
def test_raw_bytes_come_apart_as_they_were_put_together(elements: list[bytes]) -> None:
    raw = b"".join(struct.pack("<I", len(element)) + element for element in elements)
    assert split_bytes(raw, 8) == elements
    sent = request(datatype="BYTES", shape=[len(elements)], raw=[raw])
    assert encoded_images_of(sent, 8) == elements


@given(st.binary(max_size=64))
def test_any_raw_bytes_are_split_or_refused(raw: bytes) -> None:
    try:
        elements = split_bytes(raw, 64)
    except InvalidInputError:
        return
    assert sum(4 + len(element) for element in elements) == len(raw)


@pytest.mark.parametrize("shape", [1, 2**62])
def test_a_message_of_empty_elements_is_refused_where_it_becomes_too_long(shape: int) -> None:
    sent = request(datatype="BYTES", shape=[shape], raw=[bytes(4 * 2**20)])
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInputError, match=r"bytes are left after the 1|send 1 to 8"):
            encoded_images_of(sent, 8)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 6 * 2**20  # the content itself, without a list of a million elements


def test_more_rows_than_allowed_are_refused_before_they_are_read() -> None:
    sent = request(shape=[9, 2, 2, 3])
    sent.inputs[0].contents.uint_contents.extend([256] * 108)
    with pytest.raises(InvalidInputError, match="9 given; send 1 to 8"):
        pixels_of(sent, SPEC, 8)


def test_typed_bytes() -> None:
    sent = request(datatype="BYTES", shape=[2, 1])
    sent.inputs[0].contents.bytes_contents.extend([b"a", b"b"])
    assert encoded_images_of(sent, 8) == [b"a", b"b"]


@pytest.mark.parametrize("shape", [[2], [1, 2], [0], [-1], [1, 1, 1]])
def test_bytes_of_another_shape_are_refused(shape: list[int]) -> None:
    sent = request(datatype="BYTES", shape=shape)
    sent.inputs[0].contents.bytes_contents.append(b"a")
    with pytest.raises(InvalidInputError):
        encoded_images_of(sent, 8)


@pytest.mark.parametrize("raw", [True, False])
def test_outputs_come_as_they_were_asked(raw: bool) -> None:
    values = np.asarray([[1.5, 2.5], [3.5, 4.5]], np.float32)
    response = pb.ModelInferResponse()
    add_output(response, "y", values, raw=raw)
    assert list(response.outputs[0].shape) == [2, 2]
    if raw:
        assert (
            np.frombuffer(response.raw_output_contents[0], "<f4").tolist()
            == values.ravel().tolist()
        )
        assert not response.outputs[0].HasField("contents")
    else:
        assert list(response.outputs[0].contents.fp32_contents) == values.ravel().tolist()
        assert not response.raw_output_contents

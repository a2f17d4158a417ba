"""The rules of Open Inference Protocol tensors."""

import asyncio
import math
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visionloop.errors import InvalidInputError
from visionloop.proto.inference import open_inference_pb2 as pb
from visionloop.signature import TensorSpec
from visionloop_inference.classes import TURN, classified, endings
from visionloop_inference.datatypes import DATATYPES, Tensor
from visionloop_inference.tensors import (
    CONTENTS,
    MAX_BYTES_ELEMENTS,
    MAX_TYPED_ELEMENTS,
    add_typed_output,
    check_bools,
    check_bytes,
    check_shape,
    joined_bytes,
    split_bytes,
    typed_data,
)

SPEC = TensorSpec(name="x", datatype="FP32", shape=[3, -1])


def rows(shape: tuple[int, ...], *, batched: bool = True) -> int:
    return check_shape(shape, SPEC, batched=batched, max_rows=8, field="inputs[0]")


@pytest.mark.parametrize("shape", [(1, 3, 1), (8, 3, 2**40), (2, 3, 0)])
def test_shapes_that_fit(shape: tuple[int, ...]) -> None:
    assert rows(shape) == shape[0]
    assert rows(shape[1:], batched=False) == 1


@pytest.mark.parametrize(
    "shape", [(), (1,), (1, 3), (1, 2, 1), (1, 3, -1), (1, -1, 1), (1, 3, 1, 1), (1,) * 10_000]
)
def test_shapes_that_do_not_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInputError, match=r"it must be \[rows, 3, n\] \(n: any size\)") as no:
        rows(shape)
    assert no.value.field == "inputs[0].shape"
    assert len(str(no.value)) < 300


@pytest.mark.parametrize("count", [-(2**63), -1, 0, 9, 2**63 - 1])
def test_rows_are_bounded(count: int) -> None:
    with pytest.raises(InvalidInputError, match=f"rows of x: {count} given; send 1 to 8"):
        rows((count, 3, 1))


@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 9), max_size=5).map(tuple))
def test_any_shape_is_taken_or_refused(shape: tuple[int, ...]) -> None:
    try:
        count = rows(shape)
    except InvalidInputError:
        return
    assert count == shape[0]
    assert len(shape) == 3
    assert 1 <= count <= 8
    assert math.prod(shape) >= 0


# BYTES.


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_raw_bytes_come_apart_as_they_were_put_together(elements: list[bytes]) -> None:
    raw = joined_bytes(elements)
    assert raw == b"".join(struct.pack("<I", len(e)) + e for e in elements)
    assert [bytes(e) for e in split_bytes(raw, len(elements), "raw")] == elements
    check_bytes(raw, len(elements), "raw")


@settings(max_examples=500)
@given(st.binary(max_size=64) | st.lists(st.sampled_from(b"\0\1\2\4"), max_size=64).map(bytes))
def test_any_raw_bytes_are_split_or_refused(raw: bytes) -> None:
    fitting = 0
    for count in range(18):
        try:
            elements = split_bytes(raw, count, "raw")
        except InvalidInputError:
            continue
        fitting += 1
        assert len(elements) == count
        assert sum(4 + len(element) for element in elements) == len(raw)
    assert fitting <= 1


@pytest.mark.parametrize("count", [1, MAX_BYTES_ELEMENTS + 1, 2**62])
def test_a_message_of_empty_elements_is_refused_without_taking_memory(count: int) -> None:
    raw = bytes(4 * 2**20)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInputError, match=r"bytes are left after|the limit is"):
            check_bytes(raw, count, "raw")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 2**16


def test_element_lengths_that_overrun_are_named() -> None:
    raw = joined_bytes([b"one", b"two"])
    for cut in range(1, len(raw)):
        element = 0 if cut < 7 else 1
        with pytest.raises(InvalidInputError, match=f"element {element} of 2 needs more bytes"):
            check_bytes(raw[:cut], 2, "raw_input_contents[0]")
    with pytest.raises(InvalidInputError, match=r"raw_input_contents\[0\]: 7 bytes are left after"):
        check_bytes(raw, 1, "raw_input_contents[0]")


# Typed contents.


def sent(datatype: str, values: object, field: str = "") -> pb.ModelInferRequest.InferInputTensor:
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype=datatype)
    getattr(tensor.contents, field or CONTENTS[datatype]).extend(values)
    return tensor


@pytest.mark.parametrize("datatype", CONTENTS)
def test_typed_and_raw_say_the_same(datatype: str) -> None:
    kind = DATATYPES[datatype].numpy
    array = np.asarray([[0, 1, 1], [1, 0, 1]]).astype(kind) if datatype != "BYTES" else None
    elements = (
        array.ravel().tolist() if array is not None else [b"", b"a", b"bc", b"\xff", b"", b"e"]
    )
    raw = typed_data(sent(datatype, elements), datatype, (2, 3), "inputs[0]")
    assert raw == (array.tobytes() if array is not None else joined_bytes(elements))
    response = pb.ModelInferResponse()
    add_typed_output(response, "y", Tensor(datatype, (2, 3), raw))
    [output] = response.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("y", datatype, [2, 3])
    assert list(getattr(output.contents, CONTENTS[datatype])) == elements
    assert [field.name for field, _ in output.contents.ListFields()] == [CONTENTS[datatype]]


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        ("INT8", 128), ("INT8", -129), ("INT16", 2**15), ("INT16", -(2**15) - 1),
        ("UINT8", 256), ("UINT16", 2**16),
    ],
)  # fmt: skip
def test_values_out_of_range_are_named(datatype: str, value: int) -> None:
    bounds = np.iinfo(DATATYPES[datatype].numpy)
    with pytest.raises(
        InvalidInputError,
        match=f"holds the value {value}; {datatype} goes from {bounds.min} to {bounds.max}",
    ):
        typed_data(sent(datatype, [0, value]), datatype, (2,), "inputs[0]")


@pytest.mark.parametrize(
    ("tensor", "shape", "words"),
    [
        (sent("FP32", [1.0]), (2,), "1 values in contents.fp32_contents; its shape .* needs 2"),
        (sent("FP32", [1.0] * 3), (2,), "3 values in contents.fp32_contents"),
        (
            sent("FP32", [1, 2], "int_contents"),
            (2,),
            "in int_contents; they belong in fp32_contents",
        ),
        (sent("FP32", [], "fp32_contents"), (2,), "in no field"),
        (sent("FP32", [1.0]), (2**62,), "needs 4611686018427387904"),
    ],
)
def test_typed_contents_that_do_not_fit(
    tensor: pb.ModelInferRequest.InferInputTensor, shape: tuple[int, ...], words: str
) -> None:
    with pytest.raises(InvalidInputError, match=words) as refusal:
        typed_data(tensor, "FP32", shape, "inputs[0]")
    assert refusal.value.field == "inputs[0].contents"


def test_typed_contents_in_two_fields() -> None:
    tensor = sent("FP32", [1.0])
    tensor.contents.bool_contents.append(True)
    with pytest.raises(InvalidInputError, match="in bool_contents and fp32_contents; they belong"):
        typed_data(tensor, "FP32", (1,), "inputs[0]")


def test_an_empty_tensor_needs_no_contents() -> None:
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32")
    assert typed_data(tensor, "FP32", (2, 0), "inputs[0]") == b""


def test_typed_contents_are_bounded() -> None:
    count = MAX_TYPED_ELEMENTS + 1
    tensor = pb.ModelInferRequest.InferInputTensor(name="x")
    # A packed field of zeros, as cheap to send as can be.
    tensor.contents.MergeFromString(b"\x0a" + varint(count) + bytes(count))
    assert len(tensor.contents.bool_contents) == count
    with pytest.raises(InvalidInputError, match="send large tensors as raw_input_contents"):
        typed_data(tensor, "BOOL", (count,), "inputs[0]")


def varint(number: int) -> bytes:
    made = bytearray()
    while number > 127:
        made.append(number & 127 | 128)
        number >>= 7
    return bytes([*made, number])


def test_bools_are_0_or_1() -> None:
    check_bools("x", b"\0\1\1", "raw")
    check_bools("x", b"", "raw")
    with pytest.raises(InvalidInputError, match="'x' holds the byte 2; BOOL is 0 or 1"):
        check_bools("x", memoryview(b"\0\2"), "raw")


# The classification extension.


def best(array: np.ndarray, classes: int, datatype: str = "", batched: bool = True) -> list[str]:
    kind = datatype or next(n for n, d in DATATYPES.items() if d.numpy == array.dtype)
    tensor = Tensor(kind, array.shape, array.tobytes())
    found = asyncio.run(classified(tensor, classes, endings(("a", "b")), batched=batched))
    assert found.datatype == "BYTES"
    count = math.prod(found.shape)
    return [bytes(e).decode() for e in split_bytes(found.data, count, "classes")]


def test_the_best_classes() -> None:
    values = np.float32([[0.1, 0.7, 0.2], [3, 3, 3]])
    assert best(values, 2) == ["0.700000:1:b", "0.200000:2", "3.000000:0:a", "3.000000:1:b"]
    assert best(values, 9, batched=False) == [
        "3.000000:3", "3.000000:4", "3.000000:5", "0.700000:1:b", "0.200000:2", "0.100000:0:a",
    ]  # fmt: skip
    assert best(np.uint8([[3, 255, 0]]), 2) == ["255:1:b", "3:0:a"]
    assert best(np.int64([[-(2**63), 2**63 - 1]]), 1) == [f"{2**63 - 1}:1:b"]
    assert best(np.float32([[np.nan, -np.inf, 1]]), 3) == ["1.000000:2", "-inf:1:b", "nan:0:a"]
    bits = np.uint16([[0x3F80, 0x4000]])  # 1.0 and 2.0 in bfloat16
    assert best(bits, 1, "BF16") == ["2.000000:1:b"]
    assert best(np.zeros((2, 0), np.float32), 3) == []


def test_others_have_their_turns_while_many_texts_are_made() -> None:
    async def turns(rows: int) -> int:
        """Of the event loop, while the texts of so many rows of 1,000 classes are made."""
        tensor = Tensor("FP32", (rows, 1000), bytes(rows * 4000))
        working = asyncio.ensure_future(classified(tensor, 1000, (), batched=True))
        counted = 0
        while not working.done():
            counted += 1
            await asyncio.sleep(0)
        return counted

    assert asyncio.run(turns(64)) - asyncio.run(turns(1)) == 64 * 1000 // TURN


@given(st.lists(st.floats(width=32), min_size=1, max_size=20), st.integers(1, 30))
def test_any_values_are_ordered(values: list[float], classes: int) -> None:
    found = best(np.float32([values]), classes)
    indices = [int(text.split(":")[1]) for text in found]
    assert len(set(indices)) == len(indices) == min(classes, len(values))
    keys = [(math.isnan(values[i]), 0 if math.isnan(values[i]) else -values[i], i) for i in indices]
    assert keys == sorted(keys)

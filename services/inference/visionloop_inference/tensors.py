"""Tensors of the Open Inference Protocol: their shapes, sizes and two forms.

A tensor comes raw (`raw_input_contents`: little-endian, row major, an element of BYTES as a 4-byte
length and the bytes) or typed (`contents`, one field for each datatype). The service works with
the raw form; typed contents are turned into it here and answers back, at some 50 ns an element.
Nothing is allocated by what a shape says: sizes are compared before a byte is read.
"""

import math
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from visionloop.errors import InvalidInputError
from visionloop.proto.inference import open_inference_pb2 as pb
from visionloop.signature import FREE, TensorSpec
from visionloop_inference.datatypes import DATATYPES, Buffer, Tensor

InputTensor = pb.ModelInferRequest.InferInputTensor

# The event loop stands still while elements are looked at one by one: 0.1 to 0.2 s for so many.
MAX_TYPED_ELEMENTS = 2**22
MAX_BYTES_ELEMENTS = 2**18

# Where a datatype's elements stand in `contents`. FP16 and BF16 have no field: raw only.
CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_LENGTH = struct.Struct("<I")


def check_shape(
    shape: tuple[int, ...], spec: TensorSpec, *, batched: bool, max_rows: int, field: str
) -> int:
    """The rows that the shape has; 1 without a batch dimension.

    Raises InvalidInputError for another rank or size than `spec` has. A free size may be 0.
    """
    own = shape[1:] if batched else shape
    if len(own) != len(spec.shape) or (batched and not shape) or not _fits(own, spec.shape):
        raise InvalidInputError(
            f"input {spec.name!r} has the shape {_shown(shape)}; it must be "
            f"{_wanted(spec, batched=batched)}",
            field=f"{field}.shape",
        )
    if not batched:
        return 1
    if not 1 <= shape[0] <= max_rows:
        raise InvalidInputError(
            f"rows of {spec.name}: {shape[0]} given; send 1 to {max_rows} in one request",
            field=f"{field}.shape",
        )
    return shape[0]


def _fits(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    return all(
        size >= 0 and there in (size, FREE) for size, there in zip(shape, wanted, strict=True)
    )


def _shown(shape: Sequence[int]) -> str:
    """The shape for a message; a caller can send one of any length."""
    return str(list(shape)) if len(shape) <= 8 else f"[{str(list(shape[:8]))[1:-1]}, …]"


def _wanted(spec: TensorSpec, *, batched: bool) -> str:
    sizes = ["n" if size == FREE else str(size) for size in spec.shape]
    where = " (n: any size)" if FREE in spec.shape else ""
    return f"[{', '.join(['rows'] * batched + sizes)}]{where}"


def check_size(name: str, shape: tuple[int, ...], found: int, wanted: int, field: str) -> None:
    """Raises InvalidInputError unless a tensor's raw bytes are as many as its shape says."""
    if found != wanted:
        raise InvalidInputError(
            f"input {name!r} has {found} bytes in {field}; its shape {list(shape)} needs {wanted}",
            field=field,
        )


def split_bytes(raw: Buffer, count: int, field: str) -> list[memoryview]:
    """The `count` elements of raw BYTES, as views.

    Raises InvalidInputError where a length overruns, or at the first byte too many: a message of
    zeros would be millions of empty elements.
    """
    view = memoryview(raw)
    return [view[start:stop] for start, stop in _places(view, count, field)]


def check_bytes(raw: Buffer, count: int, field: str) -> None:
    """Raises InvalidInputError as `split_bytes` does."""
    for _ in _places(memoryview(raw), count, field):
        pass


def _places(raw: memoryview, count: int, field: str) -> Iterator[tuple[int, int]]:
    """Where each element begins and ends."""
    if count > MAX_BYTES_ELEMENTS:
        raise InvalidInputError(
            f"{field}: {count} elements; the limit is {MAX_BYTES_ELEMENTS}", field=field
        )
    place = 0
    end = len(raw)
    for found in range(count):
        start = place + 4
        stop = start + _LENGTH.unpack_from(raw, place)[0] if start <= end else end + 1
        if stop > end:
            raise InvalidInputError(
                f"{field}: element {found} of {count} needs more bytes than are left; each is a "
                "4-byte little-endian length and so many bytes",
                field=field,
            )
        yield start, stop
        place = stop
    if place < end:
        raise InvalidInputError(
            f"{field}: {end - place} bytes are left after the {count} elements that the shape says",
            field=field,
        )


def joined_bytes(elements: Sequence[Buffer]) -> bytes:
    """The raw form of BYTES elements."""
    parts: list[Buffer] = []
    for element in elements:
        parts += (_LENGTH.pack(len(element)), element)
    return b"".join(parts)


def typed_data(tensor: InputTensor, datatype: str, shape: tuple[int, ...], field: str) -> bytes:
    """The raw form of a tensor that came with `contents`.

    Raises InvalidInputError for values in the wrong field, too many, too few, or out of range.
    """
    count = math.prod(shape)
    values = _contents(tensor, datatype, count, field)
    if len(values) != count:
        raise InvalidInputError(
            f"input {tensor.name!r} has {len(values)} values in contents.{CONTENTS[datatype]}; its "
            f"shape {_shown(shape)} needs {count}",
            field=f"{field}.contents",
        )
    if count > MAX_TYPED_ELEMENTS:
        raise InvalidInputError(
            f"input {tensor.name!r} has {count} values in contents.{CONTENTS[datatype]}; the limit "
            f"is {MAX_TYPED_ELEMENTS}: send large tensors as raw_input_contents",
            field=f"{field}.contents",
        )
    if datatype == "BYTES":
        return joined_bytes(values)
    return _packed(tensor.name, datatype, values, count, field)


def _packed(name: str, datatype: str, values: Any, count: int, field: str) -> bytes:
    kind = DATATYPES[datatype].numpy
    if kind.itemsize < 4 and kind.kind in "iu":
        wide = np.fromiter(values, np.int64, count)
        bounds = np.iinfo(kind)
        outside = (wide < bounds.min) | (wide > bounds.max)
        if outside.any():
            raise InvalidInputError(
                f"input {name!r} holds the value {int(wide[outside][0])}; {datatype} goes from "
                f"{bounds.min} to {bounds.max}",
                field=f"{field}.contents",
            )
        return wide.astype(kind).tobytes()
    return np.fromiter(values, kind, count).astype(kind.newbyteorder("<"), copy=False).tobytes()


def _contents(tensor: InputTensor, datatype: str, count: int, field: str) -> Any:
    wanted = CONTENTS.get(datatype)
    if wanted is None:
        raise InvalidInputError(
            f"input {tensor.name!r} is of {datatype}, which has no field in contents; send it in "
            "raw_input_contents",
            field=f"{field}.contents",
        )
    filled = [found.name for found, _ in tensor.contents.ListFields()]
    if filled not in ([wanted], []) or (count and not filled):
        raise InvalidInputError(
            f"input {tensor.name!r} of {datatype} has its contents in "
            f"{' and '.join(filled) or 'no field'}; they belong in {wanted} or, better, in "
            "raw_input_contents",
            field=f"{field}.contents",
        )
    return getattr(tensor.contents, wanted)


def check_bools(name: str, raw: Buffer, field: str) -> None:
    """Raises InvalidInputError for bytes that are neither 0 nor 1: no graph says what they mean."""
    values = np.frombuffer(raw, np.uint8)
    if values.size and int(values.max()) > 1:
        raise InvalidInputError(
            f"input {name!r} holds the byte {int(values.max())}; BOOL is 0 or 1", field=field
        )


def has_contents_field(datatype: str) -> bool:
    """Whether a tensor of this datatype can be sent typed."""
    return datatype in CONTENTS


def add_typed_output(response: pb.ModelInferResponse, name: str, tensor: Tensor) -> None:
    """Appends an output with its elements in `contents`."""
    output = response.outputs.add(name=name, datatype=tensor.datatype, shape=tensor.shape)
    field = getattr(output.contents, CONTENTS[tensor.datatype])
    if tensor.datatype == "BYTES":
        count = math.prod(tensor.shape)
        field.extend(bytes(element) for element in split_bytes(tensor.data, count, name))
    else:
        field.extend(tensor.array.ravel().tolist())

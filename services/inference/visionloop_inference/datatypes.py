"""The datatypes of the Open Inference Protocol, and tensors as they travel through the service.

A tensor stays the bytes it came as, from the request to the runner: raw, little-endian, row major.
Elements of BYTES are a 4-byte length each, followed by so many bytes; no other datatype varies in
size. numpy has no bfloat16, so BF16 is carried as the 16 bits that it is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Buffer: TypeAlias = bytes | bytearray | memoryview
Arrays: TypeAlias = list[NDArray[Any]]  # inputs or outputs, in the signature's order


@dataclass(frozen=True, slots=True)
class Datatype:
    """One datatype under its three names."""

    name: str  # the protocol's
    numpy: np.dtype[Any]  # of the elements; of the bits for BF16; object for BYTES
    size: int  # bytes of an element; 0 for BYTES
    onnx: str  # the element type in onnxruntime's words, as "float" in tensor(float)


_NAMES = (
    ("BOOL", np.bool_, "bool"),
    ("UINT8", np.uint8, "uint8"),
    ("UINT16", np.uint16, "uint16"),
    ("UINT32", np.uint32, "uint32"),
    ("UINT64", np.uint64, "uint64"),
    ("INT8", np.int8, "int8"),
    ("INT16", np.int16, "int16"),
    ("INT32", np.int32, "int32"),
    ("INT64", np.int64, "int64"),
    ("FP16", np.float16, "float16"),
    ("FP32", np.float32, "float"),
    ("FP64", np.float64, "double"),
    ("BF16", np.uint16, "bfloat16"),
)
DATATYPES: dict[str, Datatype] = {
    name: Datatype(name, np.dtype(kind), np.dtype(kind).itemsize, onnx)
    for name, kind, onnx in _NAMES
} | {"BYTES": Datatype("BYTES", np.dtype(object), 0, "string")}


@dataclass(slots=True)
class Tensor:
    """`data` holds the elements raw; its length fits `shape` unless the datatype is BYTES."""

    datatype: str
    shape: tuple[int, ...]
    data: Buffer

    @property
    def array(self) -> NDArray[Any]:
        """A read-only view. Not for BYTES, whose elements vary in size."""
        return np.frombuffer(self.data, DATATYPES[self.datatype].numpy).reshape(self.shape)


@dataclass(slots=True)
class Answer:
    """The outputs of one job by name, and what went wrong with single rows of it.

    The numbers of a failed row are NaN where the datatype has it, else 0.
    """

    outputs: dict[str, Tensor]
    failures: dict[int, str] = field(default_factory=dict)


def byte_size(datatype: str, shape: Sequence[int]) -> int:
    """Bytes of a tensor of this shape; 0 for BYTES, which nobody knows beforehand."""
    return DATATYPES[datatype].size * math.prod(shape)


def is_finite(array: NDArray[Any]) -> bool:
    """Whether it holds neither NaN nor infinity; what is no float holds none."""
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())

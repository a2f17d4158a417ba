"""Runs of graphs with bfloat16 inputs or outputs.

numpy has no such type, so these tensors go through onnxruntime's own values, made from their bits
and read by hand. Price: one more copy each way.
"""

import ctypes
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

_BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16


class Named(Protocol):
    """An input or output: its name, and its datatype as the protocol calls it."""

    @property
    def name(self) -> str: ...
    @property
    def datatype(self) -> str: ...


def run_by_value(
    session: onnxruntime.InferenceSession,
    inputs: Sequence[Named],
    outputs: Sequence[Named],
    arrays: Mapping[str, NDArray[Any]],
    options: onnxruntime.RunOptions | None = None,
) -> list[NDArray[Any]]:
    """The outputs in order; BF16 is bits (uint16), going in and coming out.

    Raises whatever onnxruntime raises.
    """
    values = {spec.name: _value(arrays[spec.name], spec.datatype) for spec in inputs}
    found = session.run_with_ort_values([spec.name for spec in outputs], values, options)
    return [_array(value, spec.datatype) for spec, value in zip(outputs, found, strict=True)]


def _value(array: NDArray[Any], datatype: str) -> onnxruntime.OrtValue:
    if datatype == "BF16":
        bits = np.ascontiguousarray(array)
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, _BFLOAT16)
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def _array(value: onnxruntime.OrtValue, datatype: str) -> NDArray[Any]:
    if datatype != "BF16":
        found: NDArray[Any] = value.numpy()
        return found
    shape = value.shape()
    bits = np.zeros(math.prod(shape), np.uint16)
    if bits.size:  # an empty tensor has no memory
        ctypes.memmove(bits.ctypes.data, value.data_ptr(), bits.nbytes)
    return bits.reshape(shape)

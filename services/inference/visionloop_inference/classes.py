"""The classification extension: an output as its best classes, "value:index:label" each.

For clients that want to read an answer, not compute with it: the texts cost some 2 us each.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visionloop_inference import bfloat16
from visionloop_inference.datatypes import Tensor
from visionloop_inference.tensors import joined_bytes


def classified(tensor: Tensor, classes: int, labels: Sequence[str], *, batched: bool) -> Tensor:
    """The largest `classes` elements of each row as BYTES "value:index" or "value:index:label".

    (rows, classes) for a batched model, else (classes,); fewer where a row has fewer elements. Of
    equal values the one with the lower index comes first, NaN comes last.
    """
    count = tensor.shape[0] if batched else 1
    rows = numbers(tensor).reshape(count, math.prod(tensor.shape) // count)  # (rows, elements)
    kept = min(classes, rows.shape[1])
    texts = [_text(row[i], int(i), labels) for row in rows for i in _best(row, kept)]
    shape = (len(rows), kept) if batched else (kept,)
    return Tensor("BYTES", shape, joined_bytes(texts))


def numbers(tensor: Tensor) -> NDArray[Any]:
    """The elements of a tensor of numbers; BF16 as float32."""
    if tensor.datatype != "BF16":
        return tensor.array
    return bfloat16.as_float32(tensor.array)


def _best(row: NDArray[Any], count: int) -> NDArray[np.intp]:
    """The indices of the `count` largest elements, by falling value; of equals the first first.

    Only what can be among them is sorted: outputs may have millions of elements.
    """
    # Both fall where the values rise; the negative of an integer may not be one. NaN comes last.
    key = -row if row.dtype.kind == "f" else ~row
    candidates = np.arange(len(row))
    if 0 < count < len(row):
        worst = np.partition(key, count - 1)[count - 1]
        candidates = candidates if worst != worst else np.flatnonzero(key <= worst)
    order: NDArray[np.intp] = candidates[np.argsort(key[candidates], kind="stable")]
    return order[:count]


def _text(value: Any, index: int, labels: Sequence[str]) -> bytes:
    number = f"{float(value):f}" if value.dtype.kind == "f" else str(int(value))
    label = f":{labels[index]}" if index < len(labels) else ""
    return f"{number}:{index}{label}".encode()

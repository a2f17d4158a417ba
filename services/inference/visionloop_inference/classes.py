"""The classification extension: an output as its best classes, "value:index:label" each.

For clients that want to read an answer, not compute with it: the texts cost some 2 us each.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visionloop_inference.datatypes import Tensor
from visionloop_inference.tensors import joined_bytes


def classified(tensor: Tensor, classes: int, labels: Sequence[str], *, batched: bool) -> Tensor:
    """The largest `classes` elements of each row as BYTES "value:index" or "value:index:label".

    (rows, classes) for a batched model, else (classes,); fewer where a row has fewer elements. Of
    equal values the one with the lower index comes first, NaN comes last.
    """
    values = numbers(tensor)
    rows = values.reshape(tensor.shape[0] if batched else 1, -1)  # (rows, elements)
    kept = min(classes, rows.shape[1])
    order = _descending(rows)[:, :kept]
    texts = [
        _text(row[index], int(index), labels)
        for row, best in zip(rows, order, strict=True)
        for index in best
    ]
    shape = (len(rows), kept) if batched else (kept,)
    return Tensor("BYTES", shape, joined_bytes(texts))


def numbers(tensor: Tensor) -> NDArray[Any]:
    """The elements of a tensor of numbers; BF16 as float32."""
    if tensor.datatype != "BF16":
        return tensor.array
    return (tensor.array.astype(np.uint32) << 16).view(np.float32)


def _descending(rows: NDArray[Any]) -> NDArray[np.intp]:
    """The indices of each row by falling value; of equals the first comes first."""
    if rows.dtype.kind == "f":
        return np.argsort(-rows, axis=1, kind="stable")  # which puts NaN last
    # The negative of an integer may not be one, so these are sorted from the back.
    backwards: NDArray[np.intp] = np.argsort(rows[:, ::-1], axis=1, kind="stable")
    descending: NDArray[np.intp] = (rows.shape[1] - 1 - backwards)[:, ::-1]
    return descending


def _text(value: Any, index: int, labels: Sequence[str]) -> bytes:
    number = f"{float(value):f}" if value.dtype.kind == "f" else str(int(value))
    label = f":{labels[index]}" if index < len(labels) else ""
    return f"{number}:{index}{label}".encode()

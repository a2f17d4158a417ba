"""The classification extension: an output as its best classes, "value:index:label" each.

For clients that want to read an answer, not compute with it: the texts cost some 0.5 us each, so
many of them are made in several turns of the event loop, and other callers wait for one at most.
"""

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visionloop_inference import bfloat16
from visionloop_inference.datatypes import Tensor
from visionloop_inference.tensors import joined_bytes

TURN = 2_000  # texts in one turn of the event loop


def endings(labels: Sequence[str]) -> list[bytes]:
    """What stands behind the values of a row's elements, where they have these labels."""
    return [f":{index}:{label}".encode() for index, label in enumerate(labels)]


async def classified(
    tensor: Tensor, classes: int, endings: Sequence[bytes], *, batched: bool
) -> Tensor:
    """The largest `classes` elements of each row as BYTES "value:index" or, where `endings` has
    one for it, "value:index:label".

    (rows, classes) for a batched model, else (classes,); fewer where a row has fewer elements. Of
    equal values the one with the lower index comes first, NaN comes last.
    """
    count = tensor.shape[0] if batched else 1
    rows = numbers(tensor).reshape(count, math.prod(tensor.shape) // count)  # (rows, elements)
    kept = min(classes, rows.shape[1])
    told: list[bytes] = []  # the raw form of each row's texts
    made = 0  # texts in this turn
    for row in rows:
        told.append(_told(row, _best(row, kept), endings))
        made += kept
        if made >= TURN:
            await asyncio.sleep(0)
            made = 0
    shape = (len(rows), kept) if batched else (kept,)
    return Tensor("BYTES", shape, b"".join(told))


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


def _told(row: NDArray[Any], indices: NDArray[np.intp], endings: Sequence[bytes]) -> bytes:
    """The texts of these elements of a row, raw. Numbers are formatted all at once: one by one
    takes four times as long."""
    form = b"%f" if row.dtype.kind == "f" else b"%d"
    numbers = (b" ".join([form] * len(indices)) % tuple(row[indices].tolist())).split(b" ")
    known = len(endings)
    return joined_bytes(
        [
            number + (endings[index] if index < known else b":%d" % index)
            for number, index in zip(numbers, indices.tolist(), strict=False)  # one, b"", of none
        ]
    )

"""Encoded bytes to the row that a graph takes: the one function that threads and processes call,
and rows to the tensor of a request."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from visionloop.images import Limits
from visionloop.preprocessing import Preprocessing
from visionloop_inference.datatypes import Buffer, Tensor


@dataclass(frozen=True, slots=True)
class Decoded:
    """One image, ready for the graph."""

    row: NDArray[np.uint8]  # (height, width, 3) of the graph's input
    width: int  # of the source, oriented
    height: int
    sha256: str  # of the encoded bytes, 64 hex digits


def decode(data: Buffer, preprocessing: Preprocessing, limits: Limits) -> tuple[Decoded, float]:
    """One image, and the seconds that it took. Raises ImageError."""
    start = perf_counter()
    data = bytes(data)  # of a view a copy, for as long as the image is being decoded
    header, row = preprocessing.of_file(data, limits)
    decoded = Decoded(row, header.width, header.height, hashlib.sha256(data).hexdigest())
    return decoded, perf_counter() - start


def stacked(rows: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Rows of (height, width, 3) as one tensor (rows, height, width, 3); a single one is not
    copied."""
    pixels = rows[0][np.newaxis] if len(rows) == 1 else np.stack(rows)
    return Tensor("UINT8", pixels.shape, np.ascontiguousarray(pixels).reshape(-1).data)

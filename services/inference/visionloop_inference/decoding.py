"""Encoded bytes to the row that a graph takes: the one function that threads and processes call."""

import hashlib
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from visionloop import images
from visionloop.images import Limits
from visionloop.preprocessing import Preprocessing


@dataclass(frozen=True, slots=True)
class Decoded:
    """One image, ready for the graph."""

    row: NDArray[np.uint8]  # (height, width, 3) of the graph's input
    width: int  # of the source, oriented
    height: int
    sha256: str  # of the encoded bytes, 64 hex digits


def decode(data: bytes, preprocessing: Preprocessing, limits: Limits) -> tuple[Decoded, float]:
    """One image, and the seconds that it took. Raises ImageError."""
    start = perf_counter()
    _, picture = images.decode_picture(data, limits)
    row = preprocessing.of_picture(picture)
    decoded = Decoded(row, picture.width, picture.height, hashlib.sha256(data).hexdigest())
    return decoded, perf_counter() - start

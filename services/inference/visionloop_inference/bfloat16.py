"""bfloat16, which numpy lacks: carried as 16 bits (uint16), the upper half of a float32."""

import numpy as np
from numpy.typing import NDArray

ONE = 0x3F80
HALF = 0x3F00
NAN = 0x7FC0


def as_float32(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The numbers that these bits are, in the same shape."""
    return (bits.astype(np.uint32) << 16).view(np.float32)

"""BYTES tensors to and from onnxruntime's strings.

On the wire an element is a 4-byte little-endian length and so many bytes. ONNX strings are UTF-8,
and onnxruntime's Python interface takes nothing else, so other bytes are refused by name and place
rather than changed. Price: a copy of every element each way.
"""

import struct
from typing import Any

from numpy.typing import NDArray

from visionloop.errors import InvalidInputError

_LENGTH = struct.Struct("<I")


def read_strings(name: str, data: memoryview) -> list[str]:
    """The elements of a raw BYTES tensor. Raises InvalidInputError; `name` is for its words."""
    found: list[str] = []
    at, end = 0, len(data)
    while at < end:
        if end - at < _LENGTH.size:
            raise InvalidInputError(
                f"input {name!r} ends within the length of element {len(found)}", field=name
            )
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if length > end - at:
            raise InvalidInputError(
                f"element {len(found)} of input {name!r} is to have {length} bytes; "
                f"{end - at} are left",
                field=name,
            )
        try:
            found.append(str(data[at : at + length], "utf-8"))
        except UnicodeDecodeError as error:
            raise InvalidInputError(
                f"element {len(found)} of input {name!r} is not UTF-8 (byte {error.start}); the "
                "graph takes text only",
                field=name,
            ) from error
        at += length
    return found


def write_strings(array: NDArray[Any]) -> bytes:
    """The raw form of an array of str."""
    parts: list[bytes] = []
    for element in array.reshape(-1):
        data = element.encode()
        parts += (_LENGTH.pack(len(data)), data)
    return b"".join(parts)

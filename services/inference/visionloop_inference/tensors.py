"""Open Inference Protocol tensors to and from arrays, by the protocol's exact rules.

Tensors come raw (`raw_input_contents`, one entry for each input, in order, little-endian, row
major) or typed (`contents`, one field per datatype); never both in one request. BYTES elements are
raw as a 4-byte length followed by the bytes. Raw pixels are viewed, not copied.
"""

import math
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visionloop.bundle import TensorInput
from visionloop.errors import InvalidInputError
from visionloop.proto.inference import open_inference_pb2 as pb
from visionloop_inference.admission import check_count

InputTensor = pb.ModelInferRequest.InferInputTensor


def pixels_of(request: pb.ModelInferRequest, spec: TensorInput, max_rows: int) -> NDArray[np.uint8]:
    """The UINT8 input as (n, height, width, 3), read-only where it came raw.

    Raises InvalidInputError for a shape or content that does not fit.
    """
    tensor = request.inputs[0]
    shape = list(tensor.shape)
    wanted = [spec.height, spec.width, 3]
    if len(shape) != 4 or shape[1:] != wanted or shape[0] < 1:
        raise InvalidInputError(
            f"input {tensor.name!r} has the shape {shape}; it must be [n, "
            f"{', '.join(map(str, wanted))}] with n of at least 1",
            field="inputs[0].shape",
        )
    check_count(shape[0], max_rows, f"rows of {spec.name}")
    count = math.prod(shape)
    if request.raw_input_contents:
        return np.frombuffer(_raw(request, tensor, count), np.uint8).reshape(shape)
    values = _typed(tensor, "uint_contents")
    _check_count(tensor, len(values), count, "values in contents.uint_contents")
    array = np.asarray(values, dtype=np.uint32)
    if int(array.max()) > 255:
        raise InvalidInputError(
            f"input {tensor.name!r} holds the value {int(array.max())}; UINT8 ends at 255",
            field="inputs[0].contents",
        )
    return array.astype(np.uint8).reshape(shape)


def encoded_images_of(request: pb.ModelInferRequest, max_rows: int) -> list[bytes]:
    """The elements of a BYTES input of shape [n] or [n, 1]: encoded images.

    Raises InvalidInputError for a shape or content that does not fit.
    """
    tensor = request.inputs[0]
    shape = list(tensor.shape)
    if len(shape) not in (1, 2) or shape[0] < 1 or shape[1:] not in ([], [1]):
        raise InvalidInputError(
            f"input {tensor.name!r} of BYTES has the shape {shape}; it must be [n] or [n, 1]",
            field="inputs[0].shape",
        )
    check_count(shape[0], max_rows, f"rows of {tensor.name}")
    if request.raw_input_contents:
        elements = split_bytes(_raw(request, tensor, None), shape[0])
        _check_count(tensor, len(elements), shape[0], "elements")
        return elements
    values = _typed(tensor, "bytes_contents")
    _check_count(tensor, len(values), shape[0], "elements")
    return list(values)


def split_bytes(raw: bytes, count: int) -> list[bytes]:
    """Raw BYTES content into its elements, at most `count`.

    Raises InvalidInputError where a length overruns, or at the first byte too many: a message of
    zeros would be millions of empty elements, and would hold up the event loop for seconds.
    """
    elements: list[bytes] = []
    place = 0
    while place < len(raw):
        if len(elements) == count:
            raise InvalidInputError(
                f"raw_input_contents[0]: {len(raw) - place} bytes are left after the {count} "
                "elements that the shape says",
                field="raw_input_contents",
            )
        start = place + 4
        length = struct.unpack_from("<I", raw, place)[0] if start <= len(raw) else len(raw)
        if start + length > len(raw):
            raise InvalidInputError(
                f"raw_input_contents[0]: element {len(elements)} needs more bytes than are left; "
                "each element is a 4-byte little-endian length and so many bytes",
                field="raw_input_contents",
            )
        elements.append(raw[start : start + length])
        place = start + length
    return elements


def check_input(request: pb.ModelInferRequest, spec: TensorInput) -> str:
    """The datatype of the one input: "UINT8" (pixels) or "BYTES" (encoded images)."""
    names = [tensor.name for tensor in request.inputs]
    if names != [spec.name]:
        raise InvalidInputError(
            f"inputs are {names}; the model takes one, {spec.name!r}", field="inputs"
        )
    tensor = request.inputs[0]
    for parameter in tensor.parameters:
        if parameter.startswith("shared_memory"):
            raise InvalidInputError(
                f"input {tensor.name!r} asks for shared memory, which this server does not offer",
                field="inputs[0].parameters",
            )
    if tensor.datatype not in ("UINT8", "BYTES"):
        raise InvalidInputError(
            f"input {tensor.name!r} has the datatype {tensor.datatype!r}; it must be UINT8 "
            f"(pixels, [n, {spec.height}, {spec.width}, 3]) or BYTES (encoded images, [n])",
            field="inputs[0].datatype",
        )
    if request.raw_input_contents and tensor.HasField("contents"):
        raise InvalidInputError(
            f"input {tensor.name!r} has contents, and raw_input_contents is given too; use one",
            field="inputs[0].contents",
        )
    return str(tensor.datatype)


def add_output(
    response: pb.ModelInferResponse, name: str, values: NDArray[np.float32], *, raw: bool
) -> None:
    """Appends an FP32 output, raw or typed."""
    output = response.outputs.add(name=name, datatype="FP32", shape=values.shape)
    if raw:
        response.raw_output_contents.append(values.astype("<f4", copy=False).tobytes())
    else:
        output.contents.fp32_contents.extend(values.ravel().tolist())


def _raw(request: pb.ModelInferRequest, tensor: InputTensor, size: int | None) -> bytes:
    if len(request.raw_input_contents) != len(request.inputs):
        raise InvalidInputError(
            f"raw_input_contents has {len(request.raw_input_contents)} entries for "
            f"{len(request.inputs)} inputs; give one for each input",
            field="raw_input_contents",
        )
    raw: bytes = request.raw_input_contents[0]
    if size is not None:
        _check_count(tensor, len(raw), size, "bytes in raw_input_contents")
    return raw


def _typed(tensor: InputTensor, field: str) -> Any:
    filled = [found.name for found, _ in tensor.contents.ListFields()]
    if filled != [field]:
        raise InvalidInputError(
            f"input {tensor.name!r} of {tensor.datatype} has its contents in "
            f"{' and '.join(filled) or 'no field'}; they belong in {field} or, better, in "
            "raw_input_contents",
            field="inputs[0].contents",
        )
    return getattr(tensor.contents, field)


def _check_count(tensor: InputTensor, found: int, wanted: int, what: str) -> None:
    if found != wanted:
        raise InvalidInputError(
            f"input {tensor.name!r} has {found} {what}; its shape {list(tensor.shape)} needs "
            f"{wanted}",
            field="inputs[0]",
        )

"""What goes over a link to a decoder, in the terms of `wire`: a job is one encoded image.

To `wire` a decoder is a model without a batch dimension: it takes the encoded bytes and the JSON of
a `Preprocessing`, and gives a row and what was seen of the image. The row's size follows from the
preprocessing, so who asks reserves its space in the arena (`room`). An image that is refused comes
back as REFUSED for the reason IMAGE.

The last 8 bytes of the arena's header page are the id of the job that the decoder took up last, in
the machine's byte order. They are written before the decoder looks at the image, and they outlive
it: of the jobs that it left unanswered, the front end tells the one that may have killed it from
those that nobody had begun.
"""

import struct

import numpy as np
from numpy.typing import NDArray

from visionloop.signature import FREE, Signature, TensorSpec
from visionloop_inference.datatypes import Answer, Arrays, Buffer, Tensor
from visionloop_inference.decoding import Decoded
from visionloop_inference.rows import HEADER, aligned

SIGNATURE = Signature(
    inputs=(
        TensorSpec(name="image", datatype="UINT8", shape=[FREE]),
        TensorSpec(name="steps", datatype="UINT8", shape=[FREE]),
    ),
    outputs=(
        TensorSpec(name="row", datatype="UINT8", shape=[FREE, FREE, 3]),
        TensorSpec(name="size", datatype="INT64", shape=[2]),  # width, height of the source
        TensorSpec(name="sha256", datatype="UINT8", shape=[32]),
        TensorSpec(name="seconds", datatype="FP64", shape=[1]),
    ),
    batched=False,
)
_BESIDE = 16, 32, 8  # bytes of the outputs beside the row
_BEGUN = struct.Struct("@Q")


def inputs(image: Buffer, steps: bytes) -> list[Tensor]:
    """An encoded image and its preprocessing, as JSON."""
    return [Tensor("UINT8", (len(image),), image), Tensor("UINT8", (len(steps),), steps)]


def room(height: int, width: int) -> int:
    """Bytes of the outputs in an arena, for a row of (height, width, 3)."""
    return sum(map(aligned, (3 * height * width, *_BESIDE)))


def needed(image: Buffer, steps: bytes, room: int) -> int:
    """Bytes that a job takes of an arena, inputs and outputs."""
    return aligned(len(image)) + aligned(len(steps)) + room


def outputs(decoded: Decoded, seconds: float) -> Arrays:
    """A decoded image, in the signature's order."""
    return [
        decoded.row,
        np.array([decoded.width, decoded.height], np.int64),
        np.frombuffer(bytes.fromhex(decoded.sha256), np.uint8),
        np.array([seconds]),
    ]


def decoded(answer: Answer) -> tuple[Decoded, float]:
    """The image in an answer, and the seconds that it took. Its row is read-only."""
    found = answer.outputs
    row: NDArray[np.uint8] = found["row"].array
    width, height = map(int, found["size"].array)
    digest = bytes(found["sha256"].data).hex()
    return Decoded(row, width, height, digest), float(found["seconds"].array[0])


def begin(header: memoryview, job: int) -> None:
    """The decoder takes the job up."""
    _BEGUN.pack_into(header, HEADER - _BEGUN.size, job)


def begun(header: memoryview) -> int:
    """The job that was taken up last; 0: none was."""
    job: int = _BEGUN.unpack_from(header, HEADER - _BEGUN.size)[0]
    return job
